"""Work that takes long: a slow stage with a backlog, and an hour of mixed calls. Memory stays where it is."""

import random
import time
from pathlib import Path

import pytest

from tests.faults.calls import interleaved, make_calls
from tests.faults.conftest import Reporter, pick
from tests.faults.feed import Feed
from tests.faults.outcome import Expected, Outcome
from tests.faults.pool import Pool
from tests.system import System

pytestmark = pytest.mark.broker

SLOWER = 10


def memory_mb(pid: int) -> float:
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def sampled_mb(feed: Feed, pids: list[int], every_s: float) -> list[float]:
    """The sum over the processes, as long as the feed lasts."""
    samples = []
    while not feed.is_done():
        samples.append(sum(map(memory_mb, pids)))
        time.sleep(every_s)
    return samples


@pytest.mark.parametrize("seed", [1])
def test_a_slow_stage_holds_its_memory_and_its_partitions(
    system: System, expected: Expected, report: Reporter, seed: int
) -> None:
    seconds = pick(25, 600)
    calls = make_calls(round(seconds * 1.2), seed, "slow", long_share=0.0)
    with Outcome(system) as outcome, Pool(system, 1, always=f"slow:{SLOWER}") as pool:
        outcome.wait_joined()
        before = outcome.members()
        with Feed(system.settings, interleaved(calls, random.Random(seed)), seconds=seconds) as feed:
            samples = sampled_mb(feed, [pool.workers[0].pid], 1.0)
            assert any(place.startswith("extraction") for place in outcome.lag())  # it is too slow for what comes
        outcome.wait(calls, pick(90, 900))
        letters = outcome.dead_letters()
        verdict = outcome.judge(calls, expected)
        settled = samples[len(samples) // 3 :]
        growth = max(settled) / settled[0] - 1
        faults = f"{SLOWER} times slower for {seconds} s, memory {settled[0]:.0f} to {max(settled):.0f} MB"
        report(seed, faults, calls, verdict, outcome, pool, len(letters))
        verdict.check()
        assert letters == []
        assert outcome.members() == before  # no rebalance: a member that joins again has another id
        assert pool.exits == []
        assert growth < pick(0.25, 0.1)


@pytest.mark.only_long
@pytest.mark.parametrize("seed", [1])
def test_an_hour_of_mixed_calls(system: System, expected: Expected, report: Reporter, seed: int) -> None:
    seconds = 3700
    calls = make_calls(2600, seed, "soak", long_share=0.1)
    with Outcome(system) as outcome, Pool(system, 2) as pool:
        outcome.wait_joined()
        with Feed(system.settings, interleaved(calls, random.Random(seed)), seconds=seconds) as feed:
            samples = sampled_mb(feed, [worker.pid for worker in pool.workers], 10.0)
        outcome.wait(calls, 600)
        letters = outcome.dead_letters()
        verdict = outcome.judge(calls, expected)
        sixth = len(samples) // 6  # the first is warm-up
        begin, end = (sum(part) / len(part) for part in (samples[sixth : 2 * sixth], samples[-sixth:]))
        report(seed, f"{seconds} s, memory {begin:.0f} to {end:.0f} MB", calls, verdict, outcome, pool, len(letters))
        verdict.check()
        assert letters == []
        assert pool.exits == []
        assert end / begin < 1.05
