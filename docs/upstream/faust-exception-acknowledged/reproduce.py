"""An agent raises. Is the record committed, although the app says stream_ack_exceptions=False?"""

import asyncio
import sys
import tempfile
import uuid

import faust
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

BROKER = sys.argv[1] if len(sys.argv) > 1 else "localhost:9092"
NAME = f"reproduce-{uuid.uuid4()}"
DATA = tempfile.TemporaryDirectory()


async def committed() -> int | None:
    """Process record 0, raise at record 1, and tell which offset is committed then."""
    app = faust.App(
        NAME,
        broker=f"kafka://{BROKER}",
        datadir=DATA.name,
        value_serializer="raw",
        web_enabled=False,
        topic_disable_leader=True,
        broker_commit_interval=0.2,
        stream_ack_exceptions=False,
    )
    raised = asyncio.Event()

    @app.agent(app.topic(NAME))
    async def agent(stream: faust.Stream[bytes]) -> None:
        async for value in stream:
            if value == b"bad":
                raised.set()
                raise ValueError("this record cannot be processed")

    await app.start()
    await asyncio.wait_for(raised.wait(), 30)
    await asyncio.sleep(2)  # ten commit intervals
    await app.stop()
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    offsets = await admin.list_consumer_group_offsets(NAME)
    await admin.close()
    place = offsets.get(TopicPartition(NAME, 0))
    return None if place is None else place.offset


async def main() -> int | None:
    """Make the topic, fill it, consume it, delete it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    await admin.create_topics([NewTopic(NAME, 1, 1)])
    try:
        async with AIOKafkaProducer(bootstrap_servers=BROKER) as producer:
            for value in (b"good", b"bad"):
                await producer.send_and_wait(NAME, value)
        return await committed()
    finally:
        await admin.delete_topics([NAME])
        await admin.close()


offset = asyncio.run(main())
print(f"record 0 processed, the agent raised at record 1: committed {offset}")
print("REPRODUCED" if offset == 2 else "not reproduced")
sys.exit(0 if offset == 2 else 1)
