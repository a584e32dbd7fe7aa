"""Does Faust read everything behind the committed offset when one rebalance ends while the next is under way?"""

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

PLACE = TP("topic", 0)
RECORDS = range(20)


class Thread:
    """In place of the consumer's thread: a partition of 20 records, of which the group has committed the first 5."""

    position = committed = 5

    def assignment(self) -> set[TP]:
        """One partition."""
        return {PLACE}

    def highwater(self, _place: TP) -> int:
        """Its end."""
        return len(RECORDS)

    async def getmany(self, *_: object) -> dict[TP, list[Any]]:
        """Up to 10 records."""
        await asyncio.sleep(0.001)
        batch = RECORDS[self.position : self.position + 10]
        self.position += len(batch)
        return {PLACE: [SimpleNamespace(offset=offset) for offset in batch]} if batch else {}

    async def seek_to_committed(self) -> dict[TP, int]:
        """As aiokafka does; the answer takes longer than a fetch."""
        self.position = self.committed
        await asyncio.sleep(0.02)
        return {PLACE: self.committed}


class Consumer(driver.Consumer):
    """The consumer, with records that did not come from a broker."""

    def _to_message(self, _place: TP, record: Any) -> Any:  # noqa: ANN401
        return record


async def offsets_read() -> list[int]:
    """Two rebalances: the first's end lets records flow again while the second is handled."""
    app = faust.App("reproduce")
    app.finalize()
    # As a stream does: its queue is emptied whenever the flow is suspended or resumed, and it is busy for a while.
    queue: Any = app.FlowControlQueue(maxsize=0, clear_on_resume=True)
    taken: list[int] = []

    async def deliver(message: Any) -> None:  # noqa: ANN401
        await app.flow_control.acquire()
        await queue.put(message.offset)

    async def nothing(*_: object) -> None:
        pass

    async def stream() -> None:
        await asyncio.sleep(0.1)
        while True:
            taken.append(await queue.get())

    app._consumer = consumer = Consumer(app.transport, deliver, nothing, nothing)
    consumer._thread = Thread()  # type: ignore[assignment]
    recovery: Any = app.tables.recovery  # type: ignore[attr-defined]
    fetcher = SimpleNamespace(_stopped=asyncio.Event())
    app._fetcher._started.set()  # its loop is the next line
    tasks = [asyncio.create_task(consumer._drain_messages(fetcher)), asyncio.create_task(stream())]  # type: ignore[arg-type]
    consumer._set_active_tps({PLACE})

    consumer.stop_flow()  # the first rebalance, and at once the second
    app.flow_control.suspend()
    app.flow_control.clear()
    await recovery._resume_streams()  # the end of the first
    await recovery._resume_streams()  # the end of the second
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    return taken


read = asyncio.run(offsets_read())
missing = sorted(set(RECORDS[5:]) - set(read))
print(f"committed 5; read {read}; missing {missing}")
print("REPRODUCED" if missing else "not reproduced")
sys.exit(0 if missing else 1)
