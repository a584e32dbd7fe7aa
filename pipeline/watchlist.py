"""The watch list: the newest voiceprint of every enrolled subject, followed from the compacted topic `watchlist`."""

import asyncio
import contextlib
import logging
from typing import Any

import msgspec
import stamina
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.cancellation import stop_consumer
from pipeline.delivery import describe_error
from pipeline.membership import reader_fault
from pipeline.records import UNDECODABLE
from pipeline.scoring.voiceprint import Voiceprint, decode
from pipeline.settings import Settings
from pipeline.whole_topic import open_topic
from schemas.stream import WatchlistEntry

logger = logging.getLogger(__name__)

_DECODER = msgspec.json.Decoder(WatchlistEntry)


class WatchlistFollower:
    """Every worker follows the whole list; `entries` maps subject ids to voiceprints."""

    def __init__(self, settings: Settings) -> None:
        self.entries: dict[str, Voiceprint] = {}
        self._topic = settings.topic("watchlist")
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the list to its end, then go on following it."""
        async for attempt in stamina.retry_context(on=(KafkaError, OSError), attempts=None, timeout=None, wait_max=5.0):
            with attempt:
                if attempt.num > 1:
                    logger.warning("the watch list cannot be read from %s yet, trying again", self._settings.broker)
                await self._read_to_end()
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._consumer is not None:
            await stop_consumer(self._consumer)

    async def _read_to_end(self) -> None:
        if self._consumer is not None:
            await stop_consumer(self._consumer)
            self._consumer = None
        self._consumer, places = await open_topic(self._settings, self._topic, from_begin=True)
        for place, end in (await self._consumer.end_offsets(places)).items():
            while await self._consumer.position(place) < end:
                await self._take(await self._consumer.getmany(timeout_ms=200))

    async def _follow(self) -> None:
        while True:
            try:
                consumer = self._consumer
                if consumer is None or reader_fault(consumer._fetcher, consumer._client):
                    await self._read_to_end()
                else:
                    await self._take(await consumer.getmany(timeout_ms=1000))
            except Exception as error:  # noqa: BLE001 - else nobody would hear that the list stands still
                logger.warning("cannot read the watch list, trying again: %s", describe_error(error))
                await asyncio.sleep(1.0)

    async def _take(self, batches: dict[TopicPartition, list[ConsumerRecord[Any, Any]]]) -> None:
        for records in batches.values():
            for record in records:
                await self._take_one(record)

    async def _take_one(self, record: ConsumerRecord[Any, Any]) -> None:
        subject = (record.key or b"").decode(errors="replace")
        if not record.value:
            self.entries.pop(subject, None)
            return
        try:
            self.entries[subject] = decode(_DECODER.decode(record.value).voiceprint)
        except UNDECODABLE as error:
            # Logged, not buried: every worker reads the whole list at every start.
            place = f"{record.topic}/{record.partition}/{record.offset}"
            logger.warning(
                "watch list: the entry of %r at %s is no voiceprint and is left out: %s", subject[:128], place, error
            )
