"""Brokers of a cluster that end and come back, one at a time, while calls go on."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker_fixture import cache_dir
from tests.faults.calls import interleaved, make_calls
from tests.faults.cluster import NODES, Cluster
from tests.faults.conftest import Reporter, pick, settings_for
from tests.faults.feed import Feed
from tests.faults.outcome import Expected, Outcome
from tests.faults.pool import Pool
from tests.system import open_system

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Cluster(cache_dir()) as started:
        yield started


@pytest.mark.parametrize("seed", [1])
def test_brokers_are_bounced(cluster: Cluster, tmp_path: Path, expected: Expected, report: Reporter, seed: int) -> None:
    chance = random.Random(seed)
    bounces = [False] * pick(1, 5) + [True] * pick(1, 5)
    calls = make_calls(pick(60, 1000), seed, "bounced", long_share=0.05)
    with (
        open_system(settings_for(cluster.bootstrap, replication_factor=NODES), tmp_path) as system,
        Outcome(system) as outcome,
        Pool(system, 2) as pool,
    ):
        with Feed(system.settings, interleaved(calls, chance), seconds=pick(30, 240)):
            time.sleep(8)
            for hard in bounces:
                cluster.bounce(chance.randrange(NODES), hard=hard)
                time.sleep(chance.uniform(0, 4))
        outcome.wait(calls, 240)
        letters = outcome.dead_letters()
        verdict = outcome.judge(calls, expected)
        faults = f"{bounces.count(False)} clean, {bounces.count(True)} hard bounces"
        report(seed, faults, calls, verdict, outcome, pool, len(letters))
        verdict.check()
        assert letters == []
        assert pool.surprises == []
