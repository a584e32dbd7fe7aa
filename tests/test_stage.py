"""The frame on a real Faust agent (Faust's test_context), with a stage that says what to do in each record."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pipeline.app import build_app
from pipeline.delivery import Receipt
from pipeline.records import DeadLetterError, OutgoingRecord, Record
from pipeline.settings import Settings
from pipeline.stage import Frame, StageRunner
from schemas.errors import DeadLetterType
from schemas.media import Header


class Listed:
    """A publisher that keeps what is published; `broken` refuses everything."""

    def __init__(self) -> None:
        self.records: list[OutgoingRecord] = []
        self.broken = False

    async def publish(self, records: Sequence[OutgoingRecord]) -> None:
        if self.broken:
            raise ConnectionError("no broker")
        self.records += records


class Obedient:
    """A stage that does what the record's value says."""

    name = "obedient"
    topics: tuple[str, ...] = ("media",)

    def __init__(self) -> None:
        self.seen: list[bytes | None] = []
        self.held: list[Receipt] = []
        self.failed: list[str] = []

    async def start(self, frame: Frame) -> None: ...

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
            case b"hold":
                self.held.append(receipt)
            case _:
                receipt.release()


class Opened:
    def __init__(self, runner: StageRunner, stage: Obedient, published: Listed, acknowledged: list[int], agent: Any) -> None:
        self.runner, self.stage, self.published, self.acknowledged, self.agent = runner, stage, published, acknowledged, agent

    async def put(self, *values: bytes) -> None:
        for value in values:
            await self.agent.put(value, key=b"call")
        assert await self.runner._window.drain(5.0)


@asynccontextmanager
async def opened(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opened]:
    settings = Settings()
    app = build_app("obedient", settings)
    stage, published, acknowledged = Obedient(), Listed(), []
    runner = StageRunner(app, stage, settings)
    runner.publisher = published
    app.finalize()

    def acknowledge(message: Any) -> bool:
        acknowledged.append(message.offset)
        return True

    monkeypatch.setattr(app.consumer, "ack", acknowledge)
    agent = next(iter(app.agents.values()))
    async with agent.test_context() as under_test:
        yield Opened(runner, stage, published, acknowledged, under_test)


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
