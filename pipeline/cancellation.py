"""aiokafka cancels the futures of requests in flight when a broker closes the connection (`AIOKafkaConnection.close`).

Whoever awaits one then meets a CancelledError that nobody asked for; taken for a real one it ends a task without a word.
"""

import asyncio


def is_asked_for() -> bool:
    """Whether the CancelledError being handled comes from `Task.cancel` of the running task."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
