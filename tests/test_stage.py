"""The frame on a real Faust app, with a stage that does what each record says."""

import contextlib
import errno
import itertools
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from faust.types.tuples import ConsumerMessage

from pipeline.app import build_app
from pipeline.delivery import Receipt
from pipeline.records import DeadLetterError, OutgoingRecord, Record
from pipeline.runner import StageRunner
from pipeline.settings import Settings
from pipeline.stage import ExhaustedError, Frame
from pipeline.storing import until_stored
from schemas.errors import DeadLetterType
from schemas.media import Header


class Listed:
    """A publisher that keeps what is published; `broken` refuses everything."""

    def __init__(self) -> None:
        self.records: list[OutgoingRecord] = []
        self.broken = False

    async def publish(self, records: Sequence[OutgoingRecord]) -> list[int]:
        if self.broken:
            raise ConnectionError("no broker")
        self.records += records
        return list(range(len(self.records) - len(records), len(self.records)))

    publish_side_by_side = publish


class Obedient:
    """A stage that does what the record's value says."""

    name = "obedient"
    topics: tuple[str, ...] = ("media",)

    def __init__(self) -> None:
        self.seen: list[bytes | None] = []
        self.held: list[Receipt] = []
        self.failed: list[str] = []
        self.ended: list[str] = []

    async def start(self, frame: Frame) -> None:
        self.frame = frame

    async def stop(self) -> None: ...

    async def tick(self) -> None: ...

    def forget(self) -> None:
        self.held.clear()

    async def fail(self, record: Record, message: str) -> None:
        self.failed.append(message)

    async def process(self, record: Record, receipt: Receipt) -> None:
        self.seen.append(record.value)
        match record.value:
            case b"bury":
                raise DeadLetterError(DeadLetterType.HEADER_MISSING, "no sequence")
            case b"break":
                raise ZeroDivisionError("division by zero")
            case b"no thread":
                raise RuntimeError("can't start new thread")
            case b"no file":
                raise OSError(errno.EMFILE, "Too many open files")
            case b"no file for a result":
                await until_stored("a task", _no_file)
            case b"bury and go on":
                await self.frame.bury(record, DeadLetterType.CHUNK_EMPTY, "empty")
                receipt.release()
            case b"bury in spite":
                with contextlib.suppress(Exception):
                    await self.frame.bury(record, DeadLetterType.CHUNK_EMPTY, "empty")
                receipt.release()
            case b"hold":
                self.held.append(receipt)
            case _:
                receipt.release()


class Opened:
    def __init__(self, runner: StageRunner, stage: Obedient, published: Listed, acknowledged: list[int]) -> None:
        self.runner, self.stage, self.published, self.acknowledged = runner, stage, published, acknowledged
        self._offsets = itertools.count()

    async def _take(self, value: bytes, key: bytes | None) -> None:
        await self.runner.take(ConsumerMessage("media", 0, next(self._offsets), 0.0, 0, None, key, value, None))

    async def put(self, *values: bytes, key: bytes | None = b"call") -> None:
        for value in values:
            await self._take(value, key)
        assert await self.runner._window.drain(5.0)

    async def put_calls(self, *values: bytes) -> None:
        """Each record is of a call of its own, all at work at once."""
        for number, value in enumerate(values):
            await self._take(value, b"call-%d" % number)
        assert await self.runner._window.drain(5.0)


