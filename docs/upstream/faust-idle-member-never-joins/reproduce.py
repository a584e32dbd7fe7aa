"""An agent is at work on a message for longer than max_poll_interval. Does its worker join the group again, and go on?"""

import asyncio
import sys
import tempfile
import uuid

import faust
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

BROKER = sys.argv[1] if len(sys.argv) > 1 else "localhost:9092"
NAME = f"reproduce-{uuid.uuid4()}"
DATA = tempfile.TemporaryDirectory()
MESSAGES = 6
MOST_S = 5.0  # between two fetches
SLOW_S = 12.0
WAIT_S = 30.0  # behind the slow message


async def outcome() -> tuple[int, bool]:
    """How many messages were processed, and whether the worker is a member at the end."""
    done, slow_is_done = 0, asyncio.Event()
    app = faust.App(
        NAME,
        broker=f"kafka://{BROKER}",
        datadir=DATA.name,
        web_enabled=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="earliest",
        broker_max_poll_interval=MOST_S,
        stream_buffer_maxsize=1,  # as with many slow messages in the default of 4096
    )

    @app.agent(app.topic(NAME, value_serializer="raw"))
    async def agent(stream: faust.Stream[bytes]) -> None:
        nonlocal done
        async for _ in stream:
            if not done:
                await asyncio.sleep(SLOW_S)
                slow_is_done.set()
            done += 1

    start = asyncio.create_task(app.start())
    await slow_is_done.wait()
    print(f"the slow message is done; {WAIT_S:g} s for {MESSAGES - 1} others")
    await asyncio.sleep(WAIT_S)
    is_member = bool(app.consumer.assignment()) and app.consumer.flow_active
    found = done, is_member
    await asyncio.wait([asyncio.create_task(app.stop())], timeout=10)
    start.cancel()
    return found


async def main() -> tuple[int, bool]:
    """Make the topic, fill it, consume it, delete it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    await admin.create_topics([NewTopic(NAME, 1, 1)])
    try:
        async with AIOKafkaProducer(bootstrap_servers=BROKER) as producer:
            for number in range(MESSAGES):
                await producer.send_and_wait(NAME, b"%d" % number)
        return await asyncio.wait_for(outcome(), 120)
    finally:
        await admin.delete_topics([NAME])
        await admin.close()


processed, joined = asyncio.run(main())
print(f"{processed} of {MESSAGES} messages processed; the worker reads: {joined}")
is_out = processed < MESSAGES and not joined
print("REPRODUCED" if is_out else "not reproduced")
sys.exit(0 if is_out else 1)
