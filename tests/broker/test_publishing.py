"""A publisher on real Kafka, while that does not answer for longer than a request may take, or changes: everything arrives."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]  # no __all__

from pipeline.app import build_app
from pipeline.broker import EmbeddedBroker
from pipeline.membership import producer_fault
from pipeline.publishing import MAX_RECORD_BYTES, FaustPublisher, RecordTooLargeError
from pipeline.records import OutgoingRecord
from pipeline.settings import Settings
from pipeline.topics import create_topics

pytestmark = pytest.mark.broker

REQUEST_S = 2.0
STANDSTILL_S = 3.0 * REQUEST_S
VALUES = {bytes([65 + number]) * 20_000 for number in range(8)}  # each fills a batch of aiokafka's, so that the next waits


async def test_what_a_broker_that_stands_still_is_told_arrives(embedded_broker: EmbeddedBroker, topic_prefix: str) -> None:
    settings = Settings(broker=embedded_broker.bootstrap, topic_prefix=topic_prefix, partitions=1)
    await create_topics(settings)
    app = build_app("publishing", settings)
    app.conf.producer_request_timeout = REQUEST_S
    app.lease.waive()
    publisher = FaustPublisher(app, settings, app.lease)
    try:
        first = await publisher.publish([OutgoingRecord("speech", b"call", b"before", partition=0)])
        assert first == [0]
        assert producer_fault(app) is None
        assert embedded_broker.pid is not None
        records = [OutgoingRecord("speech", b"call", value, partition=0) for value in VALUES]
        os.kill(embedded_broker.pid, signal.SIGSTOP)
        try:
            publishing = [asyncio.create_task(publisher.publish([record])) for record in records]
            await asyncio.sleep(STANDSTILL_S)
        finally:
            os.kill(embedded_broker.pid, signal.SIGCONT)
        offsets = await asyncio.gather(*publishing)
        arrived = await read(settings, 1 + max(one for [one] in offsets))
        await cast(Any, app.producer)._producer._sender.close()
        assert producer_fault(app) is not None  # seen where Faust keeps it
    finally:
        await app.producer.stop()
    assert {arrived[one] for [one] in offsets} == VALUES


async def test_records_of_two_topics_are_published_side_by_side(broker_bootstrap: str, topic_prefix: str) -> None:
    """One of them may never fit: the other one is there, and whoever sent them knows."""
    partial = OutgoingRecord("results", b"call", b"partial")
    async with publisher_to(broker_bootstrap, topic_prefix) as (publisher, settings):
        assert await publisher.publish_side_by_side([]) == []
        assert await publisher.publish_side_by_side([partial]) == [0]
        first = OutgoingRecord("speech", b"call", b"first", partition=0)
        assert await publisher.publish_side_by_side([first, partial]) == [0, 1]
        for value in (b"x" * (MAX_RECORD_BYTES + 1), b"x" * MAX_RECORD_BYTES):  # ours to see, aiokafka's to see
            with pytest.raises(RecordTooLargeError):
                await publisher.publish_side_by_side([OutgoingRecord("speech", b"call", value, partition=0), partial])
        assert await publisher.publish([partial, partial]) == [4, 5]
        assert await read(settings, 1) == [b"first"]


async def test_a_partition_that_was_just_added_is_known_to_a_producer(broker_bootstrap: str, topic_prefix: str) -> None:
    async with publisher_to(broker_bootstrap, topic_prefix) as (publisher, settings):
        assert await publisher.publish([OutgoingRecord("speech", b"call", b"one", partition=0)]) == [0]
        admin = AdminClient({"bootstrap.servers": settings.broker})
        [grown] = admin.create_partitions([NewPartitions(settings.topic("speech"), 2)]).values()
        grown.result(30)
        assert await publisher.publish([OutgoingRecord("speech", b"call", b"two", partition=1)]) == [0]


@contextlib.asynccontextmanager
async def publisher_to(bootstrap: str, topic_prefix: str) -> AsyncIterator[tuple[FaustPublisher, Settings]]:
    """Topics of one partition, and who publishes to them."""
    settings = Settings(broker=bootstrap, topic_prefix=topic_prefix, partitions=1)
    await create_topics(settings)
    app = build_app("publishing", settings)
    app.lease.waive()
    try:
        yield FaustPublisher(app, settings, app.lease), settings
    finally:
        await app.producer.stop()


async def read(settings: Settings, end: int) -> list[bytes | None]:
    """The values of the topic's first records."""
    consumer = AIOKafkaConsumer(bootstrap_servers=settings.broker, auto_offset_reset="earliest")
    await consumer.start()
    try:
        consumer.assign([TopicPartition(settings.topic("speech"), 0)])
        return [(await consumer.getone()).value for _ in range(end)]
    finally:
        await consumer.stop()
