"""Offsets 5 and 6 do not exist. Which offset does Faust's consumer commit while record 7, behind them, is in work?"""

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message

PLACE = TP("topic", 0)


class Consumer(driver.Consumer):
    """The consumer, with records that did not come from a broker."""

    async def getmany(self, timeout: float) -> Any:  # noqa: ANN401, ASYNC109, ARG002
        """Records 4, 7 and 8, once."""
        self._stopped.set()
        for offset in (4, 7, 8):
            yield PLACE, Message(PLACE.topic, PLACE.partition, offset, 0.0, 0, None, None, None, None, tp=PLACE)


async def committed_offset() -> int | None:
    """Let the consumer read 4, 7 and 8, acknowledge 4 and 8, and ask what it would commit."""
    taken = []

    async def take(message: Message) -> None:
        taken.append(message)

    async def nothing(*_: object) -> None:
        pass

    app = faust.App("reproduce")
    app.topics._acking_topics.add(PLACE.topic)
    consumer = Consumer(app.transport, take, nothing, nothing)
    await consumer._drain_messages(SimpleNamespace(_stopped=asyncio.Event()))
    for message in (taken[0], taken[2]):
        consumer.ack(message)
    return consumer._filter_committable_offsets([PLACE]).get(PLACE)


offset = asyncio.run(committed_offset())
print(f"5 and 6 do not exist, 4 and 8 acknowledged, 7 in work: commits {offset}")
print("REPRODUCED" if offset == 9 else "not reproduced")
sys.exit(0 if offset == 9 else 1)
