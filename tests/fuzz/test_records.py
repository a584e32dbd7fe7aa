"""Thousands of damaged records to the real stages, good calls in between: the good ones end as if they were alone.

Every bad record is in `dead-letters`, or is accounted for by a rule. CALLSTREAM_FUZZ scales how many (20,000 there are
5,000 here). A record that fails is named by its topic and number: `bad_record(topic, number)` of tests/fuzz/records.py is it.
"""

import collections
import contextlib
import io
import json
import os
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import soundfile
from aiokafka import AIOKafkaProducer, ConsumerRecord
from aiokafka.record.util import calc_crc32c

from agents.call_stage import CallStage
from agents.extraction import ExtractionStage
from pipeline.blobs import FOLDER_NAME, LocalBlobs, open_blobs
from pipeline.query.records import RecordInvalidError, read_change
from pipeline.query.view import View, now_ms
from pipeline.records import UNDECODABLE, DeadLetterError, Record, call_id_of, read_media
from pipeline.sample import sample_path
from pipeline.scoring.voiceprint import DIMENSION, Voiceprint, decode, encode
from pipeline.settings import Settings
from pipeline.start_tasks import read_start_task
from pipeline.watchlist import WatchlistFollower
from schemas.media import Header
from schemas.stream import CallBegin, CallOpened, Fault, PrintRecord, SpeechRecord
from schemas.tasks import Technology
from tests.agents.conftest import OpenBench
from tests.faults.outcome import Outcome
from tests.fuzz.records import BLOB, Bad, bad_record
from tests.fuzz.test_bodies import rss_bytes
from tests.harness import Bench, bench_settings, media_headers, run, sample_audio
from tests.system import System, http, open_system, wait_url

COUNT = max(100, int(os.environ.get("CALLSTREAM_FUZZ", "20000")) // 4)
KAFKA_COUNT = max(10, COUNT // 80)  # on each topic
KAFKA_TOPICS = ("media", "requests", "watchlist", "speech", "prints", "results")
ODD_NAME = "an-odd-name"
PATIENCE_S = 90.0
PLAN = ["media", "media", "media", "media", "requests", "requests", "requests", "speech", "prints", "prints"]
MOST_CPU_S = 2.0
MOST_GROWTH_BYTES = 300 << 20
GOOD_CALLS = 3
PIECES = 6
HOUR_S = 3600.0
TECHNOLOGIES = [one.value for one in Technology if one is not Technology.VOICEPRINT_COMPARISON]
_DECODERS: dict[str, Any] = {
    "speech": msgspec.msgpack.Decoder(SpeechRecord),
    "prints": msgspec.msgpack.Decoder(PrintRecord),
}

Values = dict[bytes | None, list[bytes | None]]
Piece = tuple[str, bytes, bytes, tuple[tuple[str, bytes], ...]]


def _good_call(number: int) -> list[Piece]:
    """A call of 5 s that asks for everything but what depends on the watch list."""
    options = {Header.OPTIONS: json.dumps({"technologies": TECHNOLOGIES, "languages": ["en", "it", "fr"]})}
    pieces: list[Piece] = []
    for sequence in range(PIECES):
        headers = media_headers(sequence, end=sequence == PIECES - 1) | (options if sequence == 0 else {})
        begin_s = 2.0 * number + sequence * 5 / PIECES
        audio = sample_audio(begin_s, begin_s + 5 / PIECES)
        pieces.append(("media", f"good-{number}".encode(), audio, tuple((str(k), v.encode()) for k, v in headers.items())))
    return pieces


def _voiceprint(number: int) -> str:
    values = [((7 * number + 3 * index) % 11 - 5) / 11 for index in range(DIMENSION)]
    return encode(Voiceprint(np.array(values, np.float32), 3.0 + number))


def good_pieces() -> list[Piece]:
    """Good calls in turn, and a request of each kind."""
    calls = [_good_call(number) for number in range(GOOD_CALLS)]
    pieces = [call[sequence] for sequence in range(PIECES) for call in calls]
    bodies = [
        {"voiceprints": [_voiceprint(1), _voiceprint(2)]},
        {"voiceprints_a": [_voiceprint(1)], "voiceprints_b": [_voiceprint(2), _voiceprint(3)]},
    ]
    for number, body in enumerate(bodies):
        key = str(uuid.uuid5(uuid.NAMESPACE_OID, f"good-{number}")).encode()
        pieces.insert(5 * number + 3, ("requests", key, json.dumps(body).encode(), ()))
    return pieces


def good_keys() -> set[bytes]:
    calls = [
        uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, "callstream"), f"good-{number}/{technology}")
        for number in range(GOOD_CALLS)
        for technology in TECHNOLOGIES
    ]
    return {str(one).encode() for one in calls} | {piece[1] for piece in good_pieces() if piece[0] == "requests"}


