import asyncio
import functools
from collections import defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import delivery
from pipeline.delivery import DeliveryWindow, Lanes, PartitionOrder, Reached, Receipt


def no_crash(error: BaseException) -> None:
    raise AssertionError("a job crashed") from error


@given(st.permutations(range(12)))
def test_offsets_are_given_back_in_order_whatever_order_they_are_released_in(released: list[int]) -> None:
    order = PartitionOrder()
    given_back: list[int] = []
    receipts = [order.issue(n, given_back.append) for n in range(12)]
    done: set[int] = set()
    for number in released:
        receipts[number].release()
        receipts[number].release()
        done.add(number)
        head = next(n for n in range(13) if n not in done)
        assert given_back == list(range(head))


def issue(window: DeliveryWindow, offset: int, given_back: list[int], committed: int | None = None) -> Receipt:
    receipt = window.issue("p", offset, given_back.append, Reached(offset, committed))
    assert receipt is not None
    return receipt


def test_a_closed_partition_gives_nothing_back() -> None:
    given_back: list[int] = []
    window = DeliveryWindow(4, no_crash)
    receipts = [issue(window, n, given_back) for n in range(3)]
    receipts[0].release()
    window.reset()
    receipts[1].release()
    receipts[2].release()
    assert given_back == [0]
    assert window.state().unacknowledged == 0


def test_records_behind_one_that_was_dropped_are_not_given_back() -> None:
    """A reset drops record 4, and 5 comes before it comes again."""
    given_back: list[int] = []
    window = DeliveryWindow(4, no_crash)
    issue(window, 4, given_back, committed=4)
    window.reset()
    for offset in (5, 6):
        issue(window, offset, given_back, committed=4).release()
    assert given_back == []
    assert window.held_s() > 0
    for receipt in [issue(window, n, given_back, committed=4) for n in (4, 5, 6)]:
        receipt.release()
    assert given_back == [4, 5, 6]
    assert window.held_s() == 0


def test_what_another_worker_has_dealt_with_meanwhile_is_not_waited_for() -> None:
    given_back: list[int] = []
    window = DeliveryWindow(4, no_crash)
    issue(window, 4, given_back)
    window.reset()
    issue(window, 9, given_back, committed=8).release()
    assert given_back == [9]


def test_what_is_committed_before_a_dropped_record_does_not_stand_for_it() -> None:
    """Records 4 to 6 were dropped; another worker has dealt with 4 alone."""
    given_back: list[int] = []
    window = DeliveryWindow(4, no_crash)
    for offset in (4, 5, 6):
        issue(window, offset, given_back, committed=4)
    window.reset()
    issue(window, 6, given_back, committed=5).release()
    assert given_back == []
    for offset in (5, 6):
        issue(window, offset, given_back, committed=5).release()
    assert given_back == [5, 6]


def test_a_dropped_place_that_holds_nothing_is_not_waited_for() -> None:
    """Another worker has dealt with 4, behind which a transaction's marker lies: the first record that comes is 6."""
    given_back: list[int] = []
    window = DeliveryWindow(4, no_crash)
    for offset in (4, 6, 7):
        issue(window, offset, given_back)
    window.reset()
    for offset, read_from in ((6, 5), (7, 7)):
        receipt = window.issue("p", offset, given_back.append, Reached(read_from, 5))
        assert receipt is not None
        receipt.release()
    assert given_back == [6, 7]
    assert window.held_s() == 0


def test_a_record_that_a_seek_brings_again_is_not_worked_on_twice() -> None:
    given_back: list[int] = []
    window = DeliveryWindow(4, no_crash)
    receipts = [issue(window, n, given_back) for n in (4, 5)]
    receipts[0].release()
    assert [window.issue("p", n, lambda _: given_back.append(-1), Reached(n, 5)) for n in (4, 5)] == [None, None]
    issue(window, 6, given_back).release()
    receipts[1].release()
    assert given_back == [4, 5, 6]


def test_a_record_before_those_in_hand_is_no_repetition() -> None:
    """Whatever brought the consumer there: what is in hand comes again behind it."""
    given_back: list[int] = []
    window = DeliveryWindow(4, no_crash)
    issue(window, 6, given_back)
    for offset in (5, 6):
        issue(window, offset, given_back).release()
    assert given_back == [5, 6]


