"""The group rebalances while Faust commits, so the commit fails. Is the offset committed later?"""

import asyncio
import sys

import faust
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message

PLACE = TP("topic", 0)


class Consumer(driver.Consumer):
    """The consumer, with a broker that refuses the first commit."""

    commits: list[dict[TP, int]]

    async def _commit(self, offsets: dict[TP, int]) -> bool:
        self.commits.append(dict(offsets))
        return len(self.commits) > 1  # the driver answers False to "already rebalanced"

    def assignment(self) -> set[TP]:
        """The partition is still ours."""
        return {PLACE}


async def commits() -> list[dict[TP, int]]:
    """Acknowledge records 0 and 1, and commit three times."""

    async def nothing(*_: object) -> None:
        pass

    app = faust.App("reproduce")
    app.topics._acking_topics.add(PLACE.topic)
    app.producer.flush = nothing
    consumer = Consumer(app.transport, nothing, nothing, nothing)
    consumer.commits = []
    for offset in (0, 1):
        consumer.ack(Message(PLACE.topic, PLACE.partition, offset, 0.0, 0, None, None, None, None, tp=PLACE))
    for _ in range(3):
        await consumer.force_commit()
    return consumer.commits


tried = asyncio.run(commits())
print(f"acknowledged 0 and 1, committed three times, the first one refused: {[commit[PLACE] for commit in tried]}")
print("REPRODUCED" if len(tried) == 1 else "not reproduced")
sys.exit(0 if len(tried) == 1 else 1)
