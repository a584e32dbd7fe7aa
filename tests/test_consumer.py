"""Faust's rebalances, whatever overlaps in them, on a thread and a partition of our own: every record is dealt with."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any, cast
from unittest.mock import patch

import pytest
from aiokafka.errors import KafkaTimeoutError
from aiokafka.structs import ConsumerRecord
from faust.types import TP
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.app import build_app
from pipeline.consumer import LogLostError, StageConsumer
from pipeline.delivery import Receipt
from pipeline.records import Record
from pipeline.runner import StageRunner
from pipeline.settings import Settings
from pipeline.stage import Frame

PLACE = TP("media", 0)
LENGTH = 16
PATIENCE_S = 3.0


class Slow:
    """A stage that takes its time; it keeps the offsets that it has dealt with."""

    name = "slow"
    topics: tuple[str, ...] = ("media",)

    def __init__(self, pauses: Iterator[int]) -> None:
        self.done: list[int] = []
        self._pauses = pauses

    async def start(self, frame: Frame) -> None: ...

    async def stop(self) -> None: ...

    async def tick(self) -> None: ...

    def forget(self) -> None: ...

    async def fail(self, record: Record, message: str) -> None: ...

    async def process(self, record: Record, receipt: Receipt) -> None:
        await pause(next(self._pauses))
        self.done.append(record.offset)
        receipt.release()


async def pause(turns: int) -> None:
    """Let others run so many times."""
    for _ in range(turns):
        await asyncio.sleep(0)


class Thread:
    """What Faust's consumer asks of its "thread", as aiokafka answers: every answer comes late, and what it says may be old."""

    def __init__(self, pauses: Iterator[int]) -> None:
        self._pauses = pauses
        self.first = self.end = self.position_ = self.committed = 0
        self.is_assigned = self.is_held = False
        self.assignments_count = 0

    def assignment(self) -> set[TP]:
        return {PLACE} if self.is_assigned else set()

    def assign(self) -> None:
        """aiokafka begins at the committed offset; somebody may have fetched from there since, and thrown it away."""
        self.assignments_count += 1
        self.is_held = self.assignments_count == 1
        self.is_assigned = True
        self.position_ = min(self.committed + next(self._pauses), self.end)

    async def getmany(self, places: set[TP], timeout: float) -> dict[TP, list[ConsumerRecord[bytes, bytes]]]:  # noqa: ASYNC109
        assert timeout > 0
        await pause(1 + next(self._pauses))
        if PLACE not in places or not self.is_assigned or self.is_held:
            return {}
        if not self.first <= self.position_ <= self.end:
            self.position_ = self.first  # as aiokafka does, and says so to nobody
        batch = range(self.position_, min(self.position_ + 1 + next(self._pauses) * 3, self.end))
        self.position_ = batch.stop if batch else self.position_
        await pause(next(self._pauses))
        return {PLACE: [record(offset) for offset in batch]} if batch else {}

    async def seek_to_committed(self) -> dict[TP, int | None]:
        await pause(next(self._pauses))
        assert self.is_assigned, "No partitions are currently assigned"
        committed = self.committed
        if committed:
            self.position_ = committed
        await pause(next(self._pauses))
        return {PLACE: committed or None}

    async def earliest_offsets(self, *places: TP) -> dict[TP, int]:
        await pause(next(self._pauses))
        return dict.fromkeys(places, self.first)

    async def seek_wait(self, places: dict[TP, int]) -> None:
        await pause(next(self._pauses))
        self.position_ = places[PLACE]
        await pause(next(self._pauses))

    def let_go(self) -> None:
        self.is_held = False

    async def commit(self, offsets: dict[TP, int]) -> bool:
        assignments = self.assignments_count
        await pause(next(self._pauses) ** 2)
        if not self.is_assigned or assignments != self.assignments_count:
            await pause(next(self._pauses) ** 2)
            return False  # already rebalanced
        self.committed = offsets[PLACE]
        return True


def record(offset: int) -> ConsumerRecord[bytes, bytes]:
    return ConsumerRecord("media", 0, offset, 0, 0, b"%d" % (offset % 5), b"audio", 0, 1, 5, ())


