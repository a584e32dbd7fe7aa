"""The whole product on real Kafka: every technology, every final state, and what happens when a worker is killed."""

import json
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka import Producer

from pipeline.sample import sample_path
from pipeline.settings import Settings
from schemas.stream import CallBegin, Utterance
from schemas.tasks import Technology, call_task_id
from tests.harness import media_headers, sample_audio
from tests.system import Process, System, http, open_system, wait_answer, wait_url

pytestmark = pytest.mark.broker

VAD = Technology.VOICE_ACTIVITY_DETECTION.value
VOICEPRINT = Technology.VOICEPRINT_EXTRACTION.value
LANGUAGE = Technology.LANGUAGE_IDENTIFICATION.value
GENDER = Technology.GENDER_IDENTIFICATION.value
COMPARISON = Technology.VOICEPRINT_COMPARISON.value
ALL = {VAD, VOICEPRINT, LANGUAGE, GENDER}
CHUNK = 16_000  # half a second


def settings_for(bootstrap: str, idle_timeout_s: float = 60.0) -> Settings:
    return Settings(
        broker=bootstrap,
        topic_prefix=f"t{uuid.uuid4().hex[:10]}.",
        partitions=2,
        language_model="tiny",
        idle_timeout_s=idle_timeout_s,
        session_timeout_s=6.0,
    )


