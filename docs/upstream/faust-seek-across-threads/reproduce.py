"""In which thread does Faust's `Consumer.seek` work, and what becomes of records that are being given out meanwhile?"""

import asyncio
import sys
import threading
from typing import Any

import aiokafka
import faust
from aiokafka.consumer.fetcher import Fetcher, FetchResult, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

PLACE = TP("topic", 0)
APART_S = 1.0  # how long the decoding of the records waits for the seek

decoding, sought = threading.Event(), threading.Event()
threads: dict[str, str] = {}


def decode(value: bytes) -> bytes:
    """A value that takes time, so that the other thread comes in between; for a large batch it is CRC and decompression."""
    decoding.set()
    sought.wait(APART_S)
    return value


def one_batch() -> MemoryRecords:
    """What a broker sends: a batch of one record."""
    builder = DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 1000)
    builder.append(0, 0, None, b"value", [])
    return MemoryRecords(bytes(builder.build()))


class Client(aiokafka.AIOKafkaConsumer):
    """A consumer that knows no broker, and has fetched a batch."""

    async def start(self) -> None:
        """Go to offset 0, with the record of offset 0 at hand."""
        self._subscription.assign_from_user([PLACE])
        self._fetcher = Fetcher(self._client, self._subscription)
        assignment = self._subscription.subscription.assignment
        assignment.state_value(PLACE).seek(0)
        records = PartitionRecords(PLACE, one_batch(), [], 0, None, decode, True, 0)
        await asyncio.sleep(0.1)  # the fetcher empties its records when it meets a new assignment
        self._fetcher._records[PLACE] = FetchResult(PLACE, assignment=assignment, partition_records=records, backoff=60)

    async def position(self, partition: TP) -> int:  # noqa: ARG002
        """Say where it works."""
        threads["position"] = threading.current_thread().name
        return 0

    def seek(self, partition: TP, offset: int) -> None:
        """Say where it works, and seek."""
        threads["seek"] = threading.current_thread().name
        super().seek(partition, offset)
        sought.set()


class Thread(driver.AIOKafkaConsumerThread):
    """Faust's thread for the consumer."""

    def _create_consumer(self, loop: asyncio.AbstractEventLoop) -> Client:  # noqa: ARG002
        return Client()


class Consumer(driver.Consumer):
    """Faust's consumer."""

    def _new_consumer_thread(self) -> Thread:
        return Thread(self, loop=self.loop, beacon=self.beacon)


async def outcome() -> str:
    """Ask for records, seek while they are given out, and say what came."""

    async def nothing(*_: Any) -> None:  # noqa: ANN401
        pass

    consumer = Consumer(faust.App("reproduce").transport, nothing, nothing, nothing)
    await consumer._thread.start()
    await consumer._thread.position(PLACE)
    giving_out = asyncio.create_task(consumer._thread.getmany(None, 0))
    await asyncio.to_thread(decoding.wait)
    await consumer.seek(PLACE, 0)
    [came] = await asyncio.gather(giving_out, return_exceptions=True)
    await consumer._thread.stop()
    return repr(came) if isinstance(came, Exception) else f"{sum(map(len, came.values()))} record"


threading.current_thread().name = "the app's"
came = asyncio.run(outcome())
print(f"position works in the thread {threads['position']!r}, seek in {threads['seek']!r}; getmany: {came}")
print("REPRODUCED" if "KeyError" in came else "not reproduced")
sys.exit(0 if "KeyError" in came else 1)
