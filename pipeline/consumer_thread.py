"""The thread in which an agent's aiokafka consumer lives: Faust's, which ends as it should and idles for less."""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol, cast

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
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

    _is_beginning = True

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

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """A rebalance is decided. What is assigned first is not fetched before `let_go`.

        aiokafka fetches as soon as it knows from where. Kafka answers a connection in turn, and a fetch not before there is
        something new or 1.5 s are over: so long would wait what else has to be asked before reading begins, and the next fetch.
        Later the loop of the agents waits for records when a rebalance comes, and must not be kept from them.
        """
        if self._is_beginning:
            consumer = self._ensure_consumer()
            consumer.pause(*consumer.assignment())
        await super().on_partitions_assigned(assigned, generation_id)

    async def let_go(self) -> None:
        """Fetch what is assigned, from where the consumer has sought to."""
        if self._is_beginning:
            await self.call_thread(self._let_go)

    async def _let_go(self) -> None:
        self._is_beginning = False
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