@pytest.fixture(scope="module")
def system(broker_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One worker of all agents, shared by the tests that leave it alone."""
    with open_system(settings_for(broker_bootstrap, idle_timeout_s=4.0), tmp_path_factory.mktemp("system")) as opened:
        opened.start("worker")
        yield opened


@pytest.fixture(scope="module")
def query_url(system: System) -> str:
    return wait_url(system.start("query", "--port", "0"))


def send_call(system: System, call_id: str, audio: bytes, *, first: int = 0, end: bool = True) -> None:
    """Send a call in half seconds, from chunk `first` on."""
    starts = range(0, len(audio), CHUNK)
    for number, start in enumerate(starts):
        if number >= first:
            headers = media_headers(number, end=end and number == len(starts) - 1, position=start)
            system.produce("media", call_id.encode(), audio[start : start + CHUNK], headers)


def test_a_file_goes_in_and_every_answer_can_be_read_by_task_id(system: System, query_url: str) -> None:
    sent = json.loads(system.run("send", str(sample_path()), "--call-id", "whole", "--encoding", "mulaw", "--json").stdout)
    assert sent["tasks"] == {technology: call_task_id("whole", Technology(technology)) for technology in ALL}
    watched = system.run("watch", "--call-id", "whole", "--json")
    assert watched.returncode == 0, watched.stderr
    states: dict[str, list[tuple[int, str]]] = {}
    for line in watched.stdout.splitlines():
        body = json.loads(line)
        states.setdefault(body["technology"], []).append((body["revision"], body["task"]["state"]))
    assert states.keys() == ALL
    for transitions in states.values():
        assert [revision for revision, _ in transitions] == list(range(len(transitions)))
        assert [state for _, state in transitions] == ["pending"] + ["running"] * (len(transitions) - 2) + ["done"]
    for technology, task_id in sent["tasks"].items():
        body = wait_answer(query_url, technology, task_id)
        assert body["task"] == {"task_id": task_id, "state": "done"}
        assert len(body["result"]["channels"]) == 2
    headers = dict(system.read("results")[0].headers() or [])
    assert headers["content-type"] == b"application/json"
    assert headers["x-correlation-id"]
    assert str(headers["source"]).count("/") == 2


def test_sending_to_a_broker_without_topics_says_how_to_make_them(broker_bootstrap: str, tmp_path: Path) -> None:
    done = System(settings_for(broker_bootstrap), tmp_path).run("send", str(sample_path()))
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "callstream topics" in done.stderr


def test_voiceprints_of_a_call_can_be_compared_and_sexed_over_http(system: System, query_url: str) -> None:
    send_call(system, "voices", sample_audio(0, 25))
    voiceprints = [channel["voiceprint"] for channel in system.wait_final("voices", ALL)[VOICEPRINT]["result"]["channels"]]
    scores = _post(query_url, COMPARISON, {"voiceprints_a": voiceprints, "voiceprints_b": voiceprints[:1]})["scores"]
    assert (scores["columns_count"], scores["rows_count"]) == (2, 1)
    assert scores["values"][0] > 0 > scores["values"][1]
    genders = _post(query_url, GENDER, {"voiceprints": voiceprints})["voiceprints"]
    called = system.wait_final("voices", ALL)[GENDER]["result"]["channels"]
    assert [one["male"] for one in genders] == [channel["male"] for channel in called]


def _post(url: str, technology: str, body: object) -> Any:
    status, headers, accepted = http("POST", f"{url}/api/technology/{technology}", body)
    assert (status, accepted["task"]["state"]) == (202, "pending")
    location = {name.lower(): value for name, value in headers.items()}["x-location"]
    give_up_s = time.monotonic() + 60
    while True:
        status, _, answer = http("GET", url + location)
        assert status == 200  # right after 202 too: a service reads its own writes
        if answer["task"]["state"] in ("done", "failed", "rejected"):
            assert answer["task"]["state"] == "done", answer
            return answer["result"]
        assert time.monotonic() < give_up_s
        time.sleep(0.05)


def test_a_request_from_kafka_keeps_its_key_and_its_correlation(system: System) -> None:
    task_id = str(uuid.uuid4())
    system.produce("requests", task_id.encode(), b'{"voiceprints": ["AAAA"]}', {"x-correlation-id": "mine"})
    last = system.wait_final(task_id, {GENDER})[GENDER]
    assert last["task"] == {"task_id": task_id, "state": "rejected"}
    assert last["error"]["type"] == "task.validation-error"
    record = next(message for message in system.read("results") if message.key() == task_id.encode())
    assert dict(record.headers() or [])["x-correlation-id"] == b"mine"


def test_bad_records_are_buried_and_the_calls_between_them_are_not_touched(system: System) -> None:
    audio = sample_audio(0, 6)
    send_call(system, "between", audio, end=False)
    system.produce("media", b"no-headers", b"\0\0")
    system.produce("media", b"too-large", bytes(1_500_000), media_headers(0))
    system.produce("media", b"bad-options", b"\0\0", media_headers(0, options="nonsense"))
    send_call(system, "between", audio, first=len(audio) // CHUNK - 1)
    assert system.wait_dead_letter(b"no-headers")["error-type"] == "header.missing"
    assert system.wait_dead_letter(b"too-large")["error-type"] == "chunk.too-large"
    letter = system.wait_dead_letter(b"bad-options")
    assert (letter["error-type"], letter["stage"], letter["options"]) == ("options.invalid", "vad", "nonsense")
    assert {body["task"]["state"] for body in system.wait_final("bad-options", ALL).values()} == {"rejected"}
    assert {body["task"]["state"] for body in system.wait_final("between", ALL).values()} == {"done"}


def test_a_record_that_no_dead_letter_can_hold_is_buried_without_what_it_carried(system: System) -> None:
    """Compressed it is 40 kB, so Kafka takes it."""
    options: dict[str, Any] = {"bootstrap.servers": system.settings.broker, "message.max.bytes": 60_000_000}
    producer = Producer(options | {"compression.type": "gzip"})
    pairs: list[tuple[str, str | bytes | None]] = [("filler", bytes(9_000_000))]
    producer.produce(system.settings.topic("media"), bytes(31 * 1_048_576), b"bomb", headers=pairs)
    assert producer.flush(30) == 0
    send_call(system, "behind", sample_audio(0, 2))
    letter = system.wait_dead_letter(b"bomb")
    assert (letter["error-type"], letter["value-left-out"]) == ("header.missing", f"{31 * 1_048_576} bytes")
    assert "filler" not in letter
    assert {body["task"]["state"] for body in system.wait_final("behind", ALL).values()} == {"done"}


def test_an_utterance_that_cannot_be_heard_fails_its_call(system: System) -> None:
    encoder = msgspec.msgpack.Encoder()
    system.run("send", str(sample_path()), "--call-id", "healthy")
    options = {"technologies": [VOICEPRINT, LANGUAGE, GENDER]}
    begin = CallBegin("broken", 1, msgspec.convert(options, type=_options_type()), "corr")
    system.produce("speech", b"broken", encoder.encode(begin))
    system.produce("speech", b"broken", encoder.encode(Utterance("broken", 0, 0, 8000, 8000, b"\0\0")))
    last = system.wait_final("broken", ALL - {VAD})
    assert {body["task"]["state"] for body in last.values()} == {"failed"}
    assert {body["error"]["type"] for body in last.values()} == {"internal"}
    assert system.wait_dead_letter(b"broken")["error-type"] == "internal"
    assert {body["task"]["state"] for body in system.wait_final("healthy", ALL).values()} == {"done"}


def _options_type() -> Any:
    return CallBegin.__annotations__["options"]


def test_a_call_that_never_ends_is_ended_after_the_idle_timeout(system: System) -> None:
    send_call(system, "endless", sample_audio(0, 3), end=False)
    assert {body["task"]["state"] for body in system.wait_final("endless", ALL).values()} == {"done"}


def test_a_lost_last_chunk_but_one_is_silence_and_the_call_ends(system: System) -> None:
    audio = sample_audio(0, 3)
    send_call(system, "gap", audio[: 4 * CHUNK], end=False)
    send_call(system, "gap", audio, first=5)
    for channel in system.wait_final("gap", ALL)[VAD]["result"]["channels"]:
        assert channel["missing"] == [{"start_time": 2.0, "end_time": 2.5}]


def test_a_call_is_compared_with_the_watch_list(broker_bootstrap: str, tmp_path: Path) -> None:
    with open_system(settings_for(broker_bootstrap), tmp_path) as opened:
        opened.start("worker")
        send_call(opened, "enrol", sample_audio(0, 25))
        channels = opened.wait_final("enrol", ALL)[VOICEPRINT]["result"]["channels"]
        opened.produce("watchlist", b"anna", json.dumps({"voiceprint": channels[0]["voiceprint"]}).encode())
        opened.produce("watchlist", b"gone", json.dumps({"voiceprint": channels[1]["voiceprint"]}).encode())
        opened.produce("watchlist", b"gone", None)
        opened.produce("watchlist", b"broken", b"not json")
        time.sleep(3)  # the list is followed, not awaited
        send_call(opened, "suspect", sample_audio(30, 55))
        result = opened.wait_final("suspect", ALL | {COMPARISON})[COMPARISON]["result"]
    assert result["references"] == ["watchlist/anna"]
    assert result["channels"] == [0, 1]
    assert result["scores"]["values"][0] > 0 > result["scores"]["values"][1]


def kill_9(opened: System, worker: Process) -> Process:
    """One worker, killed and started again, three times; each has partitions once the session of the one before has ended."""
    for _ in range(3):
        time.sleep(8)
        worker.kill()
        worker = opened.start("worker")
    return worker


def join_and_leave(opened: System, worker: Process) -> Process:
    """Workers that come and go in the middle of calls: every one of these is a rebalance."""
    for number in range(3):
        other = opened.start("worker")
        time.sleep(6)
        worker.kill() if number == 1 else worker.terminate()
        worker = other
    return worker


@pytest.mark.parametrize(("disturb", "batch"), [(kill_9, 1), (join_and_leave, 4)])
def test_what_happens_to_workers_changes_no_byte_of_the_results(
    broker_bootstrap: str, tmp_path: Path, disturb: Callable[[System, Process], Process], batch: int
) -> None:
    """Whoever shares a run of a model with whom: that differs too."""
    settings = msgspec.structs.replace(settings_for(broker_bootstrap), inference_batch=batch)
    audio = sample_audio(0, 40)
    calls = [f"call-{number}" for number in range(6)]
    finals = []
    for number, change in enumerate((None, disturb)):
        prefixed = msgspec.structs.replace(settings, topic_prefix=f"{settings.topic_prefix}{number}.")
        with open_system(prefixed, tmp_path / str(number)) as opened:
            worker = opened.start("worker")
            half = len(audio) // CHUNK // 2
            for call_id in calls:
                send_call(opened, call_id, audio[: half * CHUNK], end=False)
            if change is not None:
                worker = change(opened, worker)
            for call_id in calls:
                send_call(opened, call_id, audio, first=half)
            finals.append({call_id: opened.wait_final(call_id, ALL) for call_id in calls})
            for call_id in calls:
                _check_once_final(opened, call_id)
            assert opened.read("dead-letters") == []
            assert worker.terminate() == 0
            assert opened.committed("vad", "media") == _ends(opened, "media")
    assert finals[0] == finals[1]


def test_a_restart_does_not_begin_an_ended_call_anew(broker_bootstrap: str, tmp_path: Path) -> None:
    """Calls that overlap in a partition: the committed offset of the open one lies inside the ended one."""
    settings = msgspec.structs.replace(settings_for(broker_bootstrap), partitions=1)
    audio = sample_audio(0, 6)
    with open_system(settings, tmp_path) as opened:
        worker = opened.start("worker")
        send_call(opened, "ended", audio[: 6 * CHUNK], end=False)
        send_call(opened, "open", audio[:CHUNK], end=False)
        send_call(opened, "ended", audio, first=6)
        before = opened.wait_final("ended", ALL)
        worker.terminate()
        opened.start("worker")
        send_call(opened, "open", audio, first=1)
        opened.wait_final("open", ALL)
        assert opened.wait_final("ended", ALL) == before
        _check_once_final(opened, "ended")
        assert opened.read("dead-letters") == []


def _check_once_final(system: System, call_id: str) -> None:
    """No gap in revisions; a revision that comes again is the same; nothing follows that differs from the final state."""
    for records in system.transitions(call_id).values():
        by_revision: dict[int, dict[str, Any]] = {}
        for record in records:
            assert by_revision.setdefault(record["revision"], record) == record
        assert sorted(by_revision) == list(range(len(by_revision)))
        assert [n for n, record in by_revision.items() if record["task"]["state"] == "done"] == [len(by_revision) - 1]


def _ends(system: System, topic: str) -> dict[int, int]:
    counts: dict[int, int] = dict.fromkeys(range(system.settings.partitions), 0)
    for message in system.read(topic):
        partition, offset = message.partition(), message.offset()
        assert partition is not None
        assert offset is not None
        counts[partition] = max(counts[partition], offset + 1)
    return {partition: end or -1001 for partition, end in counts.items()}


def test_agents_in_processes_of_their_own_do_the_same_work(broker_bootstrap: str, tmp_path: Path) -> None:
    with open_system(settings_for(broker_bootstrap), tmp_path) as opened:
        for agents in ("vad", "extraction", "language,gender", "comparison"):
            opened.start("worker", "--agents", agents)
        send_call(opened, "split", sample_audio(0, 8))
        assert {body["task"]["state"] for body in opened.wait_final("split", ALL).values()} == {"done"}
