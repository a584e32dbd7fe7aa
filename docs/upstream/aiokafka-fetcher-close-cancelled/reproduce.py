"""Does AIOKafkaConsumer.stop() get through when the broker has just closed the connection?"""

import asyncio
import sys
from types import SimpleNamespace

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import KafkaConnectionError

PLACE = TopicPartition("topic", 0)


class Client:
    """Knows one broker, which closes the connection at each request."""

    _metadata_max_age_ms = 300_000
    cluster = SimpleNamespace(leader_for_partition=lambda _: 0)
    closed = False

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def send(self, *_: object) -> None:
        """What AIOKafkaClient.send does then."""
        raise KafkaConnectionError("Connection at 127.0.0.1:9092 closed")

    async def close(self) -> None:
        """Close the connections that are left."""
        self.closed = True


async def outcome() -> tuple[str, bool]:
    """What came out of stop(), and whether the client was closed."""
    client, subscriptions = Client(), SubscriptionState()
    fetcher = Fetcher(client, subscriptions)
    consumer = SimpleNamespace(_closed=False, _coordinator=None, _fetcher=fetcher, _client=client)
    subscriptions.assign_from_user([PLACE])
    fetcher.seek_to(PLACE, 0)
    await asyncio.sleep(0.05)  # less than retry_backoff_ms, in which the fetch task sleeps
    try:
        await AIOKafkaConsumer.stop(consumer)
    except asyncio.CancelledError:
        asked_for = asyncio.current_task().cancelling() > 0
        return f"CancelledError, {'asked for' if asked_for else 'which nobody asked for'}", client.closed
    return "nothing", client.closed


raised, closed = asyncio.run(outcome())
print(f"stop() raised: {raised}; the client was closed: {closed}")
print("not reproduced" if closed else "REPRODUCED")
sys.exit(1 if closed else 0)
