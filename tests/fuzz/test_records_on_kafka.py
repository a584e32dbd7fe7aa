"""Damaged records on every topic of a broker: a worker and a query service outlive them, good calls end as if alone."""

import collections
import contextlib
import json
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.record.util import calc_crc32c

from pipeline.blobs import FOLDER_NAME, LocalBlobs
from pipeline.query.records import RecordInvalidError, read_change
from pipeline.records import UNDECODABLE, Record
from pipeline.settings import Settings
from schemas.stream import CallBegin, CallOpened, Fault
from tests.agents.conftest import OpenBench
from tests.faults.outcome import Outcome
from tests.fuzz.good_calls import COUNT, DECODERS, Account, Piece, Values, good_pieces, undisturbed, wav
from tests.fuzz.records import BLOB, Bad, bad_record
from tests.harness import run
from tests.system import System, http, open_system, wait_answer, wait_url

KAFKA_COUNT = max(10, COUNT // 80)  # on each topic
KAFKA_TOPICS = ("media", "requests", "watchlist", "speech", "prints", "results")
ODD_NAME = "an-odd-name"
PATIENCE_S = 90.0


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
            one = DECODERS[record.topic].decode(record.value or b"")
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
    empty = [Bad(topic, None, None, []) for topic in (*KAFKA_TOPICS, "snapshots")]
    for bad in [*empty, Bad("snapshots", b"bad", msgspec.msgpack.encode(opened), []), *_bad_snapshots()]:
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
        told = wait_answer(url, body["technology"], (key or b"").decode())
        assert (told["task"]["state"], told["result"]) == ("done", body["result"])
    skipped = 0
    for record in records_of(system, "results"):
        try:
            read_change(record.key, record.value, 0)
        except RecordInvalidError:
            skipped += 1
    metrics = httpx.get(f"{url}/metrics").text
    assert f'{{outcome="skipped"}} {skipped}.0' in metrics, metrics
    assert http("GET", f"{url}/ready")[0] == 200
