"""What Faust's Kafka consumer is changed in: it can always be stopped, it loses no record across a rebalance."""

from typing import Any, cast

from aiokafka.consumer.group_coordinator import GroupCoordinator
from faust.transport.drivers import aiokafka as aiokafka_driver

from pipeline.cancellation import stop_consumer


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


class Transport(aiokafka_driver.Transport):
    """Faust's way to aiokafka, with this consumer."""

    Consumer = _Consumer