@asynccontextmanager
async def opened(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> AsyncIterator[Opened]:
    settings = msgspec.structs.replace(Settings(), **changed)
    app = build_app("obedient", settings)
    stage, published, acknowledged = Obedient(), Listed(), []
    runner = StageRunner(app, stage, settings, app.lease)
    runner.publisher = published
    runner.end_worker = lambda: stage.ended.append("worker")
    await stage.start(runner)
    app.finalize()

    monkeypatch.setattr(app.consumer, "acknowledge", lambda _, offset: acknowledged.append(offset))
    yield Opened(runner, stage, published, acknowledged)


async def test_records_are_processed_and_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(monkeypatch) as one:
        await one.put(b"a", b"b", b"c")
        assert one.stage.seen == [b"a", b"b", b"c"]
        assert one.acknowledged == [0, 1, 2]
        assert one.published.records == []


async def test_what_cannot_be_processed_is_buried_and_then_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(monkeypatch) as one:
        await one.put(b"a", b"bury", b"break", b"b")
        letters = [dict(record.headers) for record in one.published.records]
        assert [letter[Header.ERROR_TYPE] for letter in letters] == [b"header.missing", b"internal"]
        assert [record.value for record in one.published.records] == [b"bury", b"break"]
        assert letters[1][Header.ERROR_MESSAGE] == b"ZeroDivisionError: division by zero"
        assert one.stage.failed == ["ZeroDivisionError: division by zero"]
        assert one.acknowledged == [0, 1, 2, 3]


async def test_a_held_record_holds_those_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(monkeypatch) as one:
        await one.put(b"a", b"hold", b"b")
        assert one.acknowledged == [0]
        assert one.runner.unacknowledged() == 2
        one.stage.held[0].release()
        assert one.acknowledged == [0, 1, 2]


async def test_a_dead_letter_that_cannot_be_sent_ends_the_process_with_the_record_unacknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with opened(monkeypatch) as one:
        crashes: list[BaseException] = []
        monkeypatch.setattr(one.runner._window.lanes, "_on_crash", crashes.append)
        one.published.broken = True
        await one.put(b"bury", b"a")
        assert [str(error) for error in crashes] == ["no broker"]
        assert one.acknowledged == []


def _no_file() -> None:
    raise OSError(errno.ENFILE, "Too many open files in system")


@pytest.mark.parametrize("lack", [b"no thread", b"no file", b"no file for a result"])
async def test_a_process_that_has_nothing_left_ends_and_fails_no_task(monkeypatch: pytest.MonkeyPatch, lack: bytes) -> None:
    async with opened(monkeypatch) as one:
        crashes: list[BaseException] = []
        monkeypatch.setattr(one.runner._window.lanes, "_on_crash", crashes.append)
        await one.put(b"a", lack, b"b")
        await one.put(b"c")  # of the same call: what follows is the successor's too
        assert [type(error) for error in crashes] == [ExhaustedError]
        assert one.stage.seen == [b"a", lack]
        assert one.stage.failed == []
        assert one.published.records == []
        assert one.acknowledged == [0]


async def test_a_stage_that_buries_too_much_stops_and_the_record_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(monkeypatch, dead_letter_limit=3) as one:
        with caplog.at_level(logging.CRITICAL):
            await one.put_calls(*[b"bury"] * 8)
            await one.put(b"a", b"bury")
        assert len(one.published.records) == 3
        assert one.acknowledged == [0, 1, 2]
        assert one.stage.ended == ["worker"]
        assert b"a" not in one.stage.seen, "nothing is begun behind it"
        [line] = [record.getMessage() for record in caplog.records]
        for words in ("obedient", "3 of the last 3", "header.missing (4 ", "/0/3 ", "callstream dead-letters list", "LIMIT"):
            assert words in line


async def test_a_fault_that_would_be_one_dead_letter_too_many_fails_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(monkeypatch, dead_letter_limit=1) as one:
        await one.put_calls(b"bury", b"break")
        assert len(one.published.records) == 1
        assert one.stage.failed == []
        assert one.acknowledged == [0]


async def test_good_records_between_keep_a_stage_running(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(monkeypatch, dead_letter_limit=2) as one:
        for number in range(10):
            await one.put_calls(b"bury", b"bury and go on")
            await one.put(b"good %d" % number)
        assert len(one.published.records) == 20
        assert one.stage.ended == []
        assert one.acknowledged == list(range(30))


async def test_a_record_that_is_processed_and_buried_is_no_good_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(monkeypatch, dead_letter_limit=3) as one:
        await one.put_calls(*[b"bury and go on"] * 8)
        assert len(one.published.records) == 3
        assert one.acknowledged == [0, 1, 2]
        assert one.stage.ended == ["worker"]


async def test_no_stage_can_take_the_last_straw_for_its_own_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(monkeypatch, dead_letter_limit=1) as one:
        await one.put_calls(b"bury", b"bury in spite")
        assert one.acknowledged == [0]


async def test_the_share_of_the_last_records_stops_a_stage_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(monkeypatch, dead_letter_ratio=0.5, dead_letter_window=6) as one:
        await one.put_calls(*[b"a", b"bury"] * 10)
        assert one.stage.ended == []
        await one.put(b"bury", b"bury", b"bury", b"bury")
        assert len(one.published.records) == 10
        assert one.stage.ended == ["worker"]


async def test_what_a_timer_wants_done_is_not_begun_once_a_stage_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(monkeypatch, dead_letter_limit=1) as one:
        await one.put_calls(b"bury", b"bury")

        async def job() -> None:
            raise AssertionError("begun")

        await one.runner.submit(b"call", job)
        assert await one.runner._window.drain(5.0)
