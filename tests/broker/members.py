"""Members of one consumer group in this process, each with a stage that keeps what it is given."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from pipeline.app import build_app
from pipeline.delivery import Receipt
from pipeline.records import Record
from pipeline.runner import StageRunner
from pipeline.settings import Settings
from pipeline.stage import Frame

PATIENCE_S = 60.0


class Taking:
    """A stage that keeps what it is given, once it is let."""

    name = "taking"
    topics: tuple[str, ...] = ("media",)

    def __init__(self) -> None:
        self.values: list[bytes] = []
        self.in_work = 0
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def start(self, frame: Frame) -> None: ...

    async def stop(self) -> None: ...

    def forget(self) -> None: ...

    async def tick(self) -> None: ...

    async def process(self, record: Record, receipt: Receipt) -> None:
        self.in_work += 1
        await self.may_end.wait()
        self.in_work -= 1
        self.values.append(record.value or b"")
        receipt.release()

    async def fail(self, record: Record, message: str) -> None: ...


@contextlib.asynccontextmanager
async def member(settings: Settings) -> AsyncIterator[tuple[StageRunner, Taking]]:
    """A member of the group."""
    app, stage = build_app("taking", settings), Taking()
    runner = StageRunner(app, stage, settings, app.lease)
    async with asyncio.timeout(PATIENCE_S):
        await app.start()
    try:
        yield runner, stage
    finally:
        stage.may_end.set()
        await app.stop()


@contextlib.asynccontextmanager
async def coming(settings: Settings) -> AsyncIterator[StageRunner]:
    """A member that has begun to join, and may be kept waiting."""
    app = build_app("taking", settings)
    runner = StageRunner(app, Taking(), settings, app.lease)
    starting = asyncio.create_task(app.start())
    try:
        yield runner
    finally:
        await app.stop()
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """Returns when it holds."""
    give_up_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < give_up_s
        await asyncio.sleep(0.01)
