"""A CancelledError that nobody asked for: taken for the task's own cancellation it ends a task without a word.

aiokafka raises one from `AIOKafkaConsumer.stop` only: `Fetcher.close` awaits the tasks that it has just cancelled, and so does
`NoGroupCoordinator.close`, whose task may not have begun. Requests in flight on a connection that closes end in a
KafkaConnectionError (`AIOKafkaConnection.close`). What an agent's consumer is asked for when it stops
is given up (`LoopConsumer.on_stop`), which is a CancelledError too.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError

Answer = TypeVar("Answer")


def is_asked_for() -> bool:
    """Whether the CancelledError being handled comes from `Task.cancel` of the running task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Stop a consumer and close its connections; a cancellation gets out when it was asked for, and always then."""
    stopping = asyncio.ensure_future(consumer.stop())
    try:
        # Not awaited itself: a cancellation is handed on to what is awaited, and tasks of aiokafka's that it awaits swallow it.
        await asyncio.wait([stopping])
    finally:
        if stopping.cancel() or stopping.cancelled():
            # What `stop` did not come to.
            if consumer._fetcher is not None:
                consumer._fetcher._fetch_task.cancel()
            await consumer._client.close()
    if not stopping.cancelled():
        stopping.result()


async def uncancelled(work: Awaitable[Answer]) -> Answer:
    """Await what an agent's consumer is asked for; that it was given up is a KafkaConnectionError."""
    try:
        return await work
    except asyncio.CancelledError:
        if is_asked_for():
            raise
        raise KafkaConnectionError("the consumer is being stopped") from None
