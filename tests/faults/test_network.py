"""A worker on a bad line, and one that is cut off for a minute."""

import random
import time

import pytest

from tests.faults.calls import interleaved, make_calls
from tests.faults.conftest import Reporter
from tests.faults.feed import Feed
from tests.faults.network import Namespace, why_not
from tests.faults.outcome import Expected, Outcome
from tests.faults.pool import Pool
from tests.system import CLI, System

pytestmark = [
    pytest.mark.broker,
    pytest.mark.only_long,
    pytest.mark.skipif(why_not() is not None, reason=why_not() or ""),
]

CUT_S = 60
DELAY_S = 0.1
MBIT_PER_S = 3


@pytest.mark.parametrize("seed", [1])
def test_a_worker_is_cut_off_and_then_on_a_bad_line(system: System, expected: Expected, report: Reporter, seed: int) -> None:
    chance = random.Random(seed)
    calls = make_calls(200, seed, "network", long_share=0.05)
    ports = [int(server.rpartition(":")[2]) for server in system.settings.broker.split(",")]
    with Namespace(ports) as namespace, Outcome(system) as outcome, Pool(system, 1) as pool:
        distant = system.start("worker", command=[*namespace.prefix, *CLI], CALLSTREAM_INFERENCE_THREADS="1")
        outcome.wait_joined(members=2)
        with Feed(system.settings, interleaved(calls, chance), seconds=CUT_S + 90):
            time.sleep(10)
            namespace.cut()
            time.sleep(CUT_S)
            outcome.wait_members(1)
            namespace.mend()
            time.sleep(20)
            namespace.delay_s, namespace.bytes_per_s = DELAY_S, MBIT_PER_S * 1e6 / 8
            if distant.poll() is not None:  # it may have ended itself; it is started again as a supervisor would
                distant = system.start("worker", command=[*namespace.prefix, *CLI])
        outcome.wait(calls, 300)
        letters = outcome.dead_letters()
        verdict = outcome.judge(calls, expected)
        faults = f"cut for {CUT_S} s, then {DELAY_S * 1000:.0f} ms and {MBIT_PER_S} Mbit/s"
        report(seed, faults, calls, verdict, outcome, pool, len(letters))
        verdict.check()
        assert letters == []
        assert distant.terminate() == 0
