"""The watch list: the newest voiceprint of every enrolled subject, followed from the compacted topic `watchlist`."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import msgspec
import stamina
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.cancellation import stop_consumer
from pipeline.delivery import describe_error
from pipeline.membership import reader_fault
from pipeline.records import UNDECODABLE
from pipeline.scoring.enrolled import Enrolled
from pipeline.scoring.voiceprint import decode, pack
from pipeline.settings import Settings
from pipeline.whole_topic import open_topic
from schemas.stream import WatchlistEntry

logger = logging.getLogger(__name__)

_DECODER = msgspec.json.Decoder(WatchlistEntry)


_Read: TypeAlias = "ConsumerRecord[Any, Any]"
_Batches: TypeAlias = Mapping[TopicPartition, Sequence[_Read]]


class _Word(NamedTuple):
    """The last that was said of a subject: its packed voiceprint, or None when it was removed."""

    partition: int
    timestamp_ms: int
    packed: bytes | None


class WatchlistFollower:
    """Every worker follows the whole list."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topic("watchlist")
        self._settings = settings
        self._newest: dict[str, _Word] = {}
        self._now: asyncio.Task[Enrolled] | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def entries(self) -> dict[str, bytes]:
        """Packed voiceprints by subject id."""
        return {subject: word.packed for subject, word in self._newest.items() if word.packed is not None}

    async def now(self) -> Enrolled:
        """The list as it is; the same object until it changes. Made in a thread: other calls must not wait for a long one."""
        if self._now is None:
            self._now = asyncio.create_task(asyncio.to_thread(Enrolled, self.entries))
        return await asyncio.shield(self._now)

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
        consumer, places = await open_topic(self._settings, self._topic, from_begin=True)
        newest: dict[str, _Word] = {}
        try:
            for place, end in (await consumer.end_offsets(places)).items():
                while await consumer.position(place) < end:
                    _take(await consumer.getmany(timeout_ms=200), newest)
        except BaseException:
            await stop_consumer(consumer)
            raise
        # At once, so that no call meets half a list; what was removed while nobody followed may have left no trace.
        self._consumer, self._now = consumer, None
        self._newest = {subject: word for subject, word in newest.items() if word.packed is not None}

    def _is_all(self, consumer: AIOKafkaConsumer) -> bool:
        """Whether what this one follows is all there is: subjects move to partitions that are added."""
        if reader_fault(consumer._fetcher, consumer._client):
            return False
        partitions = consumer.partitions_for_topic(self._topic)
        return not partitions or partitions == {place.partition for place in consumer.assignment()}

    async def _follow(self) -> None:
        while True:
            try:
                if self._consumer is None or not self._is_all(self._consumer):
                    await self._read_to_end()
                else:
                    self.take(await self._consumer.getmany(timeout_ms=1000))
            except Exception as error:  # noqa: BLE001 - else nobody would hear that the list stands still
                logger.warning("cannot read the watch list, trying again: %s", describe_error(error))
                await asyncio.sleep(1.0)

    def take(self, batches: _Batches) -> None:
        """Follow what has come."""
        for subject in _take(batches, self._newest):
            self._now = None
            if self._newest[subject].packed is None:
                del self._newest[subject]


def _subject_of(record: _Read) -> str:
    return (record.key or b"").decode(errors="replace")


def _word_of(record: _Read) -> _Word:
    """What a record says. What is no voiceprint ends what was there before, which compaction will delete anyway."""
    if not record.value:
        return _Word(record.partition, record.timestamp, None)
    try:
        return _Word(record.partition, record.timestamp, pack(decode(_DECODER.decode(record.value).voiceprint)))
    except UNDECODABLE as error:
        # Logged, not buried: every worker reads the whole list at every start.
        words = "watch list: the entry of %r at %s/%d/%d is no voiceprint; the subject is not on the list until one comes: %s"
        logger.warning(words, _subject_of(record)[:128], record.topic, record.partition, record.offset, error)
        return _Word(record.partition, record.timestamp, None)


def _take(batches: _Batches, newest: dict[str, _Word]) -> list[str]:
    """Put the newest word of each subject into `newest`; the subjects of which there is a new one.

    What was said of a subject before partitions were added lies in another partition than what is said now.
    """
    changed: dict[str, None] = {}
    for record in itertools.chain.from_iterable(batches.values()):
        subject, word = _subject_of(record), _word_of(record)
        known = newest.get(subject)
        if known is None or known.partition == word.partition or known.timestamp_ms <= word.timestamp_ms:
            newest[subject] = word
            changed[subject] = None
    return list(changed)
