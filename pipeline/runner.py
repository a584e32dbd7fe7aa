"""The frame around every agent: reads records, runs its stage, gives offsets back, and stops at too many dead letters."""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import NoReturn, cast

from faust.types import TP
from faust.types.tuples import Message

from pipeline.breaker import Breaker, BreakerOpenError
from pipeline.cancellation import uncancelled
from pipeline.consumer import StageApp, StageConsumer
from pipeline.delivery import Acknowledge, DeliveryWindow, Reached, Receipt, describe_error
from pipeline.membership import Lease, has_lost_partitions, is_member
from pipeline.publishing import FaustPublisher, Publisher, RecordTooLargeError, bare_letter, dead_letter
from pipeline.records import Record, shown_key
from pipeline.settings import Settings
from pipeline.stage import ExhaustedError, NotProcessedError, Stage, process_record
from pipeline.transactions import OpenTransactions
from schemas.errors import DeadLetterType

logger = logging.getLogger(__name__)

TICK_S = 0.5
_ANSWER_S = 5.0
_SEEK_S = 60.0  # behind a rebalance, until the records before the committed offset have come again
_QUIET_S = 2.0  # nothing fetched for so long, though the broker answers: there is nothing to fetch


def _unobserved(_: float) -> None:
    """Nobody asks."""


def _nobody() -> None:
    """It runs in no worker."""


class LostPlaceError(Exception):
    """The consumer is not where it must be in a partition; the process ends, nothing is committed there."""