class Group:
    """A member of a group: a real app, consumer and frame, Faust's own rebalances and its recovery that ends them."""

    def __init__(self, pauses: list[int]) -> None:
        self._pauses = cycled(pauses)
        settings = Settings(in_flight=4, grace_period_s=5.0)
        self.app = build_app("slow", settings)
        self.stage = Slow(self._pauses)
        self.runner = StageRunner(self.app, self.stage, settings, self.app.lease)
        self.app.finalize()
        self.thread = Thread(self._pauses)
        self.consumer = cast(StageConsumer, self.app.consumer)
        self.consumer._thread = cast(Any, self.thread)
        topics = cast(Any, self.app.topics)
        topics._acking_topics.add(PLACE.topic)
        topics._subscription_done = None  # nothing is subscribed to here
        self.recovery = cast(Any, self.app.tables).recovery
        self.recovery.recovery_delay = 0.0
        self.is_lost = False
        self.generation = 0
        self._commits: list[asyncio.Task[None]] = []

    async def come_back(self) -> None:
        """The group went on without this member, which learns of it now; what it commits is refused."""
        self.is_lost = True
        self.thread.assignments_count += 1
        await self.rebalance()

    async def lose(self) -> None:
        """The partition goes to another member."""
        await self.rebalance(gets=False)

    async def rebalance(self, *, gets: bool = True) -> None:
        """As aiokafka does: revoked, joined, assigned; the next may begin while Faust still recovers from this one."""
        self.app.on_rebalance_start()
        await self.consumer.on_partitions_revoked(self.thread.assignment())
        self.is_lost = self.thread.is_assigned = False
        await pause(next(self._pauses))
        if gets:
            self.thread.assign()
        self.generation += 1
        self.app.consumer_generation_id = self.generation
        await self.consumer.on_partitions_assigned(self.thread.assignment(), self.generation)

    async def commit(self) -> None:
        """As Faust's timer does: whatever else is under way."""
        self._commits.append(asyncio.create_task(self._commit()))

    async def _commit(self) -> None:
        await self.consumer.commit()
        assert set(range(self.thread.committed)) <= set(self.stage.done), "committed before it was dealt with"

    async def deal_with(self, end: int) -> None:
        """Until all that was produced is acknowledged."""
        self.thread.end = end
        for _ in range(1000):
            if set(self.stage.done) == set(range(end)):
                break
            await asyncio.sleep(0)
        assert self.runner.unacknowledged() == 0

    async def settle(self) -> None:
        """Until everything is committed, or nothing seems to come of it any more."""
        give_up_s = time.monotonic() + PATIENCE_S
        await asyncio.gather(*self._commits)
        while self.thread.committed < LENGTH and time.monotonic() < give_up_s:
            await asyncio.sleep(0)
            await self._commit()


def cycled(pauses: list[int]) -> Iterator[int]:
    while True:
        yield from pauses


@asynccontextmanager
async def member(pauses: list[int]) -> AsyncIterator[Group]:
    group = Group(pauses)
    task = asyncio.create_task(type(group.recovery)._restart_recovery(group.recovery))
    try:
        with ExitStack() as patches:
            for module in ("runner", "consumer"):
                patches.enter_context(patch(f"pipeline.{module}.has_lost_partitions", lambda _: group.is_lost))
            for pause_s in ("_LOOK_AGAIN_S", "_FETCH_EVERY_S"):
                patches.enter_context(patch(f"pipeline.consumer.{pause_s}", 0.0))
            yield group
        assert not task.done(), task
    finally:
        task.cancel()
        await cast(Any, group.app)._fetcher.stop()


async def live(pauses: list[int], steps: list[str | int]) -> Group:
    async with member(pauses) as group:
        await group.rebalance()
        for step in steps:
            if isinstance(step, int):
                group.thread.end = min(LENGTH, group.thread.end + step)
                await pause(step)
            else:
                await getattr(group, step)()
        group.thread.end = LENGTH
        if not group.thread.is_assigned:
            await group.rebalance()
        await group.settle()
        return group


@given(
    st.lists(st.integers(0, 9), min_size=3, max_size=40),
    st.lists(st.sampled_from(["rebalance", "lose", "come_back", "commit"]) | st.integers(1, 20), max_size=25),
)
@hypothesis_settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_record_is_dealt_with_whatever_rebalances_overlap(pauses: list[int], steps: list[str | int]) -> None:
    group = asyncio.run(live(pauses, steps))
    assert set(group.stage.done) == set(range(LENGTH))
    assert group.thread.committed == LENGTH


async def test_a_commit_that_failed_or_ended_behind_a_rebalance_is_no_committed_offset() -> None:
    async with member([1]) as group:
        group.thread.assign()
        committing = asyncio.create_task(group.consumer._commit_offsets({PLACE: 5}))
        await asyncio.sleep(0)
        group.thread.assignments_count += 1
        assert not await committing
        assert group.consumer._committed_offset[PLACE] is None
        assert await group.consumer._commit_offsets({PLACE: 5})
        assert group.consumer._committed_offset[PLACE] == 5
        committing = asyncio.create_task(group.consumer._commit_offsets({PLACE: 7}))
        await asyncio.sleep(0)
        group.consumer.read_again()
        assert await committing
        assert group.consumer._committed_offset[PLACE] == 5


