"""Dead letters on real Kafka: a worker that stops before it buries everything, and what can be done about what is buried."""

import json
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Message, Producer

from pipeline.breaker import EXIT_BREAKER
from pipeline.broker.ports import free_port
from pipeline.publishing import dead_letter
from pipeline.records import Record, headers_of
from pipeline.settings import Settings
from schemas.errors import DeadLetterType
from schemas.tasks import Technology
from tests.harness import media_headers, sample_audio
from tests.system import PATIENCE_S, System, http, open_system

pytestmark = pytest.mark.broker

VAD = Technology.VOICE_ACTIVITY_DETECTION.value
ONLY_VAD = json.dumps({"technologies": [VAD]})
CHUNK = 16_000
HOSTILE = (("x-own", b"\xff\x00\n"), ("x-own", b"twice"), ("stage", b"of its own"))


def settings_for(bootstrap: str, partitions: int) -> Settings:
    return Settings(broker=bootstrap, topic_prefix=f"t{uuid.uuid4().hex[:10]}.", partitions=partitions, language_model="tiny")


@pytest.fixture(scope="module")
def system(broker_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with open_system(settings_for(broker_bootstrap, 2), tmp_path_factory.mktemp("letters")) as opened:
        yield opened


def command(system: System, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = system.run("dead-letters", *arguments)
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return done


def lines(system: System, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    done = command(system, *arguments, "--json", code=code)
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def bury(system: System, record: Record, error_type: DeadLetterType = DeadLetterType.ENCODING_UNKNOWN) -> str:
    """Bury a record as a worker does that knows less than this version; the place of its letter."""
    letter = dead_letter(record, "vad", error_type, "unheard of\n")
    return put(system, letter.key, letter.value, letter.headers)


def put(system: System, key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes], ...]) -> str:
    producer = Producer({"bootstrap.servers": system.settings.broker, "message.max.bytes": "4000000"})
    places: list[str] = []

    def note(error: Any, message: Message) -> None:
        assert error is None
        places.append(f"{message.partition()}/{message.offset()}")

    pairs: list[tuple[str, str | bytes | None]] = list(headers)
    producer.produce(system.settings.topic("dead-letters"), value, key, headers=pairs, on_delivery=note)
    assert producer.flush(30) == 0
    return places[0]


def record_of(
    system: System, topic: str, key: bytes, value: bytes | None, headers: tuple[tuple[str, bytes], ...] = ()
) -> Record:
    return Record(system.settings.topic(topic), 1, 7, key, value, headers, 0.0)


def wait_letters(system: System, count: int) -> list[Message]:
    give_up_s = time.monotonic() + PATIENCE_S
    while len(letters := system.read("dead-letters")) < count:
        assert time.monotonic() < give_up_s, system.logs()
        time.sleep(0.2)
    return letters


def test_a_worker_that_is_to_stay_holds_nothing_and_is_not_ready(broker_bootstrap: str, tmp_path: Path) -> None:
    """A container that ended would be started again, to bury as many again."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    with open_system(settings_for(broker_bootstrap, 1), tmp_path) as opened:
        for number in range(20):
            opened.produce("media", b"bad-%d" % number, b"\0\0")
        held = {"CALLSTREAM_DEAD_LETTER_LIMIT": "5", "CALLSTREAM_DEAD_LETTER_HOLD": "true", "CALLSTREAM_GRACE_PERIOD_S": "1"}
        worker = opened.start("worker", "--agents", "vad", CALLSTREAM_WORKER_PORT=str(port), **held)
        give_up_s = time.monotonic() + PATIENCE_S
        while "does nothing more" not in opened.logs():
            assert time.monotonic() < give_up_s, opened.logs()
            time.sleep(0.1)
        time.sleep(8)  # longer than a worker may take to end
        assert [http("GET", f"{url}/{path}")[0] for path in ("health", "ready")] == [200, 503]
        wait_letters(opened, 5)
        after = opened.start("worker", "--agents", "vad", CALLSTREAM_DEAD_LETTER_LIMIT="0")  # it gets the partition
        wait_letters(opened, 20)
        assert after.terminate() == 0
        assert worker.poll() is None
        assert worker.terminate() == EXIT_BREAKER


def test_a_worker_stops_before_it_buries_a_whole_topic(broker_bootstrap: str, tmp_path: Path) -> None:
    bad = [b"bad-%d" % number for number in range(20)]
    with open_system(settings_for(broker_bootstrap, 1), tmp_path) as opened:
        for key in bad:
            opened.produce("media", key, b"\0\0")
        worker = opened.start("worker", "--agents", "vad,gender", CALLSTREAM_DEAD_LETTER_LIMIT="5")
        assert worker.wait(PATIENCE_S) == EXIT_BREAKER, opened.logs()
        assert sorted(message.key() or b"" for message in opened.read("dead-letters")) == bad[:5]
        assert opened.committed("vad", "media") == {0: 5}
        [line] = [line for line in worker.log.read_text().splitlines() if "CRITICAL" in line]
        for words in ("agent vad stops", "5 of the last 5", "header.missing", "media/0/5 ", "dead-letters replay"):
            assert words in line

        after = opened.start("worker", "--agents", "vad", CALLSTREAM_DEAD_LETTER_LIMIT="0")
        assert {message.key() for message in wait_letters(opened, 20)} == set(bad), "none was lost"
        assert [letter["source"] for letter in opened.dead_letters(b"bad-5")] == [opened.settings.topic("media/0/5")]

        [replayed] = lines(opened, "replay", "--call", "bad-3")
        assert replayed["target"] == opened.settings.topic("media/0/20")
        assert wait_letters(opened, 21)[20].key() == b"bad-3"
        older, newer = lines(opened, "list", "--call", "bad-3")
        assert (newer["place"], newer["replay_of"]) == ("0/20", older["place"])
        first, second = lines(opened, "replay", "--call", "bad-3", "--dry-run")
        assert (first["place"], first["status"]) == (older["place"], "superseded")
        assert (second["place"], second["status"]) == ("0/20", "would be replayed")
        assert after.terminate() == 0
        assert len(opened.read("media")) == 21


def test_letters_are_listed_and_shown(system: System, tmp_path: Path) -> None:
    since = lines(system, "list")
    assert since == []
    place = bury(system, record_of(system, "media", b"hostile\xff\n", b"\xff\x00audio", HOSTILE))
    text = bury(system, record_of(system, "requests", b"request", b'{"a": 1}'), DeadLetterType.REQUEST_INVALID)
    listed = {line["place"]: line for line in lines(system, "list", "--since", "10m")}
    assert listed[place]["key"] == "hostile\\xff\\n"
    assert listed[place]["source"] == system.settings.topic("media/1/7")
    assert listed[text]["size"] == 8
    done = command(system, "list", "--error-type", "request.invalid", "--topic", "requests", "--limit", "5")
    [line] = done.stdout.splitlines()
    for words in (text, "request.invalid", "vad", "  request  ", "requests/1/7", "8 B"):
        assert words in line
    assert done.stderr.split() == ["1", "request.invalid", "1", "dead", "letters"]
    assert '{"a": 1}' in command(system, "show", text).stdout
    shown = command(system, "show", place, "--value", str(tmp_path / "value")).stdout
    assert "value: 7 bytes, sha256 " in shown
    assert "header x-own: \\xff\\x00\\n" in shown
    assert (tmp_path / "value").read_bytes() == b"\xff\x00audio"
    assert json.loads(command(system, "show", place, "--json").stdout)["value"] is None
    assert "no dead letter 1/999" in command(system, "show", "1/999", code=1).stderr


def test_what_is_replayed_is_the_record_that_was_buried(system: System) -> None:
    large = b"\xff" + bytes(1_900_000)
    buried = [
        record_of(system, "media", b"one", b"\xff\x00audio", HOSTILE),
        record_of(system, "media", b"two", None, headers_of(media_headers(0))),
        record_of(system, "prints", b"three", b"print", (("source", b"speech/1/3"),)),
        record_of(system, "media", b"four", large),
    ]
    places = [bury(system, record) for record in buried]
    outcomes = lines(system, "replay", *places)
    assert {outcome["status"] for outcome in outcomes} == {"replayed"}
    assert [outcome["place"] for outcome in outcomes] == sorted(places, key=lambda place: [*map(int, place.split("/"))])
    found = {message.key(): message for topic in ("media", "prints") for message in system.read(topic)}
    for record, place in zip(buried, places, strict=True):
        message = found[record.key]
        assert (message.value(), message.partition()) == (record.value, 1)
        assert message.headers() == [*record.headers, ("replay-of", place.encode())]


def test_what_cannot_be_replayed_is_skipped_with_a_reason(system: System) -> None:
    topic = system.settings.topic("media")
    skipped = {
        put(system, b"skip", b"\0", ()): "no source",
        put(system, b"skip", b"\0", (("source", b"\xff/1/2"),)): "no source",
        put(system, b"skip", b"\0", (("source", b"other.media/1/2"),)): "no topic to replay to",
        put(system, b"skip", b"\0", (("source", system.settings.topic("results/0/1").encode()),)): "no topic to replay to",
        put(system, b"skip", b"\0", (("source", f"{topic}/2/1".encode()),)): "no partition 2",
        put(system, b"skip", None, (("source", f"{topic}/0/1".encode()), ("value-left-out", b"40000000 bytes"))): "40000000",
    }
    good = bury(system, record_of(system, "media", b"skip", b"\0"))
    before = len(system.read("media"))
    planned = {line["place"]: line for line in lines(system, "replay", "--call", "skip", "--dry-run", code=1)}
    assert len(system.read("media")) == before
    outcomes = {line["place"]: line for line in lines(system, "replay", "--call", "skip", code=1)}
    assert planned.keys() == outcomes.keys() == {*skipped, good}
    for place, words in skipped.items():
        assert words in outcomes[place]["reason"]
    assert outcomes[good]["status"] == "replayed"
    assert len(system.read("media")) == before + 1
    [gone] = lines(system, "replay", "0/999", code=1)
    assert gone["reason"] == "there is no such dead letter"


def test_a_call_that_an_older_worker_did_not_understand_succeeds_when_it_is_replayed(system: System) -> None:
    audio = sample_audio(0, 6)
    starts = range(0, len(audio), CHUNK)
    for number, start in enumerate(starts):
        headers = media_headers(number, position=start, end=number == len(starts) - 1)
        headers |= {"options": ONLY_VAD} if number == 0 else {}
        chunk = audio[start : start + CHUNK]
        system.produce("media", b"understood", chunk, headers)
        bury(system, record_of(system, "media", b"not-understood", chunk, headers_of(headers)))
    system.start("worker", "--agents", "vad")
    expected = system.wait_final("understood", {VAD})[VAD]
    assert system.transitions("not-understood") == {}
    assert {line["status"] for line in lines(system, "replay", "--call", "not-understood")} == {"replayed"}
    found = system.wait_final("not-understood", {VAD})[VAD]
    assert found["task"]["state"] == "done"
    assert found["result"] == expected["result"]
    assert len(system.dead_letters(b"not-understood")) == len(starts), "nothing of it dies again"


def test_without_topics_there_is_one_line_that_says_so(broker_bootstrap: str, tmp_path: Path) -> None:
    bare = System(settings_for(broker_bootstrap, 1), tmp_path)
    for arguments in (["list"], ["show", "0/0"], ["replay", "--all"]):
        done = command(bare, *arguments, code=1)
        assert len(done.stderr.splitlines()) == 1
        assert "callstream topics" in done.stderr
