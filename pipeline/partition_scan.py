"""What another topic says about a partition that was just taken over: read once, when the partition's first record comes."""

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import stamina
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.cancellation import stop_consumer
from pipeline.connection import aiokafka_reader_options
from pipeline.delivery import describe_error
from pipeline.records import Record
from pipeline.settings import Settings
from pipeline.whole_topic import partition_numbers

logger = logging.getLogger(__name__)

Found = TypeVar("Found")


class PartitionScan(ABC, Generic[Found]):
    """Reads the partition of the same number of `topic`, up to its end at that moment."""

    topic: str

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._scans: dict[int, asyncio.Task[Found]] = {}

    async def of(self, first: Record) -> Found:
        """What was found for this record's partition; only the partition's first record waits for long."""
        scan = self._scans.get(first.partition)
        if scan is None or _has_failed(scan):
            scan = self._scans[first.partition] = asyncio.create_task(self._scan(first))
        return await asyncio.shield(scan)

    def known(self, partition: int) -> Found | None:
        """What was found for this partition; None when nobody asked yet, or the answer is not there."""
        scan = self._scans.get(partition)
        return scan.result() if scan is not None and scan.done() and not _has_failed(scan) else None

    def forget(self) -> None:
        """The partitions are being assigned anew: others may write meanwhile."""
        for scan in self._scans.values():
            scan.cancel()
        self._scans.clear()

    @abstractmethod
    def empty(self) -> Found:
        """What is found in nothing."""

    @abstractmethod
    def take(self, found: Found, record: "ConsumerRecord[bytes, bytes]", first: Record) -> None:
        """Add a record."""

    async def begin(
        self,
        consumer: AIOKafkaConsumer,
        place: TopicPartition,
        first: Record,  # noqa: ARG002 - for subclasses
    ) -> int | None:
        """The offset to read from; None when there is nothing to read."""
        offsets: dict[TopicPartition, int] = await consumer.beginning_offsets([place])
        return offsets[place]

    def finish(self, found: Found, end: int) -> None:
        """Everything before offset `end` was read."""

    async def _scan(self, first: Record) -> Found:
        async for attempt in stamina.retry_context(on=(KafkaError, OSError), attempts=None, timeout=None, wait_max=5.0):
            with attempt:
                try:
                    return await self._read(first)
                except (KafkaError, OSError) as error:
                    name = self.settings.topic(self.topic)
                    logger.warning("cannot read %s/%d, trying again: %s", name, first.partition, await self._why(error, first))
                    raise
        raise AssertionError("retried for ever")

    async def _why(self, error: Exception, first: Record) -> str:
        """In words of what there is to do, where partitions were added to one topic and not to the others."""
        name = self.settings.topic(self.topic)
        with contextlib.suppress(KafkaError, OSError):
            known = (await partition_numbers(self.settings)).get(name, set())
            if first.partition not in known:
                return f"{name} has {len(known)} partitions, and {first.topic} more: give it as many"
        return describe_error(error)

    async def _read(self, first: Record) -> Found:
        place = TopicPartition(self.settings.topic(self.topic), first.partition)
        consumer = AIOKafkaConsumer(**aiokafka_reader_options(self.settings), auto_offset_reset="earliest")
        try:
            await consumer.start()
            consumer.assign([place])
            end = (await consumer.end_offsets([place]))[place]
            begin = await self.begin(consumer, place, first)
            consumer.seek(place, end if begin is None else max(0, min(begin, end)))  # whatever a record of another says
            found = self.empty()
            while await consumer.position(place) < end:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        self.take(found, record, first)
            self.finish(found, end)
            return found
        finally:
            await stop_consumer(consumer)


def _has_failed(scan: asyncio.Task[Found]) -> bool:
    return scan.done() and (scan.cancelled() or scan.exception() is not None)
