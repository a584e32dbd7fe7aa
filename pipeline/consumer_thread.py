"""The thread in which an agent's aiokafka consumer lives: Faust's, which ends as it should and idles for less."""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol, cast

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from faust.transport.consumer import RecordMap
from faust.transport.drivers import aiokafka as aiokafka_driver
from faust.types import TP
from mode import Service
from mode.threads import MethodQueue, MethodQueueWorker

from pipeline.cancellation import stop_consumer
from pipeline.membership import Lease

COMMIT_S = 30.0
# How often aiokafka looks what to fetch when nothing has changed. Whatever changes that (a record taken, a seek, an answer, an
# assignment) wakes it anyway, and its own fifth of a second took a quarter of all that an idle worker does.
_LOOK_S = 1.0


_TURNS = 3  # of the loop, in which a fetch that waited for the assignment comes to wait for records


class _HeldError(Exception):
    """A rebalance has ended what a fetch waited for."""


class _LeasedApp(Protocol):
    lease: Lease


class _MethodQueueWorker(MethodQueueWorker):
    @Service.task
    async def _method_queue_do_work(self) -> None:
        # mode's own waits before each call for an event that is never cleared, which takes three tasks and 90 µs.
        queue = self.method_queue
        while not (self.should_stop or queue.should_stop):
            await queue._process_enqueued(await queue._queue.get())


class _MethodQueue(MethodQueue):
    Worker = _MethodQueueWorker


class ConsumerThread(aiokafka_driver.AIOKafkaConsumerThread):
    """The thread of one agent's consumer."""

    async def on_start(self) -> None:
        """Begin; the lease follows the member."""
        await super().on_start()
        coordinator = None if self._consumer is None else self._consumer._coordinator
        if isinstance(coordinator, GroupCoordinator):
            cast(_LeasedApp, self.app).lease.follow(coordinator)

    @property
    def method_queue(self) -> MethodQueue:
        """Where the loop of the agents leaves what this thread is to do."""
        if self._method_queue is None:
            self._method_queue = _MethodQueue(loop=self.thread_loop, beacon=self.beacon)
        return self._method_queue

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:  # noqa: ANN401 - Faust's
        consumer = super()._create_worker_consumer(transport)
        consumer._consumer_timeout = _LOOK_S
        return consumer

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """A rebalance begins."""
        self._hold()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """It is decided."""
        self._hold()
        await self._end_fetch()
        await super().on_partitions_assigned(assigned, generation_id)

    def _hold(self) -> None:
        """Fetch nothing before `let_go`.

        aiokafka fetches as soon as it knows from where. Kafka answers a connection in turn, and a fetch not before there is
        something new or 1.5 s are over: so long would wait what else has to be asked before reading begins, and the next fetch.
        """
        consumer = self._ensure_consumer()
        consumer.pause(*consumer.assignment())

    async def _end_fetch(self) -> None:
        """Let the loop of the agents go on, which waits for records of before: nothing comes while partitions are held."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for waiter in list(cast(Any, self._ensure_consumer()._fetcher)._fetch_waiters):
            if not waiter.done():
                waiter.set_exception(_HeldError())

    async def _fetch_records(
        self,
        consumer: AIOKafkaConsumer,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's
        max_records: int | None = None,
    ) -> RecordMap:
        try:
            return await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        except _HeldError:
            return {}

    async def let_go(self) -> None:
        """Fetch what is assigned, from where the consumer has sought to."""
        await self.call_thread(self._let_go)

    async def _let_go(self) -> None:
        consumer = self._ensure_consumer()
        consumer.resume(*consumer.assignment())

    async def on_thread_stop(self) -> None:
        """End."""
        # Not the driver's own, which calls `stop`: a CancelledError from there would end this thread without saying so, and
        # Faust would wait for it for ever.
        await super(aiokafka_driver.AIOKafkaConsumerThread, self).on_thread_stop()
        if self._consumer is not None:
            await stop_consumer(self._consumer)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        # Of partitions that are gone meanwhile nothing can be committed, and aiokafka takes it ill to be asked for nothing.
        mine = {place: offset for place, offset in offsets.items() if place in self.assignment()}
        if not mine:
            return False
        async with asyncio.timeout(COMMIT_S):  # aiokafka tries for ever where the topic is gone
            return await super()._commit(mine)
