import asyncio
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from pipeline.delivery import DeliveryWindow, Lanes, PartitionOrder, Receipt


def no_crash(error: BaseException) -> None:
    raise AssertionError("a job crashed") from error


@given(st.permutations(range(12)))
def test_offsets_are_given_back_in_order_whatever_order_they_are_released_in(released: list[int]) -> None:
    order, given_back = PartitionOrder(), []
    receipts = [order.issue(lambda n=n: given_back.append(n)) for n in range(12)]  # type: ignore[misc]
    done: set[int] = set()
    for number in released:
        receipts[number].release()
        receipts[number].release()
        done.add(number)
        head = next(n for n in range(13) if n not in done)
        assert given_back == list(range(head))


def test_a_closed_partition_gives_nothing_back() -> None:
    window, given_back = DeliveryWindow(4, no_crash), []
    receipts: list[Receipt] = [window.issue("p", lambda n=n: given_back.append(n)) for n in range(3)]  # type: ignore[misc]
    receipts[0].release()
    window.reset()
    receipts[1].release()
    receipts[2].release()
    assert given_back == [0]
    assert window.state().unacknowledged == 0


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


async def test_draining_says_when_work_did_not_end() -> None:
    lanes = Lanes(1, no_crash)
    release = asyncio.Event()

    async def wait() -> None:
        await release.wait()

    await lanes.submit("a", wait)
    assert not await lanes.drain(0.01)
    release.set()
    assert await lanes.drain(5)
