"""What Faust's Kafka consumer is changed in: it can always be stopped, it loses no record across a rebalance, it costs less."""

import inspect
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar, cast

from aiokafka.consumer.group_coordinator import GroupCoordinator
from faust.transport.drivers import aiokafka as aiokafka_driver
from mode.services import WaitArgT, WaitResults
from mode.utils.times import Seconds

from pipeline.cancellation import stop_consumer

T = TypeVar("T")


class _ConsumerThread(aiokafka_driver.AIOKafkaConsumerThread):
    async def on_start(self) -> None:
        await super().on_start()
        coordinator = None if self._consumer is None else self._consumer._coordinator
        if isinstance(coordinator, GroupCoordinator):
            cast(Any, self.app).lease.follow(coordinator)

    async def on_thread_stop(self) -> None:
        # Not the driver's own, which calls `stop`: a CancelledError from there would end this thread without saying so, and
        # Faust would wait for it for ever.
        await super(aiokafka_driver.AIOKafkaConsumerThread, self).on_thread_stop()
        if self._consumer is not None:
            await stop_consumer(self._consumer)


class _Consumer(aiokafka_driver.Consumer):
    async def verify_all_partitions_active(self) -> None:
        """Nothing: Faust would look every second for partitions that stand still, and ours are told to never be late."""

    async def wait_first(self, *coros: WaitArgT, timeout: Seconds = None) -> WaitResults:  # type: ignore[assignment]  # noqa: ASYNC109
        """Faust waits so for its stream to take a record: four tasks for each. A record that is taken at once needs none.

        What takes it must not ask which task it is in: that changes when it has to wait.
        """
        first, *others = coros
        if timeout is not None or not inspect.iscoroutine(first):
            return await super().wait_first(*coros, timeout=timeout)
        try:
            awaited = first.send(None)
        except BaseException as end:
            for other in others:
                cast(Coroutine[Any, Any, Any], other).close()
            if isinstance(end, StopIteration):
                return WaitResults([first], [end.value], False)
            raise
        return await super().wait_first(_rest(first, awaited), *others)

    async def perform_seek(self) -> None:
        # Faust drops what was fetched across a rebalance and seeks back to the committed offsets; where nothing is committed
        # it does not seek (nor does aiokafka), and what was dropped would be lost. Held receipts make that the usual case.
        await super().perform_seek()
        fresh = [place for place in self.assignment() if not self._committed_offset[place]]
        if fresh:
            # Not `seek`: that one touches the fetcher from this thread, while it gives out records on its own.
            await self.seek_wait(await self.earliest_offsets(*fresh))

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)


async def _rest(coro: Coroutine[Any, Any, T], awaited: object) -> T:
    """What is left of a coroutine that was begun by hand and waits for this."""
    return await _resumed(coro, awaited)


@types.coroutine
def _resumed(coro: Coroutine[Any, Any, T], awaited: object) -> Generator[Any, Any, T]:
    try:
        while True:
            try:
                sent = yield awaited
            except BaseException as error:  # noqa: BLE001 - it is the coroutine's to deal with
                awaited = coro.throw(error)
            else:
                awaited = coro.send(sent)
    except StopIteration as end:
        return cast(T, end.value)


class Transport(aiokafka_driver.Transport):
    """Faust's way to aiokafka, with this consumer."""

    Consumer = _Consumer
