"""Stopping a consumer whose library raises a CancelledError that nobody asked for; aiokafka's own objects, without a broker."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import NoGroupCoordinator
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import PartitionMetadata

from pipeline.cancellation import stop_consumer

# mypy: untyped-calls-exclude="aiokafka,tests.test_cancellation"

PLACE = TopicPartition("topic", 0)
WITHIN_BACKOFF_S = 0.05  # of retry_backoff_ms, in which a fetch that failed sleeps

Make = Callable[[], Awaitable[tuple[AIOKafkaConsumer, "Client"]]]


class Client(AIOKafkaClient):
    """A client whose broker closes the connection at each request."""

    closed = 0

    async def send(self, *_: object, **__: object) -> None:
        raise KafkaConnectionError("Connection at 127.0.0.1:9092 closed")

    async def close(self) -> None:
        self.closed += 1  # it has no connection to close


async def started_consumer() -> tuple[AIOKafkaConsumer, Client]:
    """What `AIOKafkaConsumer.start` makes without a group."""
    consumer, client = AIOKafkaConsumer(enable_auto_commit=False), Client()
    client.cluster._partitions[PLACE.topic] = {PLACE.partition: PartitionMetadata(*PLACE, 0, [0], [0], None)}
    consumer._client = client
    consumer._fetcher = Fetcher(client, consumer._subscription)
    consumer._coordinator = NoGroupCoordinator(client, consumer._subscription, exclude_internal_topics=True)
    return consumer, client


async def consumer_at_work() -> tuple[AIOKafkaConsumer, Client]:
    consumer, client = await started_consumer()
    consumer.assign([PLACE])
    consumer.seek(PLACE, 0)
    await asyncio.sleep(WITHIN_BACKOFF_S)
    return consumer, client


async def test_a_consumer_whose_connection_has_closed_is_stopped() -> None:
    consumer, client = await consumer_at_work()
    await stop_consumer(consumer)
    assert client.closed == 1


async def test_a_consumer_that_has_just_started_is_stopped() -> None:
    consumer, client = await started_consumer()  # its tasks have not begun, and end as cancelled
    assert consumer._fetcher is not None
    await stop_consumer(consumer)
    await asyncio.wait([consumer._fetcher._fetch_task], timeout=1.0)
    assert consumer._fetcher._fetch_task.done()
    assert client.closed == 1


@pytest.mark.parametrize("make", [started_consumer, consumer_at_work])
async def test_aiokafka_alone_raises_and_leaves_the_client_open(make: Make) -> None:
    consumer, client = await make()
    with pytest.raises(asyncio.CancelledError):
        await consumer.stop()
    assert client.closed == 0


async def test_a_cancellation_that_was_asked_for_gets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer, client = await consumer_at_work()
    monkeypatch.setattr(consumer._coordinator, "close", asyncio.Event().wait)
    stopping = asyncio.create_task(stop_consumer(consumer))
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert client.closed == 1


async def test_a_cancellation_that_aiokafka_would_swallow_gets_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever follows a topic for ever would otherwise go on, and never end."""
    consumer, client = await consumer_at_work()

    async def swallow() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    inner = asyncio.create_task(swallow())

    async def close() -> None:
        await inner

    async def closed() -> None: ...

    monkeypatch.setattr(consumer._coordinator, "close", close)
    monkeypatch.setattr(consumer._fetcher, "close", closed)
    stopping = asyncio.create_task(stop_consumer(consumer))
    await asyncio.sleep(WITHIN_BACKOFF_S)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert client.closed >= 1


async def test_a_timeout_around_it_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    consumer, client = await consumer_at_work()
    monkeypatch.setattr(consumer._coordinator, "close", asyncio.Event().wait)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(WITHIN_BACKOFF_S):
            await stop_consumer(consumer)
    assert client.closed == 1
