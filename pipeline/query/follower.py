"""Follows the `results` topic into the view: all partitions, no consumer group, offsets kept by the view.

aiokafka: https://aiokafka.readthedocs.io/en/stable/consumer.html. It hides a broker that went away (reads just come back
empty), so a probe asks for the end offsets every second; whatever fails ends the session, and a new one begins where the
view's offsets say.
"""

# mypy: untyped-calls-exclude="aiokafka"

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from pipeline.cancellation import is_asked_for, stop_consumer
from pipeline.connection import aiokafka_options, aiokafka_reader_options
from pipeline.header_names import tolerate
from pipeline.query.events import Arrival, Hub
from pipeline.query.metrics import QueryMetrics
from pipeline.query.records import RecordInvalidError, read_change
from pipeline.query.view import Change, TaskRow, View, now_ms
from pipeline.refusal import start_client
from pipeline.settings import Settings
from pipeline.topics import topic_id
from pipeline.whole_topic import described_partitions

logger = logging.getLogger(__name__)

TOPIC = "results"
POLL_MS = 200
BATCH_RECORDS = 2000  # one transaction; the share of a batch that a reader or POST may wait for
PROBE_EVERY_S = 1.0
PARTITIONS_EVERY_S = 10.0
TOPIC_EVERY_S = 30.0
PROBE_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 5.0
BACK_OFF_FIRST_S = 0.25
BACK_OFF_MAX_S = 5.0

Fetched = Mapping[TopicPartition, Sequence["ConsumerRecord[bytes | None, bytes | None]"]]


class DamagedViewError(Exception):
    """The view's file was found damaged and began anew; read the topic again."""


@contextlib.asynccontextmanager
async def _admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    client = AIOKafkaAdminClient(**aiokafka_options(settings), request_timeout_ms=int(PROBE_TIMEOUT_S * 1000))
    try:
        await start_client(client, settings)
        yield client
    finally:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await client.close()


async def _stop(consumer: AIOKafkaConsumer) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await stop_consumer(consumer)


