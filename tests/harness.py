"""Runs stages without Kafka: every record that one publishes reaches those that read its topic, in order."""

import asyncio
import json
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import soundfile
from aiokafka import TopicPartition

from pipeline.delivery import PartitionOrder, Receipt
from pipeline.partition_scan import PartitionScan
from pipeline.publishing import MAX_RECORD_BYTES, Publisher, RecordTooLargeError, dead_letter, record_bytes
from pipeline.records import OutgoingRecord, Record, headers_of
from pipeline.sample import sample_path
from pipeline.settings import Settings
from pipeline.stage import Stage, process_record
from pipeline.topics import MAX_DEAD_LETTER_BYTES
from schemas.errors import DeadLetterType
from schemas.media import Header


class LocalFrame:
    """The frame's side of one stage; `acknowledged` lists the offsets that were given back, by topic."""

    def __init__(self, bench: "Bench", stage: Stage) -> None:
        self.settings = bench.settings
        self.publisher: Publisher = bench
        self.stage = stage
        self.bench = bench
        self.caught_up = True
        self.answering_s = -math.inf
        self.answers_again = False
        self.order: dict[str, PartitionOrder] = defaultdict(PartitionOrder)
        self.acknowledged: dict[str, list[int]] = defaultdict(list)

    async def is_caught_up(self, topic: str, partition: int) -> bool:
        if self.answers_again:
            self.answering_s = time.monotonic()
        return self.caught_up

    def answering_since_s(self, topic: str, partition: int) -> float:
        return self.answering_s

    async def submit(self, key: Hashable, job: Callable[[], Awaitable[None]]) -> None:
        await job()

    def give_way(self) -> None:
        pass

    async def bury(self, record: Record, error_type: DeadLetterType, message: str) -> None:
        await self.bench.publish([dead_letter(record, self.stage.name, error_type, message)])

    def receipt(self, record: Record) -> Receipt:
        return self.order[record.topic].issue(record.offset, self.acknowledged[record.topic].append)

    async def deliver(self, record: Record) -> None:
        await process_record(self.stage, self, record, self.receipt(record))


class Bench:
    """Stages, wired by their topics, each with one partition."""

    def __init__(self, settings: Settings, *stages: Stage) -> None:
        self.settings = settings
        self.frames = [LocalFrame(self, stage) for stage in stages]
        self.log: dict[str, list[Record]] = defaultdict(list)
        self.clock_s = 1_000_000.0
        self._undelivered: list[Record] = []

    async def __aenter__(self) -> "Bench":
        for frame in self.frames:
            await frame.stage.start(frame)
        return self

    async def __aexit__(self, *_: object) -> None:
        for frame in self.frames:
            await frame.stage.stop()

    async def publish(self, records: Sequence[OutgoingRecord]) -> list[int]:
        offsets = []
        for one in records:
            assert one.key is not None or one.value is not None, "aiokafka sends no record that has neither"
            if record_bytes(one) > (MAX_DEAD_LETTER_BYTES if one.topic == "dead-letters" else MAX_RECORD_BYTES):
                raise RecordTooLargeError(f"{record_bytes(one)} bytes for {one.topic}")
            offsets.append(len(self.log[one.topic]))
            self._append(one.topic, one.key, one.value, one.headers)
        return offsets

    async def publish_side_by_side(self, records: Sequence[OutgoingRecord]) -> list[int]:
        """Here the last one is always first."""
        assert len({one.topic for one in records}) == len(records)
        return (await self.publish(records[::-1]))[::-1]

    def _append(self, topic: str, key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes], ...]) -> None:
        record = Record(topic, 0, len(self.log[topic]), key, value, headers, self.clock_s)
        self.log[topic].append(record)
        self._undelivered.append(record)

    async def produce(self, topic: str, key: bytes | None, value: bytes | None, headers: dict[Any, str] | None = None) -> None:
        """Produce a record, as a user would, and let everything follow that does."""
        self._append(topic, key, value, headers_of(headers or {}))
        await self.settle()

    async def settle(self) -> None:
        while self._undelivered:
            record = self._undelivered.pop(0)
            for frame in self.frames:
                if record.topic in frame.stage.topics:
                    await frame.deliver(record)

    async def tick(self) -> None:
        for frame in self.frames:
            await frame.stage.tick()
        await self.settle()

    def transitions(self) -> dict[tuple[str, str], list[dict[str, Any]]]:
        """Every task's records in order, by call id and technology."""
        found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for record in self.log["results"]:
            body = json.loads(record.value or b"")
            found[body.get("call_id", body["task"]["task_id"]), body["technology"]].append(body)
        return dict(found)

    def final(self, call_id: str, technology: str) -> dict[str, Any]:
        """A task's last record."""
        return self.transitions()[call_id, technology][-1]

    def values(self) -> dict[bytes | None, list[bytes | None]]:
        """What is on `results`, by task."""
        found: dict[bytes | None, list[bytes | None]] = defaultdict(list)
        for record in self.log["results"]:
            found[record.key].append(record.value)
        return dict(found)

    def dead_letters(self) -> list[str]:
        """The `error-type` of every dead letter."""
        return [record.text(Header.ERROR_TYPE) or "" for record in self.log["dead-letters"]]


class _LogConsumer:
    """What a PartitionScan asks of its consumer to find where to begin; the log is read from there by `read_log`."""

    async def beginning_offsets(self, places: list[Any]) -> dict[Any, int]:
        return dict.fromkeys(places, 0)

    async def offsets_for_times(self, times: dict[Any, int]) -> dict[Any, Any]:
        return {place: SimpleNamespace(offset=0) for place in times}


async def read_log(scan: PartitionScan[Any], log: dict[str, list[Record]], first: Record) -> Any:
    """In place of PartitionScan._read: its own steps over a bench's log, which is one partition."""
    records = log[scan.topic]
    begin = await scan.begin(cast(Any, _LogConsumer()), TopicPartition(scan.topic, first.partition), first)
    found = scan.empty()
    for record in records[len(records) if begin is None else begin :]:
        stored = {name: getattr(record, name) for name in ("topic", "partition", "offset", "key", "value", "headers")}
        scan.take(found, cast(Any, SimpleNamespace(**stored, timestamp=int(record.timestamp_s * 1000))), first)
    scan.finish(found, len(records))
    return found


def media_headers(sequence: int, *, end: bool = False, position: int | None = None, **other: str) -> dict[Any, str]:
    headers: dict[Any, str] = {Header.SEQUENCE: str(sequence), Header.SAMPLE_RATE: "8000", Header.CHANNELS: "2"}
    if position is not None:
        headers[Header.POSITION] = str(position)
    if end:
        headers[Header.END] = "1"
    return headers | {name.replace("_", "-"): value for name, value in other.items()}


def sample_audio(start_s: float = 0.0, end_s: float | None = None) -> bytes:
    """The bundled call, two channels, 8000 Hz, PCM."""
    frames, rate_hz = soundfile.read(sample_path(), dtype="int16", always_2d=True)
    stop = None if end_s is None else int(end_s * rate_hz)
    return bytes(frames[int(start_s * rate_hz) : stop].astype("<i2").tobytes())


def bench_settings(folder: Path, **changed: Any) -> Settings:
    return Settings(data_dir=str(folder), **changed)


def run(coroutine: Awaitable[Any]) -> Any:
    async def main() -> Any:
        return await coroutine

    return asyncio.run(main())
