"""What a consumer asks of real Kafka when it is given partitions, and in which order."""

import asyncio
import threading
from typing import Any

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.protocol.offset import OffsetRequest

from pipeline.consumer import StageConsumer
from pipeline.records import OutgoingRecord
from pipeline.settings import Settings
from pipeline.topics import create_topics
from tests.broker.members import member, until

pytestmark = pytest.mark.broker


async def test_nothing_is_fetched_before_the_place_to_begin_at_is_known(
    monkeypatch: pytest.MonkeyPatch, broker_bootstrap: str, topic_prefix: str
) -> None:
    """A fetch that finds nothing keeps its connection for 1.5 s: whatever is asked behind it waits."""
    asked: list[type[Any]] = []
    send: Any = AIOKafkaClient.send
    seek = StageConsumer._seek_to_committed

    async def listed(self: AIOKafkaClient, node_id: int, request: Any, **how: Any) -> Any:
        asked.append(type(request))
        return await send(self, node_id, request, **how)

    async def late(self: StageConsumer) -> None:
        await asyncio.sleep(0.3)  # other agents begin as well
        await seek(self)

    monkeypatch.setattr(AIOKafkaClient, "send", listed)
    monkeypatch.setattr(StageConsumer, "_seek_to_committed", late)
    settings = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, partitions=3)
    await create_topics(settings)
    async with member(settings) as (runner, stage):
        await until(lambda: runner.is_ready() and FetchRequest in asked)
        assert OffsetRequest in asked
        assert OffsetRequest not in asked[asked.index(FetchRequest) :], asked
        await runner.publisher.publish([OutgoingRecord("media", b"call", b"audio", partition=2)])
        await until(lambda: stage.values == [b"audio"])


async def test_what_is_assigned_later_is_read_too(broker_bootstrap: str, topic_prefix: str) -> None:
    """Another member comes, and goes again."""
    settings = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, partitions=3)
    await create_topics(settings)
    async with member(settings) as (first, one):
        await until(first.is_ready)
        async with member(settings) as (second, other):
            await until(lambda: second.is_ready() and len(second.app.consumer.assignment()) < 3)
            await until(lambda: first.is_ready() and len(first.app.consumer.assignment()) < 3)
            values = [b"%d" % number for number in range(3)]
            for number, value in enumerate(values):
                await first.publisher.publish([OutgoingRecord("media", b"call", value, partition=number)])
            await until(lambda: sorted(one.values + other.values) == values)
        await until(lambda: first.is_ready() and len(first.app.consumer.assignment()) == 3)
        for number in range(3):
            await first.publisher.publish([OutgoingRecord("media", b"call", b"alone", partition=number)])
        await until(lambda: one.values.count(b"alone") == 3)


async def test_a_member_lives_in_the_loop_of_the_agents(broker_bootstrap: str, topic_prefix: str) -> None:
    """Seven threads would wake one another for each fetch."""
    settings = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, partitions=3)
    await create_topics(settings)
    before = set(threading.enumerate())
    async with member(settings) as (first, _):
        await until(first.is_ready)
        assert set(threading.enumerate()) <= before