class Partition:
    """A partition whose consumer commits up to the last offset that is acknowledged, whatever lies before it.

    At the offsets `unread` lies nothing that can be read, as a transaction's markers.
    """

    def __init__(self, length: int, unread: set[int]) -> None:
        self.window = DeliveryWindow(4, no_crash)
        self.length, self.position, self.committed = length, 0, 0
        self.acknowledged: set[int] = set()
        self.dealt_with = set(unread)
        self.receipts: list[Receipt] = []
        self.unread = unread

    def next_from(self, position: int) -> int | None:
        return next((number for number in range(position, self.length) if number not in self.unread), None)

    def deliver(self) -> None:
        number = self.next_from(self.position)
        if number is not None:
            reached = Reached(self.position, self.committed or None)
            receipt = self.window.issue("p", number, self.acknowledged.add, reached)
            if receipt is not None:
                self.receipts.append(receipt)
            self.position = number + 1

    def release(self, index: int) -> None:
        if self.receipts:
            receipt = self.receipts[index % len(self.receipts)]
            self.dealt_with.add(receipt.offset)
            receipt.release()

    def commit(self) -> None:
        if self.acknowledged:
            self.committed = max(self.committed, max(self.acknowledged) + 1)
            self.acknowledged.clear()

    def reset(self) -> None:
        self.window.reset()
        self.receipts.clear()

    def seek(self) -> None:
        self.position = self.committed

    def elsewhere(self) -> None:
        """Another worker gets it, and deals with the next record; then it comes back."""
        self.reset()
        self.acknowledged.clear()
        number = self.next_from(self.committed)
        if number is not None:
            self.dealt_with.add(number)
            self.committed = number + 1
        self.seek()

    def finish(self) -> None:
        """What comes of it once it is left in peace."""
        self.seek()
        while self.next_from(self.position) is not None:
            self.deliver()
        for index in range(len(self.receipts)):
            self.release(index)
        self.commit()


@given(
    st.lists(
        st.sampled_from(["deliver", "deliver", "deliver", "commit", "reset", "seek", "elsewhere"]) | st.integers(0, 9),
        max_size=60,
    ),
    st.sets(st.integers(0, 10)),
)
@settings(max_examples=1500)
def test_every_record_is_dealt_with_and_none_is_committed_before(steps: list[str | int], unread: set[int]) -> None:
    """Whenever the window is reset and the consumer seeks back, in any order and number, here and elsewhere."""
    partition = Partition(12, unread)
    for step in steps:
        if isinstance(step, int):
            partition.release(step)
        else:
            getattr(partition, step)()
        assert set(range(partition.committed)) <= partition.dealt_with
    partition.finish()
    assert partition.committed == partition.length


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=30), st.integers(1, 8))
def test_jobs_of_one_key_run_in_order_one_at_a_time_and_no_more_than_the_limit_at_once(
    jobs: list[tuple[str, int]], limit: int
) -> None:
    running: dict[str, int] = defaultdict(int)
    seen: dict[str, list[int]] = defaultdict(list)
    most = 0

    async def main() -> None:
        nonlocal most
        lanes = Lanes(limit, no_crash)

        async def job(key: str, number: int, yields: int) -> None:
            nonlocal most
            running[key] += 1
            assert running[key] == 1
            most = max(most, sum(running.values()))
            for _ in range(yields):
                await asyncio.sleep(0)
            seen[key].append(number)
            running[key] -= 1

        for number, (key, yields) in enumerate(jobs):
            await lanes.submit(key, lambda key=key, number=number, yields=yields: job(key, number, yields))  # type: ignore[misc]
        assert await lanes.drain(5.0)

    asyncio.run(main())
    assert most <= limit
    assert sum(map(len, seen.values())) == len(jobs)
    assert all(numbers == sorted(numbers) for numbers in seen.values())


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=20), st.integers(1, 3), st.integers(0, 4))
def test_jobs_that_wait_give_way_to_others_and_come_back(jobs: list[tuple[bool, int]], limit: int, most_given_way: int) -> None:
    working, away, most = set[int](), set[int](), 0

    async def main() -> None:
        nonlocal most
        lanes, back = Lanes(limit, no_crash), asyncio.Event()

        async def job(number: int, yields: int, *, waits: bool) -> None:
            nonlocal most
            working.add(number)
            if waits:
                lanes.give_way()
                working.discard(number)
                away.add(number)
                await back.wait()
                away.discard(number)
                working.add(number)
            for _ in range(yields):
                most = max(most, len(working | away))
                await asyncio.sleep(0)
            working.discard(number)

        for number, (waits, yields) in enumerate(jobs):
            if len(away) >= most_given_way:
                back.set()
            work = functools.partial(job, number, yields, waits=waits)
            await lanes.submit(number, work)
        back.set()
        assert await lanes.drain(5.0)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(delivery, "MOST_GIVEN_WAY", most_given_way)
        asyncio.run(main())
    assert most <= limit + most_given_way
    assert not working | away


