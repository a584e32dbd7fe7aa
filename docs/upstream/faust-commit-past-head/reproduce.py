"""Which offset does Faust's consumer commit while record 5 is in work, and 6 and 7 are acknowledged?"""

import asyncio
import sys
from types import SimpleNamespace
from typing import Any

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message

PLACE = TP("topic", 0)


class Consumer(driver.Consumer):
    """The consumer, with records and a committed offset that did not come from a broker."""

    committed: int | None

    async def seek_to_committed(self) -> dict[TP, int | None]:
        """What the group has committed."""
        return {PLACE: self.committed}

    async def getmany(self, timeout: float) -> Any:  # noqa: ANN401, ASYNC109, ARG002
        """Records 5, 6 and 7, once."""
        self._stopped.set()
        for offset in (5, 6, 7):
            yield PLACE, Message(PLACE.topic, PLACE.partition, offset, 0.0, 0, None, None, None, None, tp=PLACE)


async def committed_offset(committed: int | None) -> int | None:
    """Let the consumer read 5, 6 and 7, acknowledge 6 and 7, and ask what it would commit."""
    taken = []

    async def take(message: Message) -> None:
        taken.append(message)

    async def nothing(*_: object) -> None:
        pass

    app = faust.App("reproduce")
    app.topics._acking_topics.add(PLACE.topic)
    consumer = Consumer(app.transport, take, nothing, nothing)
    consumer.committed = committed
    await consumer.perform_seek()
    await consumer._drain_messages(SimpleNamespace(_stopped=asyncio.Event()))
    for message in taken[1:]:
        consumer.ack(message)
    return consumer._filter_committable_offsets([PLACE]).get(PLACE)


found = {committed: asyncio.run(committed_offset(committed)) for committed in (None, 0, 5)}
for committed, offset in found.items():
    print(f"committed {committed}, 5 in work, 6 and 7 acknowledged: commits {offset}")
print("REPRODUCED" if 8 in found.values() else "not reproduced")
sys.exit(0 if 8 in found.values() else 1)
