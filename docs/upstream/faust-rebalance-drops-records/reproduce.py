"""Nothing is committed yet, and the group rebalances. Does the agent get every record again?"""

import asyncio
import sys
import tempfile
import uuid

import faust
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

BROKER = sys.argv[1] if len(sys.argv) > 1 else "localhost:9092"
NAME = f"reproduce-{uuid.uuid4()}"
DATA = tempfile.TemporaryDirectory()
RECORDS = 100
REBALANCES = 12  # at most; the fault shows in some of them only


async def records_after_rebalances() -> list[int]:
    """How many records the agent got after each rebalance."""
    app = faust.App(
        NAME,
        broker=f"kafka://{BROKER}",
        datadir=DATA.name,
        value_serializer="raw",
        web_enabled=False,
        topic_disable_leader=True,
        stream_wait_empty=False,
        broker_heartbeat_interval=0.5,
        table_standby_replicas=0,  # else Faust's own assignor, which a plain member does not have
    )
    came_again: list[int] = []
    got: set[tuple[int, int]] = set()

    @app.agent(app.topic(NAME))
    async def agent(stream: faust.Stream[bytes]) -> None:
        async for event in stream.noack().events():  # to be acknowledged later
            got.add((event.message.partition, event.message.offset))

    @app.on_rebalance_complete.connect
    async def begin_anew(*_: object, **__: object) -> None:
        got.clear()
        await asyncio.sleep(0.5)  # as a handler may; Faust sends this before it seeks

    await app.start()
    try:
        await asyncio.sleep(3)
        for _ in range(REBALANCES):
            async with AIOKafkaConsumer(NAME, bootstrap_servers=BROKER, group_id=NAME, enable_auto_commit=False):
                pass  # a member comes and goes
            for _ in range(40):  # what comes, comes within 4 s
                await asyncio.sleep(0.25)
                if len(got) == RECORDS and not app.rebalancing:
                    break
            came_again.append(len(got))
            if len(got) < RECORDS:
                break
    finally:
        await app.stop()
    return came_again


async def main() -> list[int]:
    """Make the topic, fill it, consume it, delete it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    await admin.create_topics([NewTopic(NAME, 2, 1)])
    try:
        async with AIOKafkaProducer(bootstrap_servers=BROKER) as producer:
            for number in range(RECORDS):
                await producer.send_and_wait(NAME, b"x", partition=number % 2)
        return await records_after_rebalances()
    finally:
        await admin.delete_topics([NAME])
        await admin.close()


counts = asyncio.run(main())
lost = min(counts) < RECORDS
print(f"nothing is committed, {RECORDS} records wait; the agent got, after each rebalance: {counts}")
print("REPRODUCED" if lost else "not reproduced")
sys.exit(0 if lost else 1)