class Follower:
    """Feeds the view until cancelled.

    `problem` is None while Kafka answers, else what is wrong with it; `view_problem` is None while the view takes what comes.

    `caught_up`: what was on the topic at the start of the session is in the view, and it stays so. `is_current`: what was there
    a probe ago is, now; a busy topic always holds something that is newer. `complete`: the view has caught up since it was
    opened or emptied and since Kafka was last away, so that what it does not hold is unknown.
    """

    def __init__(self, settings: Settings, view: View, metrics: QueryMetrics, hub: Hub) -> None:
        self._settings, self._view, self._metrics, self._hub = settings, view, metrics, hub
        self._topic = settings.topic(TOPIC)
        tolerate()
        self._catching_up: dict[TopicPartition, int] = {}
        self.problem: str | None = "not connected yet"
        self.view_problem: str | None = None
        self.caught_up = False
        self.is_current = False
        self.complete = asyncio.Event()
        self._last_ends: dict[TopicPartition, int] = {}

    async def run(self) -> None:
        """Follows for ever; only a fault of our own gets out."""
        back_off_s = BACK_OFF_FIRST_S
        while True:
            error = await self._session_error()
            if error is None:
                continue
            was_well = self.problem is None and self.view_problem is None
            back_off_s = BACK_OFF_FIRST_S if was_well else min(back_off_s * 2, BACK_OFF_MAX_S)
            self._fail(error, back_off_s)
            await asyncio.sleep(back_off_s)

    async def until_complete(self, timeout_s: float) -> bool:
        """Whether the view is complete, which is waited for."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                return await self.complete.wait()
        return False

    async def _session_error(self) -> Exception | None:
        """What ended a session; None when it is only to begin anew."""
        try:
            await self._session()
        except asyncio.CancelledError:
            if is_asked_for():
                raise
            return ConnectionError("the broker closed the connection")
        except (KafkaError, OSError, TimeoutError, sqlite3.Error, DamagedViewError) as error:
            return error
        return None

    def _fail(self, error: Exception, back_off_s: float) -> None:
        text, name = str(error) or "no answer in time", type(error).__name__
        problem = text if text.startswith(name) else f"{name}: {text}"  # aiokafka's errors name themselves
        if isinstance(error, sqlite3.Error | DamagedViewError):
            self.problem, self.view_problem = None, problem  # the view is asked once Kafka has answered
            where = f"into the view in {self._settings.data_dir}"
        else:
            self.problem, where = problem, f"on {self._settings.broker}"
        self.caught_up = self.is_current = False
        self._metrics.lag.clear()  # nobody knows it now
        self.complete.clear()  # what is written meanwhile is not known
        logger.warning("following %s %s stopped (%s): again in %g s", self._topic, where, problem, back_off_s)
        if self._view.damaged:
            self._view.rebuild()

    async def _session(self) -> None:
        """From a connection until the partitions change, or the topic is another. Raises what ended it otherwise."""
        async with asyncio.timeout(2 * PROBE_TIMEOUT_S) as deadline, _admin(self._settings) as admin:
            cluster = await admin.describe_cluster()
            partitions = await described_partitions(admin, self._topic)
            bound_id = await self._topic_id()
            await self._bind(f"{cluster['cluster_id']}/{self._topic}", bound_id)
            async with self._consumer(partitions) as consumer, self._until_made_anew(bound_id) as made_anew:
                self._catching_up = self._last_ends = await consumer.end_offsets(partitions)
                deadline.reschedule(None)
                self.problem = None
                await self._follow(admin, consumer, partitions, made_anew)

    async def _topic_id(self) -> str | None:
        # not in asyncio's threads, which a blob store that hangs may hold
        return await self._view.aside(topic_id, self._settings, self._topic, PROBE_TIMEOUT_S)

    @contextlib.asynccontextmanager
    async def _until_made_anew(self, bound_id: str | None) -> AsyncIterator[asyncio.Task[None]]:
        """A look now and then, beside the reading: offsets of the old topic may well be some of the new one too."""

        async def look() -> None:
            while await self._topic_id() in (None, bound_id):  # noqa: ASYNC110  # what is waited for lies in the broker
                await asyncio.sleep(TOPIC_EVERY_S)

        looking = asyncio.create_task(look())
        try:
            yield looking
        finally:
            looking.cancel()

    async def _bind(self, source: str, bound_id: str | None) -> None:
        was_complete = self.complete.is_set()
        self.complete.clear()  # before it is emptied, which it may be
        if await self._view.aside(self._view.bind, source, bound_id):
            self._hub.lose_track()
        elif was_complete:
            self.complete.set()

    @contextlib.asynccontextmanager
    async def _consumer(self, partitions: list[TopicPartition]) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            **aiokafka_reader_options(self._settings),
            auto_offset_reset="earliest",  # also where retention has deleted what our offset names
            request_timeout_ms=int(PROBE_TIMEOUT_S * 1000),
        )
        try:
            await consumer.start()
            consumer.assign(partitions)
            for partition, offset in self._view.next_offsets(self._topic).items():
                if TopicPartition(self._topic, partition) in partitions:
                    consumer.seek(TopicPartition(self._topic, partition), offset)
            yield consumer
        finally:
            await _stop(consumer)

    async def _follow(
        self,
        admin: AIOKafkaAdminClient,
        consumer: AIOKafkaConsumer,
        partitions: list[TopicPartition],
        made_anew: asyncio.Task[None],
    ) -> None:
        probe_at_s, partitions_at_s = 0.0, time.monotonic() + PARTITIONS_EVERY_S
        while not made_anew.done():
            fetched = await consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH_RECORDS)
            if fetched:
                await self._ingest(fetched)
            if self._view.damaged:
                raise DamagedViewError("the view's file is damaged")
            now_s = time.monotonic()
            if now_s >= probe_at_s or (self._catching_up and not fetched):
                await self._probe(consumer, partitions)
                probe_at_s = now_s + PROBE_EVERY_S
            if now_s >= partitions_at_s:
                partitions_at_s = now_s + PARTITIONS_EVERY_S
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    if await described_partitions(admin, self._topic) != partitions:
                        return
        made_anew.result()

    async def _probe(self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> None:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            ends = await consumer.end_offsets(partitions)
            positions = {partition: await consumer.position(partition) for partition in partitions}
        for partition in partitions:
            self._metrics.lag.labels(partition.partition).set(max(0, ends[partition] - positions[partition]))
        # an end that lies beyond today's belonged to a topic that was emptied since
        self._catching_up = {p: end for p, end in self._catching_up.items() if positions[p] < min(end, ends[p])}
        self.caught_up = not self._catching_up
        if self.caught_up:
            self.view_problem = None
            self.complete.set()
        self.is_current = all(positions[p] >= min(self._last_ends[p], ends[p]) for p in partitions)
        self._last_ends = ends

    async def _ingest(self, fetched: Fetched) -> None:
        arrivals: list[Arrival] = []
        for records in fetched.values():
            arrivals.extend(Arrival(change, r.value) for r in records if (change := self._read(r)) is not None)
        next_offsets = {(tp.topic, tp.partition): records[-1].offset + 1 for tp, records in fetched.items() if records}
        await self._view.aside(self._view.apply, [change for change, _ in arrivals], next_offsets)
        self.view_problem = None
        try:
            self._hub.publish(arrivals)  # it asks the view
        except sqlite3.Error:
            self._hub.lose_track()  # the records do not come again
            raise
        self._metrics.ingested.labels("applied").inc(len(arrivals))
        for row in (change for change, _ in arrivals if isinstance(change, TaskRow)):
            self._metrics.states.labels(row.technology.value, row.state.value).inc()

    def _read(self, record: "ConsumerRecord[bytes | None, bytes | None]") -> Change | None:
        now = now_ms()
        timestamp_ms = now if record.timestamp < 0 else min(record.timestamp, now)
        try:
            return read_change(record.key, record.value, timestamp_ms)
        except RecordInvalidError as error:
            self._metrics.ingested.labels("skipped").inc()
            logger.warning("skipped %s/%d/%d, not a task's state: %s", record.topic, record.partition, record.offset, error)
            return None
