"""What the agents' loop asks of a consumer's thread is done or ended, whatever becomes of it."""

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from mode.threads import MethodQueueWorker

from pipeline.consumer_thread import _MethodQueue


async def asked(queue: _MethodQueue, method: Any, *arguments: Any) -> "asyncio.Future[Any]":
    return await queue.call(asyncio.get_running_loop().create_future(), method, *arguments)


async def test_calls_are_answered_also_while_one_of_them_waits() -> None:
    queue, gate = _MethodQueue(), asyncio.Event()
    await queue.start()

    async def double(value: int) -> int:
        return 2 * value

    async def fail() -> None:
        raise KeyError("no such place")

    waiting = await asked(queue, gate.wait)
    answers = [await asked(queue, double, value) for value in range(5)]
    assert [await one for one in answers] == [0, 2, 4, 6, 8]
    with pytest.raises(KeyError, match="no such place"):
        await (await asked(queue, fail))
    assert not waiting.done()
    gate.set()
    assert await waiting
    await queue.stop()


@pytest.mark.parametrize("calls", [0, 1, 3])
async def test_a_queue_that_ends_leaves_nobody_waiting(calls: int) -> None:
    """More calls than it has workers, so that one of them had not begun."""
    queue, gate = _MethodQueue(), asyncio.Event()
    await queue.start()
    waiting = [await asked(queue, gate.wait) for _ in range(calls)]
    await asyncio.sleep(0.05)
    asyncio.get_running_loop().call_later(0.2, gate.set)
    async with asyncio.timeout(10.0):
        await queue.stop()
        await asyncio.gather(*waiting, return_exceptions=True)  # an exception that nobody asks for is said at some other time


def test_what_is_replaced_in_the_libraries_is_still_there() -> None:
    """Under other names it would not be replaced any more, and an idle worker would cost what it did, in silence."""
    assert "_method_queue_do_work" in vars(MethodQueueWorker)
    for method in (AIOKafkaConsumer.__init__, AIOKafkaConsumer.start):  # where it is set, and given to the fetcher
        assert "_consumer_timeout" in method.__code__.co_names
