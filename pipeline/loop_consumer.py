"""An agent's aiokafka consumer, in the event loop of the agents.

Faust gives each consumer a thread and a loop of its own, so that code which blocks the agents' loop cannot keep it from Kafka.
Nothing blocks that loop here for long: models run in threads, and so does whatever else takes more than some milliseconds. A
worker of all agents has seven consumers, so seven threads would wake one another for each fetch.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol, cast

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import GroupCoordinator
from faust.transport.consumer import RecordMap
from faust.transport.drivers import aiokafka as aiokafka_driver
from faust.types import TP
from mode.services import Service, ServiceTask
from mode.utils.futures import maybe_async

from pipeline.cancellation import stop_consumer
from pipeline.connection import READ_COMMITTED
from pipeline.membership import Lease, leave_group

COMMIT_S = 30.0
# How often aiokafka looks what to fetch when nothing has changed. Whatever changes that (a record taken, a seek, an answer, an
# assignment) wakes it anyway, and its own fifth of a second took a quarter of all that an idle worker does.
_LOOK_S = 1.0


class _LeasedApp(Protocol):
    lease: Lease


class LoopConsumer(aiokafka_driver.AIOKafkaConsumerThread):
    """What Faust takes for the thread of one agent's consumer."""

    wait_for_shutdown = False  # it has ended when `stop` has

    _is_beginning = True

    def __init__(self, consumer: aiokafka_driver.Consumer, **options: Any) -> None:  # noqa: ANN401 - Faust's
        super().__init__(consumer, loop=consumer.loop, thread_loop=consumer.loop, **options)
        self._asked: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Begin, in the running loop. Raises KafkaConnectionError when no broker is there."""
        self._thread_started.set()
        await Service.start(self)

    async def on_start(self) -> None:
        """Connect; the lease follows the member."""
        await super().on_start()
        coordinator = None if self._consumer is None else self._consumer._coordinator
        if isinstance(coordinator, GroupCoordinator):
            cast(_LeasedApp, self.app).lease.follow(coordinator)

    def _stopped_set(self) -> None:
        self._stopped.set()

    async def on_stop(self) -> None:
        """Leave the group and close the connections. What is still asked for is given up."""
        if self._consumer is not None:
            if isinstance(self._consumer._coordinator, GroupCoordinator):
                await leave_group(self._consumer._coordinator)
            # Not its own `stop`: a CancelledError from there would end all that Faust has still to stop.
            await stop_consumer(self._consumer)
        for asked in self._asked:
            asked.cancel()

    def _get_tasks(self) -> Iterable[ServiceTask]:
        return ()  # they would keep a thread awake

    async def call_thread(self, fun: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - Faust's
        """Call a method of aiokafka's. It comes to its end also when whoever asked for it does not wait any more."""
        asked = asyncio.ensure_future(maybe_async(fun(*args, **kwargs)))
        self._asked.add(asked)
        asked.add_done_callback(self._asked.discard)
        return await asyncio.shield(asked)

    async def getmany(self, active_partitions: set[TP] | None, timeout: float) -> RecordMap:  # noqa: ASYNC109
        """Records of these partitions, as soon as there are some; none after this many seconds."""
        consumer = self._ensure_consumer()
        records = consumer._max_poll_records
        return await self._fetch_records(consumer, active_partitions or set(), timeout=timeout, max_records=records)

    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:  # noqa: ANN401 - Faust's
        consumer = super()._create_worker_consumer(transport)
        consumer._consumer_timeout = _LOOK_S
        consumer._isolation_level = READ_COMMITTED  # Faust has it read so only where it sends within transactions itself
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

    def hidden(self) -> dict[TP, int]:
        """The partitions of which what can be read ended before they did, at the last fetch, and where it ended."""
        found: dict[TP, int] = {}
        consumer = self._consumer
        if consumer is None:  # it has not begun, or is ending
            return found
        for place in consumer.assignment():
            end, stable_end = consumer.highwater(place), consumer.last_stable_offset(place)
            if end is not None and stable_end is not None and 0 <= stable_end < end:
                found[TP(*place)] = stable_end
        return found

    def let_go(self) -> None:
        """Fetch what is assigned, from where the consumer has sought to."""
        if self._is_beginning:
            self._is_beginning = False
            consumer = self._ensure_consumer()
            consumer.resume(*consumer.assignment())

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        # Of partitions that are gone meanwhile nothing can be committed, and aiokafka takes it ill to be asked for nothing.
        mine = {place: offset for place, offset in offsets.items() if place in self.assignment()}
        if not mine:
            return False
        async with asyncio.timeout(COMMIT_S):  # aiokafka tries for ever where the topic is gone
            return await super()._commit(mine)