def wav() -> bytes:
    frames, rate_hz = soundfile.read(sample_path(), dtype="int16", always_2d=True, frames=4000)
    file = io.BytesIO()
    soundfile.write(file, frames, rate_hz, format="WAV")
    return file.getvalue()


async def _put(bench: Bench, piece: Piece) -> None:
    bench._append(*piece)
    await bench.settle()


async def put_bad(bench: Bench, bad: Bad) -> Record:
    """As a worker would read it: a header without a value is none."""
    headers = tuple((name, value) for name, value in bad.headers if value is not None)
    bench._append(bad.topic, bad.key, bad.value, headers)
    record = bench.log[bad.topic][-1]
    await bench.settle()
    return record


async def end_everything(bench: Bench) -> None:
    """An hour and a day later whatever call is open ends; on `speech` and `prints` as its agent would end it."""
    bench.clock_s += 25 * HOUR_S
    for key in sorted({record.key for record in bench.log["media"] if record.key}):
        await _put(bench, ("media", key, b"\0\0", (("sequence", b"0"), ("end", b"1"))))
    for kind, topic in ((ExtractionStage, "speech"), (CallStage, "prints")):
        for stage in [frame.stage for frame in bench.frames if isinstance(frame.stage, kind)]:
            for call_id in sorted(stage._calls):
                fault = msgspec.msgpack.encode(Fault(call_id, "the end"))
                await _put(bench, (topic, call_id.encode(errors="replace")[:1000], fault, ()))


def good_values(bench: Bench) -> Values:
    keys = good_keys()
    return {key: values for key, values in bench.values().items() if key in keys}


class Account:
    """What became of every bad record."""

    def __init__(self, letters: Sequence[Record], results: Sequence[Record], prefix: str = "") -> None:
        self.buried: dict[str, set[str]] = collections.defaultdict(set)
        for letter in letters:
            source, kind = dict(letter.headers)[Header.SOURCE], dict(letter.headers)[Header.ERROR_TYPE]
            self.buried[source.decode().removeprefix(prefix)].add(kind.decode())
        self._final: set[bytes | None] = set()
        self._calls: dict[str, set[bool]] = collections.defaultdict(set)
        last = {record.key: record.value or b"" for record in results}
        for key, body in ((key, json.loads(value)) for key, value in last.items()):
            is_final = body["task"]["state"] in ("done", "failed", "rejected")
            self._calls[body.get("call_id", "")].add(is_final)
            if is_final:
                self._final.add(key)
        self.final_count = len(self._final)

    def fate(self, record: Record) -> str | None:
        """How a record is accounted for; None when it is not."""
        if kinds := self.buried.get(record.source):
            return f"{record.topic} buried: {', '.join(sorted(kinds))}"
        try:
            return self._rule(record)
        except (DeadLetterError, *UNDECODABLE):
            return None  # it breaks the rules, and was not buried

    def keeps_the_rules(self, record: Record) -> bool:
        """Whether its stage could read it."""
        try:
            self._rule(record)
        except (DeadLetterError, *UNDECODABLE):
            return False
        return True

    def _rule(self, record: Record) -> str | None:
        match record.topic:
            case "media":
                read_media(record)
                return "media: its call is final" if self._calls.get(call_id_of(record)) == {True} else None
            case "requests":
                read_start_task(record)
                key = None if record.key is None else str(uuid.UUID(record.key.decode())).encode()
                return "requests: answered" if key is None or key in self._final else None
            case _:
                one = _DECODERS[record.topic].decode(record.value or b"")
                return f"{record.topic}: a valid {type(one).__name__}"


