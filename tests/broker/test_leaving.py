"""How a member leaves while its group changes: what it has done is committed, and no session timeout is waited for."""

import asyncio

import pytest

from pipeline.records import OutgoingRecord
from pipeline.runner import StageRunner
from pipeline.settings import Settings
from pipeline.topics import create_topics
from tests.broker.members import PATIENCE_S, Taking, coming, member, until

pytestmark = pytest.mark.broker


@pytest.fixture
async def settings(broker_bootstrap: str, topic_prefix: str) -> Settings:
    """One whose members would be missed for longer than a test waits, if they left without a word."""
    made = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, partitions=3, session_timeout_s=1.5 * PATIENCE_S)
    await create_topics(made)
    return made


async def put_to_work(runner: StageRunner, stage: Taking, values: list[bytes]) -> None:
    """One record in each partition, which the stage holds."""
    stage.may_end.clear()
    for number, value in enumerate(values):
        await runner.publisher.publish([OutgoingRecord("media", b"call-%d" % number, value, partition=number)])
    await until(lambda: stage.in_work == len(values))


async def let(runner: StageRunner, stage: Taking, has_heard: bool) -> None:
    """Let the work end; behind the heartbeat that tells of the other member, if it is to have heard."""
    if has_heard:
        await until(lambda: runner.app.rebalancing)
        await asyncio.sleep(1.0)  # for whatever comes of it
    stage.may_end.set()


def is_alone(runner: StageRunner) -> bool:
    return runner.is_ready() and len(runner.app.consumer.assignment()) == 3


@pytest.mark.parametrize("has_heard", [False, True], ids=["unaware", "aware"])
async def test_one_that_ends_while_another_joins_ends_its_work_first(settings: Settings, has_heard: bool) -> None:
    values = [b"0", b"1", b"2"]
    async with member(settings) as (first, one):
        await until(first.is_ready)
        await put_to_work(first, one, values)
        ending = asyncio.create_task(first.app.stop())
        await until(lambda: first.app.should_stop)
        letting = asyncio.create_task(let(first, one, has_heard))
        async with member(settings) as (second, other):  # it has begun when the first is gone
            await letting
            await until(lambda: is_alone(second))
            await ending
            await second.publisher.publish([OutgoingRecord("media", b"call", b"behind", partition=2)])
            await until(lambda: b"behind" in other.values)
        assert (sorted(one.values), other.values) == (values, [b"behind"])


async def test_one_that_ends_before_it_was_let_in_is_not_waited_for(settings: Settings) -> None:
    async with member(settings) as (first, one):
        await until(first.is_ready)
        await put_to_work(first, one, [b"0", b"1", b"2"])
        async with coming(settings) as second:
            await until(lambda: first.app.rebalancing)
            await second.app.stop()
        assert one.in_work == 3  # for whose end the group waits
        one.may_end.set()
        await until(lambda: is_alone(first))
        assert sorted(one.values) == [b"0", b"1", b"2"]


async def test_one_that_ends_while_its_group_waits_for_another_does_not_wait(settings: Settings) -> None:
    async with member(settings) as (first, one), member(settings) as (second, _):
        await until(lambda: first.is_ready() and second.is_ready() and not is_alone(first) and not is_alone(second))
        [place, *_] = first.app.consumer.assignment()
        one.may_end.clear()
        await first.publisher.publish([OutgoingRecord("media", b"call", b"0", partition=place.partition)])
        await until(lambda: one.in_work == 1)
        async with coming(settings) as third:
            await until(lambda: first.app.rebalancing and second.app.rebalancing)
            await second.app.stop()
            assert one.in_work == 1
            one.may_end.set()
            await until(lambda: first.is_ready() and third.is_ready() and not is_alone(first) and not is_alone(third))
            shares = [set(runner.app.consumer.assignment()) for runner in (first, third)]
            assert (len(shares[0] | shares[1]), shares[0] & shares[1]) == (3, set())
        assert one.values == [b"0"]