async def test_a_hand_over_commits_all_that_is_acknowledged_also_while_a_commit_is_under_way() -> None:
    async with member([9]) as group:  # a commit takes 81 turns
        await group.rebalance()
        await group.deal_with(3)
        await group.commit()
        await group.deal_with(6)
        assert group.thread.committed == 0
        await group.consumer.on_partitions_revoked({PLACE})
        assert group.thread.committed == 6


async def test_a_log_that_begins_anew_ends_the_process_and_nothing_of_the_old_one_is_committed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    crashes: list[BaseException] = []

    async def crash(error: BaseException) -> None:
        crashes.append(error)

    async with member([1]) as group:
        monkeypatch.setattr(group.app, "crash", crash)
        await group.rebalance()
        await group.deal_with(8)
        group.thread.end = 3
        await eventually(lambda: bool(crashes))
        assert [type(error) for error in crashes] == [LogLostError]
        assert "media/0 begins anew at offset 0, behind 7" in str(crashes[0])
        await group.consumer.commit()
        await group.rebalance()  # others of the group have met the new log too
        await group.consumer.commit()
        assert group.thread.committed == 0
        assert group.stage.done == list(range(8))


async def test_a_commit_under_way_when_the_log_begins_anew_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    crashes: list[BaseException] = []

    async def crash(error: BaseException) -> None:
        crashes.append(error)

    async with member([9]) as group:  # a commit takes 81 turns
        monkeypatch.setattr(group.app, "crash", crash)
        await group.rebalance()
        await group.deal_with(5)
        committing = asyncio.create_task(group.consumer.commit())
        group.thread.end = 3
        await eventually(lambda: bool(crashes))
        await committing
        await group.consumer.commit()
        assert group.thread.committed == 0


async def test_where_the_log_ends_before_the_committed_offset_it_is_read_and_committed_from_its_begin(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with member([1]) as group:
        group.thread.committed = 10
        await group.rebalance()
        await group.deal_with(4)
        assert group.stage.done == [0, 1, 2, 3]
        assert group.thread.committed == 0  # before anything of it is: a successor must not begin at 10 when there is one
        await group.consumer.commit()
        assert group.thread.committed == 4
    assert "had dealt with media/0 up to offset 10, which is not there any more" in caplog.text


async def test_what_was_deleted_before_it_was_read_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async with member([1]) as group:
        group.thread.committed, group.thread.first, group.thread.end = 2, 6, 9
        await group.rebalance()
        await eventually(lambda: group.stage.done == [6, 7, 8])
        assert "offsets 2 to 5 of media/0 were deleted before the group had committed them" in caplog.text
        caplog.clear()
        group.thread.first, group.thread.end = 12, 16
        await eventually(lambda: group.stage.done == [6, 7, 8, 12, 13, 14, 15])
        assert "offsets 9 to 11 of media/0 were deleted before the group had committed them" in caplog.text


async def test_whether_records_were_deleted_is_asked_in_vain_and_reading_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(*_: TP) -> dict[TP, int]:
        raise KafkaTimeoutError("no answer")

    async with member([1]) as group:
        await group.rebalance()
        await group.deal_with(3)
        monkeypatch.setattr(group.thread, "earliest_offsets", away)
        group.thread.first, group.thread.end = 6, 9
        await eventually(lambda: group.stage.done == [0, 1, 2, 6, 7, 8])
    assert "cannot tell whether records of media/0 were deleted: KafkaTimeoutError" in caplog.text


async def test_what_kafka_took_no_commit_of_is_committed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(_: dict[TP, int]) -> bool:
        raise TimeoutError

    async with member([1]) as group:
        await group.rebalance()
        await group.deal_with(3)
        with monkeypatch.context() as patched:
            patched.setattr(group.thread, "commit", away)
            await group.consumer.commit()
        assert group.thread.committed == 0
        await group.consumer.commit()
        assert group.thread.committed == 3


async def eventually(condition: Callable[[], bool]) -> None:
    """Let others run until it is so."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    assert condition()


async def test_what_was_fetched_and_waits_for_a_place_is_not_taken_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks whether a call's chunks may still come must not be told that they will not."""
    async with member([5]) as group:  # a fetch brings everything at once
        room = asyncio.Event()

        async def process(record: Record, receipt: Receipt) -> None:
            await room.wait()
            group.stage.done.append(record.offset)
            receipt.release()

        monkeypatch.setattr(group.stage, "process", process)
        group.thread.end = LENGTH
        await group.rebalance()
        await eventually(lambda: group.thread.position_ == LENGTH and group.runner.unacknowledged() > 0)
        await pause(100)
        assert not group.consumer.has_given_all
        room.set()
        await eventually(lambda: len(group.stage.done) == LENGTH)
        await eventually(lambda: group.consumer.has_given_all)