def unacknowledged(bench: Bench) -> list[str]:
    """Offsets that were not given back."""
    places = [(frame, topic) for frame in bench.frames for topic in frame.stage.topics]
    return [
        f"{frame.stage.name}: {len(frame.acknowledged[topic])} of {len(bench.log[topic])} of {topic}"
        for frame, topic in places
        if frame.acknowledged[topic] != list(range(len(bench.log[topic])))
    ]


async def undisturbed(open_bench: OpenBench) -> Values:
    async with open_bench() as bench:
        for piece in good_pieces():
            await _put(bench, piece)
        return good_values(bench)


def check_results(bench: Bench) -> None:
    """Whatever the stages said of good calls and bad, the query service can read."""
    for record in bench.log["results"]:
        read_change(record.key, record.value, 0)


async def test_bad_records_are_accounted_for_and_harm_no_good_call(open_bench: OpenBench) -> None:
    expected = await undisturbed(open_bench)
    assert len(expected) == GOOD_CALLS * len(TECHNOLOGIES) + 2
    async with open_bench(max_gap_s=2.0) as bench:
        open_blobs(bench.settings).put(BLOB, wav())
        good, records, slow = good_pieces(), {}, []
        memory_bytes = rss_bytes()
        for case in range(COUNT):
            if good and case % max(1, COUNT // 25) == 0:
                await _put(bench, good.pop(0))
            topic, began_s = PLAN[case % len(PLAN)], time.process_time()
            records[topic, case] = await put_bad(bench, bad_record(topic, case))
            if (cpu_s := time.process_time() - began_s) > MOST_CPU_S:
                slow.append(f"bad_record({topic!r}, {case}): {cpu_s:.1f} s")
        assert not good
        await end_everything(bench)
        growth_bytes = rss_bytes() - memory_bytes
        check_results(bench)
        account = Account(bench.log["dead-letters"], bench.log["results"])
    fates = {place: account.fate(record) for place, record in records.items()}
    print(f"{growth_bytes / 1e6:.0f} MB more; {account.final_count} tasks are final")  # noqa: T201
    print("\n".join(f"{count:6} {fate}" for fate, count in collections.Counter(map(str, fates.values())).most_common()))  # noqa: T201
    assert [f"bad_record({topic!r}, {case})" for (topic, case), fate in fates.items() if fate is None] == []
    assert slow == []
    assert [place for place, fate in fates.items() if place[0] in ("media", "requests") and "internal" in str(fate)] == []
    assert good_values(bench) == expected
    assert unacknowledged(bench) == []
    assert growth_bytes < MOST_GROWTH_BYTES


async def test_bad_snapshots_harm_no_good_call(open_bench: OpenBench) -> None:
    """They are what a partition's first record meets: whoever reads on from there must not choke on any of them."""
    expected = await undisturbed(open_bench)
    async with open_bench(max_gap_s=2.0) as bench:
        for case in range(COUNT // 8):
            await put_bad(bench, bad_record("snapshots", case))
        good, slow = good_pieces(), []
        for case in range(COUNT // 8):
            if good and case % max(1, COUNT // 250) == 0:
                await _put(bench, good.pop(0))
            began_s = time.process_time()
            await _put(bench, ("media", f"bad-snapshots-{case}".encode(), b"\0\0" * 400, (("sequence", b"3"), ("end", b"1"))))
            if (cpu_s := time.process_time() - began_s) > MOST_CPU_S:
                slow.append(f"bad_record('snapshots', {case}): {cpu_s:.1f} s")
        assert not good
        await end_everything(bench)
        check_results(bench)
    print(collections.Counter(bench.dead_letters()).most_common())  # noqa: T201
    assert slow == []
    assert good_values(bench) == expected
    assert unacknowledged(bench) == []


def _consumer_record(bad: Bad) -> Any:
    """As aiokafka gives it."""
    return ConsumerRecord(bad.topic, 0, 0, 0, 0, bad.key, bad.value, None, 0, 0, ())


async def test_bad_entries_of_the_watch_list_are_left_out(tmp_path: Path) -> None:
    follower = WatchlistFollower(bench_settings(tmp_path))
    entry = json.dumps({"voiceprint": _voiceprint(1)}).encode()
    await follower._take_one(_consumer_record(Bad("watchlist", b"good", entry, [])))
    for case in range(COUNT // 8):
        await follower._take_one(_consumer_record(bad_record("watchlist", case)))
    assert np.isfinite([one.embedding for one in follower.entries.values()]).all()
    assert np.array_equal(follower.entries["good"].embedding, decode(_voiceprint(1)).embedding)


def test_bad_results_are_skipped(tmp_path: Path) -> None:
    """The query service's reader knows what no agent wrote; what it takes, its view can keep."""
    view, skipped = View(tmp_path, HOUR_S), 0
    for case in range(COUNT // 8):
        bad = bad_record("results", case)
        try:
            view.apply([read_change(bad.key, bad.value, now_ms())], {("results", 0): case + 1})
        except RecordInvalidError:
            skipped += 1
    assert COUNT / 20 < skipped < COUNT / 8
    view.close()


def test_the_damage_can_be_repeated() -> None:
    topics = ["media", "requests", "speech", "prints", "snapshots", "results", "watchlist"]
    assert [bad_record(topic, case) for topic in topics for case in range(50)] == [
        bad_record(topic, case) for topic in topics for case in range(50)
    ]


def produce_bad(system: System, bad: Bad) -> None:
    system._producer.produce(system.settings.topic(bad.topic), bad.value, bad.key, headers=[*bad.headers])


def produce_piece(system: System, piece: Piece) -> None:
    produce_bad(system, Bad(piece[0], piece[1], piece[2], [*piece[3]]))


def _fits(bad: Bad) -> bool:
    """Calls that say that they are files would be waited for for a day."""
    return not (bad.topic == "media" and any(b"is_file" in (value or b"") for _, value in bad.headers))


def produce_all(system: System) -> None:
    """Bad records of all topics, and the good ones between them."""
    good = good_pieces()
    for case in range(KAFKA_COUNT):
        if good and case % max(1, KAFKA_COUNT // 25) == 0:
            produce_piece(system, good.pop(0))
        for topic in KAFKA_TOPICS:
            if _fits(bad := bad_record(topic, 100_000 + case)):
                produce_bad(system, bad)
        system._producer.poll(0)
    assert not good
    assert system._producer.flush(30) == 0


async def produce_odd_names(settings: Settings) -> None:
    """On each topic three records in one batch; the second has a header of which the name is not UTF-8."""
    async with AIOKafkaProducer(bootstrap_servers=settings.broker) as producer:
        for topic in (*KAFKA_TOPICS, "snapshots"):
            batch = producer.create_batch()
            for name in ("first", ODD_NAME, "third"):
                batch.append(key=f"bad-{name}".encode(), value=b"\xc1", timestamp=None, headers=[(name, b"x")])
            batch.close()
            batch._buffer = _misspelt(bytearray(batch._build()))
            await (await producer.send_batch(batch, settings.topic(topic), partition=0))


def _misspelt(built: bytearray) -> bytes:
    """The batch with bytes in it that its producer's API would not take, and the checksum that belongs to them."""
    at = built.index(ODD_NAME.encode(), built.index(ODD_NAME.encode()) + 1)  # behind the key
    built[at : at + len(ODD_NAME)] = b"\xff\xfe\x80".ljust(len(ODD_NAME), b"a")
    built[17:21] = calc_crc32c(bytes(built[21:])).to_bytes(4, "big")
    return bytes(built)


def records_of(system: System, topic: str) -> list[Record]:
    return [
        Record(topic, one.partition() or 0, one.offset() or 0, one.key(), one.value(), _text_headers(one, topic), 0.0)
        for one in system.read(topic)
    ]


def _text_headers(message: Any, topic: str) -> tuple[tuple[str, bytes], ...]:
    if message.key() == f"bad-{ODD_NAME}".encode() and topic != "dead-letters":
        return ()  # confluent-kafka cannot read them
    return tuple((name, value) for name, value in message.headers() or [] if value is not None)


def end_calls(system: System) -> None:
    """Those that a bad record began have no agent that would end them."""
    for record in records_of(system, "speech") + records_of(system, "prints"):
        with contextlib.suppress(*UNDECODABLE):
            one = _DECODERS[record.topic].decode(record.value or b"")
            if isinstance(one, CallBegin) and not one.call_id.startswith("good-"):
                fault = msgspec.msgpack.encode(Fault(one.call_id, "the end"))
                produce_piece(system, (record.topic, one.call_id.encode(), fault, ()))
    assert system._producer.flush(30) == 0


def told(system: System, expected: Values) -> Values:
    """What is on `results` of these tasks."""
    values: Values = {key: [] for key in expected}
    for record in records_of(system, "results"):
        if record.key in values:
            values[record.key].append(record.value)
    return values


def wait_for_good(system: System, expected: Values) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while left := [key for key, values in told(system, expected).items() if len(values) < len(expected[key])]:
        assert time.monotonic() < give_up_s, f"not final: {left}\n{system.logs()}"
        time.sleep(0.5)


def wait_for_no_lag(system: System, outcome: Outcome) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while left := outcome.lag():
        assert time.monotonic() < give_up_s, f"{left}\n{system.logs()}"
        time.sleep(0.5)
    assert sum(system.committed("intake", "requests").values()) == len(system.read("requests"))


@pytest.fixture
def system(broker_bootstrap: str, tmp_path: Path) -> Iterator[System]:
    prefix = f"y{uuid.uuid4().hex[:10]}."
    settings = Settings(broker=broker_bootstrap, topic_prefix=prefix, partitions=1, language_model="tiny", idle_timeout_s=5.0)
    with open_system(settings, tmp_path / "system") as opened:
        yield opened


@pytest.mark.broker
def test_a_worker_and_a_query_service_outlive_bad_records(system: System, open_bench: OpenBench) -> None:
    expected = run(undisturbed(open_bench))
    lasting = {"CALLSTREAM_DEAD_LETTER_LIMIT": "0", "CALLSTREAM_DEAD_LETTER_RATIO": "1", "CALLSTREAM_MAX_GAP_S": "2"}
    opened = CallOpened("bad-negative", -5)
    for bad in [Bad("snapshots", b"bad", msgspec.msgpack.encode(opened), []), *_bad_snapshots()]:
        produce_bad(system, bad)
    run(produce_odd_names(system.settings))
    produce_all(system)
    LocalBlobs(system.folder / "data" / FOLDER_NAME).put(BLOB, wav())
    worker, query = system.start("worker", **lasting), system.start("query", "--port", "0")
    url = wait_url(query)
    with Outcome(system) as outcome:
        wait_for_good(system, expected)
        end_calls(system)
        wait_for_no_lag(system, outcome)
    assert (worker.poll(), query.poll()) == (None, None)
    check_accounts(system)
    assert told(system, expected) == expected
    check_query(system, url, expected)
    assert (worker.terminate(), query.terminate()) == (0, 0)


def _bad_snapshots() -> list[Bad]:
    return [bad_record("snapshots", 100_000 + case) for case in range(KAFKA_COUNT)]


def check_accounts(system: System) -> None:
    account = Account(records_of(system, "dead-letters"), [], system.settings.topic_prefix)
    fates: collections.Counter[str] = collections.Counter()
    for topic in ("media", "requests", "speech", "prints"):
        for record in records_of(system, topic):
            kinds = account.buried.get(record.source)
            fates[f"{topic}: {sorted(kinds)}" if kinds else f"{topic}: taken"] += 1
            assert kinds or account.keeps_the_rules(record), record.source
    print("\n".join(f"{count:6} {fate}" for fate, count in fates.most_common()))  # noqa: T201


def check_query(system: System, url: str, expected: Values) -> None:
    """The good tasks are told as they ended; of the bad records it has counted each that is no task's state."""
    for key, values in expected.items():
        body = json.loads(values[-1] or b"")
        status, _, told = http("GET", f"{url}/api/technology/{body['technology']}/{(key or b'').decode()}")
        assert (status, told["task"]["state"], told["result"]) == (200, "done", body["result"])
    skipped = 0
    for record in records_of(system, "results"):
        try:
            read_change(record.key, record.value, 0)
        except RecordInvalidError:
            skipped += 1
    metrics = httpx.get(f"{url}/metrics").text
    assert f'{{outcome="skipped"}} {skipped}.0' in metrics, metrics
    assert http("GET", f"{url}/ready")[0] == 200
