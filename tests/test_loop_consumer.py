"""What is asked of a consumer in the agents' loop is done or ended, whatever becomes of whoever asked."""

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from mode import Service

from pipeline.app import build_app
from pipeline.loop_consumer import LoopConsumer
from pipeline.settings import Settings


@pytest.fixture
async def member() -> LoopConsumer:
    """Of an app that is not started, so that there is no connection either."""
    app = build_app("alone", Settings())
    app.finalize()
    thread = app.consumer._thread  # type: ignore[attr-defined]
    assert isinstance(thread, LoopConsumer)
    return thread


async def test_answers_and_faults_get_to_whoever_asked(member: LoopConsumer) -> None:
    gate = asyncio.Event()

    async def double(value: int) -> int:
        return 2 * value

    async def fail() -> None:
        raise KeyError("no such place")

    waiting = asyncio.create_task(member.call_thread(gate.wait))
    assert [await member.call_thread(double, value) for value in range(5)] == [0, 2, 4, 6, 8]
    assert await member.call_thread(increment, 3) == 4
    with pytest.raises(KeyError, match="no such place"):
        await member.call_thread(fail)
    assert not waiting.done()
    gate.set()
    assert await waiting


def increment(value: int) -> Any:
    return value + 1  # aiokafka's `subscribe` is no coroutine


async def test_what_was_begun_ends_also_when_nobody_waits_any_more(member: LoopConsumer) -> None:
    """A commit that is broken off would leave aiokafka's coordinator in the middle of it."""
    gate, ended = asyncio.Event(), asyncio.Event()

    async def commit() -> None:
        await gate.wait()
        ended.set()

    asking = asyncio.create_task(member.call_thread(commit))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    gate.set()
    async with asyncio.timeout(10.0):
        await ended.wait()


@pytest.mark.parametrize("calls", [0, 1, 3])
async def test_one_that_stops_leaves_nobody_waiting(member: LoopConsumer, calls: int) -> None:
    """An answer that does not come would keep its agent from ending."""
    waiting = [asyncio.create_task(member.call_thread(asyncio.Event().wait)) for _ in range(calls)]
    for _ in range(3):
        await asyncio.sleep(0)  # until they wait
    await member.on_stop()
    async with asyncio.timeout(10.0):
        ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(one) for one in ended] == [asyncio.CancelledError] * calls


async def test_one_that_never_began_can_be_stopped(member: LoopConsumer) -> None:
    async with asyncio.timeout(10.0):
        await member.stop()


def test_what_is_replaced_in_the_libraries_is_still_there() -> None:
    """Under other names it would not be replaced any more, and an idle worker would cost what it did, in silence."""
    replaced = {name for name in vars(LoopConsumer) if hasattr(Service, name) or hasattr(AIOKafkaConsumerThread, name)}
    ours = {"_is_beginning", "hidden", "let_go"}
    assert {name for name in vars(LoopConsumer) if not name.startswith("__")} - ours <= replaced | {"abstract"}
    for method in (AIOKafkaConsumer.__init__, AIOKafkaConsumer.start):  # where it is set, and given to the fetcher
        assert "_consumer_timeout" in method.__code__.co_names