async def test_a_job_that_gave_way_does_not_wait_for_those_behind_it() -> None:
    """They are of its own key, and hold all the places there are."""
    lanes, back = Lanes(1, no_crash), asyncio.Event()

    async def wait() -> None:
        lanes.give_way()
        await back.wait()

    await lanes.submit("a", wait)
    await asyncio.wait_for(lanes.submit("a", wait), 5)
    back.set()
    assert await lanes.drain(5.0)
    await asyncio.wait_for(lanes.submit("b", wait), 5)
    assert await lanes.drain(5.0)


async def test_a_job_that_is_dropped_when_it_has_given_way_keeps_nobody_waiting() -> None:
    window = DeliveryWindow(1, no_crash)
    stood = asyncio.Event()

    async def wait() -> None:
        window.lanes.give_way()
        stood.set()
        await asyncio.Event().wait()

    for number in range(3):
        await window.lanes.submit(number, wait)
    await stood.wait()
    old = window.lanes
    window.reset()
    assert await old.drain(5.0)
    done = asyncio.Event()

    async def work() -> None:
        done.set()

    await window.lanes.submit("a", work)
    await asyncio.wait_for(done.wait(), 5)


async def test_a_job_that_fails_is_a_crash_and_blocks_nobody() -> None:
    crashes: list[BaseException] = []
    lanes = Lanes(1, crashes.append)

    async def fail() -> None:
        raise RuntimeError("broken")

    done = asyncio.Event()

    async def work() -> None:
        done.set()

    await lanes.submit("a", fail)
    await lanes.submit("b", work)
    await asyncio.wait_for(done.wait(), 5)
    await lanes.drain(5)
    assert [str(error) for error in crashes] == ["broken"]


async def test_who_waits_for_a_free_lane_does_not_wait_for_jobs_that_are_dropped_before_they_begin() -> None:
    lanes, begun = Lanes(1, no_crash), []

    async def job() -> None:
        begun.append(True)

    await lanes.submit("a", job)
    waiting = [asyncio.create_task(lanes.submit(key, job)) for key in "bc"]
    lanes.cancel()
    await asyncio.wait_for(asyncio.gather(*waiting), 5)
    assert begun == []


async def test_draining_says_when_work_did_not_end() -> None:
    lanes = Lanes(1, no_crash)
    release = asyncio.Event()

    async def wait() -> None:
        await release.wait()

    await lanes.submit("a", wait)
    assert not await lanes.drain(0.01)
    release.set()
    assert await lanes.drain(5)


def test_what_one_rebalance_after_another_dropped_is_waited_for_from_its_first_record() -> None:
    """Records 4 and 5 were dropped, and 6 was when it had come before them."""
    given_back: list[int] = []
    window = DeliveryWindow(4, no_crash)
    for offset in (4, 5):
        issue(window, offset, given_back, committed=4)
    window.reset()
    issue(window, 6, given_back, committed=4)
    window.reset()
    issue(window, 6, given_back, committed=4).release()
    assert given_back == []
    for offset in (4, 5, 6):
        issue(window, offset, given_back, committed=4).release()
    assert given_back == [4, 5, 6]


def test_what_was_done_while_it_was_held_is_given_back_when_another_worker_has_dealt_with_the_rest() -> None:
    given_back: list[int] = []
    window = DeliveryWindow(4, no_crash)
    issue(window, 4, given_back, committed=4)
    window.reset()
    issue(window, 5, given_back, committed=4).release()
    issue(window, 6, given_back, committed=5)
    assert given_back == [5]