class StageRunner:
    """Runs one stage on one Faust app."""

    def __init__(self, app: StageApp, stage: Stage, settings: Settings, lease: Lease) -> None:
        self.app = app
        self.stage = stage
        self.settings = settings
        self._lease = lease
        self.publisher: Publisher = FaustPublisher(app, settings, lease)
        self.records_count = 0
        self.observe_age: Callable[[float], None] = _unobserved  # how old (s) a record was when the stage had dealt with it
        self.dead_letters_count = 0
        self.breaker = Breaker(settings.dead_letter_limit, settings.dead_letter_ratio, settings.dead_letter_window)
        self.end_worker: Callable[[], None] = _nobody  # ends the process in order
        self._clean: set[bytes] = set()  # keys of the records in work of which nothing is buried
        self._left: set[bytes] = set()  # keys of which a record was not processed: none behind it may be
        self._joined = False
        self._window = DeliveryWindow(settings.in_flight, self._crash)
        self._transactions = OpenTransactions(settings.idle_timeout_s)
        self._last_seen: dict[tuple[str, int], tuple[int, float]] = {}
        self._unanswered_s: dict[tuple[str, int], float] = {}
        self._acknowledgers: dict[TP, Acknowledge] = {}
        self._attach()

    def _attach(self) -> None:
        names = [self.settings.topic(name) for name in self.stage.topics]
        self.app.topics.add(self.app.topic(*names, key_serializer="raw", value_serializer="raw"))
        self.app.take = self.take
        self.app.task(self._tick)
        self.app.on_partitions_revoked.connect(self._on_revoked)
        self.app.on_partitions_assigned.connect(self._on_assigned)
        self.app.on_before_shutdown.connect(self._on_shutdown)

    @property
    def _consumer(self) -> StageConsumer:
        return cast(StageConsumer, self.app.consumer)

    async def take(self, message: Message) -> None:
        """Put a record to work; waits while enough are."""
        record = to_record(message)
        place = (record.topic, record.partition)
        self._last_seen[place] = (record.offset, time.monotonic())
        reached = Reached(self._consumer.read_from, self._consumer._committed_offset.get(message.tp))
        receipt = self._window.issue(place, record.offset, self._acknowledger(message.tp), reached)
        if receipt is not None:
            await self._window.lanes.submit(record.key or b"", lambda: self._process(record, receipt))

    def _acknowledger(self, place: TP) -> Acknowledge:
        """One for each partition, not for each record: many receipts may be held."""
        if place not in self._acknowledgers:
            self._acknowledgers[place] = functools.partial(self._consumer.acknowledge, place)
        return self._acknowledgers[place]

    async def _process(self, record: Record, receipt: Receipt) -> None:
        key = record.key or b""
        if self.breaker.is_open or key in self._left:
            return  # it comes again, to a worker that can deal with it
        self.records_count += 1
        self._clean.add(key)
        try:
            await process_record(self.stage, self, record, receipt, is_ending=lambda: bool(self.app.should_stop))
            if record.timestamp_s > 0:  # -1: it has none
                self.observe_age(max(0.0, time.time() - record.timestamp_s))  # its producer's clock may be ahead
            if key in self._clean:
                self.breaker.good()
        except NotProcessedError as error:
            words = "stage %s leaves %s (key %r) and what follows it to a successor: %s"
            logger.warning(words, self.stage.name, record.source, shown_key(record.key), error)
            self._left.add(key)
            if isinstance(error, ExhaustedError):
                raise
        finally:
            self._clean.discard(key)

    async def bury(self, record: Record, error_type: DeadLetterType, message: str) -> None:
        """Send a record to `dead-letters`. Raises BreakerOpenError when that is one too many: it is not sent."""
        key = record.key or b""
        if self.breaker.would_trip(key):
            self._trip(record, error_type)
        # Counted before it is sent: others are decided on meanwhile.
        self.breaker.buried(key, error_type)
        self._clean.discard(key)
        self.dead_letters_count += 1
        logger.warning("dead letter from %s: %s (%s), key %r", record.source, message, error_type, shown_key(record.key))
        try:
            await self.publisher.publish([dead_letter(record, self.stage.name, error_type, message)])
        except RecordTooLargeError as error:
            logger.warning("dead letter from %s without what it carried: %s", record.source, error)
            await self.publisher.publish([bare_letter(record, self.stage.name, error_type, message)])

    def _trip(self, record: Record, error_type: DeadLetterType) -> NoReturn:
        if not self.breaker.is_open:
            self.breaker.open()
            logger.critical(
                "agent %s stops: %s; the next would be %s (%s), left unacknowledged. Look with `callstream dead-letters list`, "
                "fix the cause, `callstream dead-letters replay`, start again; CALLSTREAM_DEAD_LETTER_LIMIT, "
                "CALLSTREAM_DEAD_LETTER_RATIO and CALLSTREAM_DEAD_LETTER_WINDOW allow more",
                self.stage.name,
                self.breaker.describe(error_type),
                record.source,
                error_type,
            )
            self.end_worker()
        raise BreakerOpenError(record.source)

    async def submit(self, key: Hashable, job: Callable[[], Awaitable[None]]) -> None:
        """Run a job behind the records of this key that wait."""
        if self.breaker.is_open:
            return
        await self._window.lanes.submit(key, job)

    def give_way(self) -> None:
        """The record in work is about to wait for what is away: others may be in work in its place."""
        self._window.lanes.give_way()

    async def is_caught_up(self, topic: str, partition: int) -> bool:
        """Whether all that the partition holds has reached the stage; False when the broker, or a transaction, hides it."""
        offset, seen_at_s = self._last_seen.get((topic, partition), (-1, 0.0))
        place = TP(topic, partition)
        try:
            async with asyncio.timeout(_ANSWER_S):
                # What is asked for is given up when the consumer stops.
                end, position = await uncancelled(self._end_and_position(place))
        except Exception as error:  # noqa: BLE001 - a broker that does not answer says nothing about the partition
            logger.warning("cannot tell whether %s/%d is read to its end: %s", topic, partition, describe_error(error))
            self._unanswered_s[topic, partition] = time.monotonic()
            return False
        if place in self._consumer.hidden():  # maybe of the calls that are asked for; behind it they have time again
            self._unanswered_s[topic, partition] = time.monotonic()
            return False
        if offset + 1 >= end:
            return True
        # The last offsets may be a transaction's markers, which reach nobody: then all that was fetched has been taken.
        return position >= end and self._consumer.has_given_all and time.monotonic() - seen_at_s > _QUIET_S

    def answering_since_s(self, topic: str, partition: int) -> float:
        """Since when Kafka has answered in full, as far as it was asked: before that nobody could send anything."""
        return max(self._lease.answering_since_s(), self._unanswered_s.get((topic, partition), 0.0))

    async def _end_and_position(self, place: TP) -> tuple[int, int]:
        end = (await self.app.consumer.highwaters(place))[place]
        return end, await self.app.consumer.position(place) or 0

    async def _tick(self) -> None:
        while not self.app.should_stop:
            await asyncio.sleep(TICK_S)
            await self.stage.tick()
            self._transactions.look(self._consumer.hidden(), time.monotonic())
            if self._window.held_s() > self.settings.grace_period_s + _SEEK_S:
                self._crash(LostPlaceError("records that a rebalance dropped did not come again; a new process reads them"))

    async def _on_revoked(self, *sent: object, **_: object) -> None:
        self._joined = False
        if has_lost_partitions(self.app):
            self._drop_all()  # another is at work on them since, and goes on where we committed
        elif sent[1]:  # the partitions; none at the first assignment
            await self.hand_over()

    async def _on_assigned(self, *_: object, **__: object) -> None:
        self._lease.renew(time.monotonic())
        self._joined = True

    async def _on_shutdown(self, *_: object, **__: object) -> None:
        self._lease.waive()
        await self.hand_over()

    async def hand_over(self) -> None:
        """Finish what is in work, commit it, and forget the rest: it will be read again by whoever gets the partitions."""
        if not await self._drain():
            logger.warning("stage %s: work in flight did not end and will be done again", self.stage.name)
        try:
            await self._consumer.commit_all()
        finally:
            self._drop_all()

    async def _drain(self) -> bool:
        """Let work end; there is no use in that once the group has gone on without us."""
        give_up_s = time.monotonic() + self.settings.grace_period_s
        while (left_s := give_up_s - time.monotonic()) > 0 and not has_lost_partitions(self.app):
            if await self._window.drain(min(left_s, 1.0)):
                return True
        return False

    def _drop_all(self) -> None:
        self._left.clear()
        self._window.reset()
        self._consumer.forget()
        self._last_seen.clear()
        self.stage.forget()

    def is_ready(self) -> bool:
        """Whether the agent is a member of its group and no rebalance is under way."""
        is_working = self._joined and not self.app.rebalancing and not self.app.should_stop and self._consumer.has_begun
        return is_working and self._lease.is_valid() and is_member(self.app)

    def unacknowledged(self) -> int:
        """Records whose offsets are not given back yet."""
        return self._window.state().unacknowledged

    def _crash(self, error: BaseException) -> None:
        if isinstance(error, BreakerOpenError):
            return  # said, and the worker is ending
        logger.critical("stage %s cannot go on: %s", self.stage.name, describe_error(error))
        asyncio.ensure_future(self.app.crash(error))  # noqa: RUF006 - ends with the app


def to_record(message: Message) -> Record:
    """Faust's message as a record."""
    headers = message.headers or ()
    pairs = list(headers.items()) if isinstance(headers, Mapping) else headers
    return Record(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        key=message.key,
        value=message.value,
        headers=tuple((name, value) for name, value in pairs if isinstance(value, bytes)),
        timestamp_s=message.timestamp or 0.0,
    )
