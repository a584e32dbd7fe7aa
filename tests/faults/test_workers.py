"""Workers that are killed, asked to end, frozen, added and taken away: no call notices."""

import random
import signal
import time

import pytest

from tests.faults.calls import interleaved, make_calls
from tests.faults.conftest import SESSION_TIMEOUT_S, Reporter, pick
from tests.faults.feed import Feed
from tests.faults.outcome import Expected, Outcome
from tests.faults.pool import Pool
from tests.system import System

pytestmark = pytest.mark.broker

SEEDS = pick([1], [1, 2, 3, 4, 5])


@pytest.mark.parametrize("seed", SEEDS)
def test_workers_are_killed_and_asked_to_end(system: System, expected: Expected, report: Reporter, seed: int) -> None:
    calls = make_calls(pick(100, 2000), seed)
    kills, terms = pick((3, 2), (30, 30))
    chance = random.Random(seed)
    records = interleaved(calls, chance)
    with Outcome(system) as outcome, Pool(system, pick(2, 4)) as pool:
        outcome.wait_joined()
        with Feed(system.settings, records, seconds=pick(15, 240)):
            pool.storm([signal.SIGKILL] * kills + [signal.SIGTERM] * terms, chance, burst=pick(2, 5), rest_s=pick(4, 14))
        outcome.wait(calls, pick(120, 900))
        letters = outcome.dead_letters()
        verdict = outcome.judge(calls, expected)
        row = report(seed, f"{kills} SIGKILL, {terms} SIGTERM in bursts", calls, verdict, outcome, pool, len(letters))
        verdict.check()
        assert letters == []
        assert (row.duplicate_speech, row.duplicate_prints) == (0, 0)
        assert outcome.drafts() > 0  # calls are as fast as live ones
        # killed, ended in order, or asked to end before it could listen
        assert set(pool.exits) <= {-signal.SIGKILL, 0, -signal.SIGTERM}


DOOMS = (
    "sent:speech:{n}",  # after a send, before anything is acknowledged
    "sent:prints:{n}",
    "sent:results:{n}",
    "sent:snapshots:1",  # after a snapshot, before its chunks are released
    "acknowledged:{n}",
    "recovery:begin:{few}",
    "recovery:end:{few}",
    "rebalance:begin:{few}",
    "rebalance:drained:{few}",
    "rebalance:end:{few}",
    "assigned:{few}",
)
FEW_DOOMS = ("sent:prints:{n}", "sent:snapshots:1", "recovery:end:{few}", "rebalance:drained:{few}", "assigned:{few}")


@pytest.mark.parametrize("seed", pick([1], list(range(1, 21))))
def test_a_worker_dies_at_each_boundary(system: System, expected: Expected, report: Reporter, seed: int) -> None:
    chance = random.Random(seed)
    dooms = [doom.format(n=chance.randint(1, 12), few=chance.randint(1, 3)) for doom in pick(FEW_DOOMS, DOOMS)]
    chance.shuffle(dooms)
    calls = []
    with Outcome(system) as outcome, Pool(system, 3, dooms) as pool:
        for batch in range(60):
            if not pool.doomed():
                break
            fresh = make_calls(8, seed, f"boundary-{batch}", long_share=0.15)
            with Feed(system.settings, interleaved(fresh, chance), seconds=5):
                calls += fresh
            if batch % 4 == 3:
                pool.send(2, signal.SIGTERM)  # for those who wait for a rebalance
        outcome.wait(calls, 180)
        letters = outcome.dead_letters()
        verdict = outcome.judge(calls, expected)
        row = report(seed, f"{len(dooms)} boundaries", calls, verdict, outcome, pool, len(letters))
        verdict.check()
        assert letters == []
        assert (row.duplicate_speech, row.duplicate_prints) == (0, 0)
        assert pool.exits.count(-signal.SIGKILL) == len(dooms)


@pytest.mark.parametrize("seed", [1])
def test_a_frozen_worker_comes_back(system: System, expected: Expected, report: Reporter, seed: int) -> None:
    """Its partitions went to another; what it still holds must not harm them."""
    chance = random.Random(seed)
    times = pick(1, 10)
    frozen_s = SESSION_TIMEOUT_S + 3
    calls = make_calls(pick(40, 400), seed, "frozen", long_share=0.1)
    with Outcome(system) as outcome, Pool(system, 2) as pool:
        outcome.wait_joined(members=2)
        with Feed(system.settings, interleaved(calls, chance), seconds=times * (frozen_s + 8)):
            for _ in range(times):
                slot = chance.randrange(2)
                pool.send(slot, signal.SIGSTOP)
                time.sleep(frozen_s)
                outcome.wait_members(1)  # its partitions are another's
                pool.send(slot, signal.SIGCONT)
                time.sleep(chance.uniform(3, 8))
        outcome.wait(calls, 180)
        letters = outcome.dead_letters()
        verdict = outcome.judge(calls, expected)
        report(seed, f"{times} SIGSTOP of {frozen_s:g} s", calls, verdict, outcome, pool, len(letters))
        verdict.check()
        assert letters == []
        assert pool.exits == []  # it goes on by itself


@pytest.mark.parametrize("seed", [1])
def test_workers_come_and_go(system: System, expected: Expected, report: Reporter, seed: int) -> None:
    """One to four to one, under load; every worker that is asked to end does so in order."""
    chance = random.Random(seed)
    times = pick(1, 10)
    calls = make_calls(pick(60, 600), seed, "scaled", long_share=0.05)
    with Outcome(system) as outcome, Pool(system, 1) as pool:
        with Feed(system.settings, interleaved(calls, chance), seconds=25 * times):
            codes = []
            for _ in range(times):
                time.sleep(3)
                for _ in range(3):
                    pool.add()
                    time.sleep(chance.uniform(0.5, 2))
                time.sleep(6)
                codes += [pool.retire() for _ in range(3)]
        outcome.wait(calls, 180)
        letters = outcome.dead_letters()
        verdict = outcome.judge(calls, expected)
        row = report(seed, f"{times} x 1 to 4 to 1", calls, verdict, outcome, pool, len(letters))
        verdict.check()
        assert letters == []
        assert (row.duplicate_speech, row.duplicate_prints) == (0, 0)
        assert codes == [0] * 3 * times
        assert pool.exits == []
