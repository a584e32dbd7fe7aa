"""The broker refuses the worker as a member of its group. Does the worker end, or tell?"""

import asyncio
import sys
import tempfile
import uuid

import faust
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

BROKER = sys.argv[1] if len(sys.argv) > 1 else "localhost:9092"
NAME = f"reproduce-{uuid.uuid4()}"
DATA = tempfile.TemporaryDirectory()
WAIT_S = 15.0


async def outcome() -> tuple[object, bool]:
    """The error that aiokafka keeps, and whether the app has crashed, after a while."""
    app = faust.App(
        NAME,
        broker=f"kafka://{BROKER}",
        datadir=DATA.name,
        web_enabled=False,
        topic_disable_leader=True,
        broker_session_timeout=1.0,  # less than the broker's group.min.session.timeout.ms, 6 s by default
        broker_heartbeat_interval=0.3,
    )

    @app.agent(app.topic(NAME))
    async def agent(stream: faust.Stream[bytes]) -> None:
        async for _ in stream:
            pass

    start = asyncio.create_task(app.start())
    await asyncio.wait([start], timeout=WAIT_S)
    await asyncio.sleep(5)
    coordinator = app.consumer._thread._consumer._coordinator
    found = coordinator._pending_exception, bool(app.should_stop)
    print(f"start() has returned: {start.done()}")
    await asyncio.wait([asyncio.create_task(app.stop())], timeout=10)
    return found


async def main() -> tuple[object, bool]:
    """Make the topic, consume it, delete it."""
    admin = AIOKafkaAdminClient(bootstrap_servers=BROKER)
    await admin.start()
    await admin.create_topics([NewTopic(NAME, 1, 1)])
    try:
        return await outcome()
    finally:
        await admin.delete_topics([NAME])
        await admin.close()


parked, ended = asyncio.run(main())
print(f"after {WAIT_S:g} s: aiokafka keeps {parked!r}; the app has crashed: {ended}")
zombie = parked is not None and not ended
print("REPRODUCED" if zombie else "not reproduced")
sys.exit(0 if zombie else 1)
