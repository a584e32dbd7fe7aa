"""aiokafka cancels the futures of requests in flight when a broker closes the connection (`AIOKafkaConnection.close`).

Whoever awaits one then meets a CancelledError that nobody asked for; taken for a real one it ends a task without a word.
"""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from aiokafka.errors import KafkaConnectionError

Answer = TypeVar("Answer")


def is_asked_for() -> bool:
    """Whether the CancelledError being handled comes from `Task.cancel` of the running task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def uncancelled(work: Awaitable[Answer]) -> Answer:
    """Await requests to the broker; a closed connection is a KafkaConnectionError, as it should be."""
    try:
        return await work
    except asyncio.CancelledError:
        if is_asked_for():
            raise
        raise KafkaConnectionError("the broker closed the connection") from None
