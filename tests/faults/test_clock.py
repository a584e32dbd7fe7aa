"""Workers whose clocks are wrong by an hour, or are moved by one while they work."""

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

LIBRARY = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
HOUR_S = 3600


def ahead_s(system: System) -> list[float]:
    """How far in the future the results' timestamps are."""
    return [message.timestamp()[1] / 1000 - time.time() for message in system.read("results")]


def wait_for_results(system: System, *, of_the_future: bool) -> None:
    """A slow machine may take its time to say anything by a clock."""
    give_up_s = time.monotonic() + 60
    while time.monotonic() < give_up_s:
        if any(written_s > HOUR_S / 2 if of_the_future else written_s < -HOUR_S / 2 for written_s in ahead_s(system)):
            return
        time.sleep(0.5)


@pytest.mark.skipif(LIBRARY is None, reason="needs libfaketime (the package faketime)")
@pytest.mark.parametrize("seed", [1])
def test_workers_clocks_are_moved_by_an_hour(
    system: System, expected: Expected, report: Reporter, tmp_path: Path, seed: int
) -> None:
    """The first half of the calls with clocks an hour ahead that are then moved two hours back, the rest without."""
    clock = tmp_path / "clock"
    clock.write_text(f"+{HOUR_S}\n")
    moved = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",  # nothing but the wall clock of a machine can be moved
    }
    chance = random.Random(seed)
    calls = make_calls(pick(30, 150), seed, "clock", long_share=0.1)
    with Outcome(system) as outcome:
        with Feed(system.settings, interleaved(calls, chance), seconds=pick(16, 120)):
            with Pool(system, 1, **moved) as pool:
                time.sleep(pick(8, 50))
                wait_for_results(system, of_the_future=True)
                clock.write_text(f"-{HOUR_S}\n")
                time.sleep(pick(3, 40))
                wait_for_results(system, of_the_future=False)
            with Pool(system, 1) as successors:  # whoever was there is killed
                outcome.wait(calls, pick(90, 300))
        letters = outcome.dead_letters()
        verdict = outcome.judge(calls, expected)
        row = report(seed, "worker's clock +1 h, -1 h, then right", calls, verdict, outcome, pool, len(letters))
        verdict.check()
        assert letters == []
        assert row.duplicate_prints == 0
        assert pool.exits == successors.exits == []
    written_s = ahead_s(system)
    assert max(written_s) > HOUR_S / 2  # the clocks were moved indeed
    assert min(written_s) < -HOUR_S / 2
