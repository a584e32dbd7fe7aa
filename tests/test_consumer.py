"""How a record gets from the consumer to its stream: at once, later, not at all."""

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.app import build_app
from pipeline.settings import Settings


async def take(message: object) -> None:
    """A callback."""


def new_consumer() -> Any:
    transport = cast(Any, build_app("consumer", Settings())).transport
    return transport.create_consumer(take, on_partitions_revoked=take, on_partitions_assigned=take)


class CountedTasks:
    """How many tasks a loop has made."""

    def __init__(self) -> None:
        self.count = 0
        asyncio.get_running_loop().set_task_factory(self._make)

    def _make(self, loop: asyncio.AbstractEventLoop, coro: Any, **named: Any) -> asyncio.Task[Any]:
        self.count += 1
        return asyncio.Task(coro, loop=loop, **named)


async def steps(kinds: list[str], done: list[int]) -> int:
    """Waits in these ways, one after the other."""
    for number, kind in enumerate(kinds):
        if kind == "yield":
            await asyncio.sleep(0)
        elif kind == "later":
            await asyncio.sleep(0.001)
        elif kind == "task":
            await asyncio.gather(asyncio.sleep(0), asyncio.sleep(0))
        done.append(number)
    return len(done)


async def test_a_record_that_is_taken_at_once_makes_no_task() -> None:
    consumer = new_consumer()
    tasks = CountedTasks()
    done: list[int] = []
    results = await consumer.wait_first(steps(["nothing"] * 3, done), consumer.suspend_flow.wait())
    assert done == [0, 1, 2]
    assert results.results == [3]
    assert tasks.count == 0


@given(st.lists(st.sampled_from(["nothing", "yield", "later", "task"]), max_size=6))
def test_whatever_a_record_waits_for_it_is_taken_in_full(kinds: list[str]) -> None:
    async def run() -> None:
        consumer = new_consumer()
        done: list[int] = []
        results = await consumer.wait_first(steps(kinds, done), consumer.suspend_flow.wait())
        assert done == list(range(len(kinds)))
        assert results.results == [len(kinds)]

    asyncio.run(run())


@pytest.mark.parametrize("kinds", [[], ["yield"], ["later"]])
async def test_its_fault_is_the_consumers(kinds: list[str]) -> None:
    async def fail() -> None:
        await steps(kinds, [])
        raise ConnectionError("no stream")

    consumer = new_consumer()
    with pytest.raises(ConnectionError):
        await consumer.wait_first(fail(), consumer.suspend_flow.wait())


async def test_a_record_that_waits_is_let_go_of_when_the_flow_is_suspended() -> None:
    # Else a rebalance would wait for a stream that is full, for ever.
    consumer = new_consumer()
    ended: list[str] = []

    async def wait_for_room() -> None:
        try:
            await asyncio.Future()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    waits: Coroutine[Any, Any, Any] = consumer.wait_first(wait_for_room(), consumer.suspend_flow.wait())
    waiting = asyncio.create_task(waits)
    await asyncio.sleep(0.01)
    assert not waiting.done()
    consumer.suspend_flow.set()
    await asyncio.wait_for(waiting, 1.0)
    await asyncio.sleep(0)
    assert ended == ["cancelled"]
