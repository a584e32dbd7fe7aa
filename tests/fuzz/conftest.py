from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agents import comparison, extraction, gender, intake, language, vad
from pipeline.partition_scan import PartitionScan
from pipeline.records import Record
from tests.agents.conftest import EmptyWatchlist, OpenBench
from tests.harness import Bench, bench_settings, read_log


@pytest.fixture
def open_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenBench:
    """A bench with every stage, also the one that takes files; keyword arguments are settings."""
    monkeypatch.setattr(comparison, "WatchlistFollower", EmptyWatchlist)
    opened_benches: list[Bench] = []

    async def read_bench(scan: PartitionScan[Any], first: Record) -> Any:
        return await read_log(scan, opened_benches[-1].log, first)

    monkeypatch.setattr(PartitionScan, "_read", read_bench)

    @asynccontextmanager
    async def opened(**changed: Any) -> AsyncIterator[Bench]:
        settings = bench_settings(tmp_path, language_model="tiny", **changed)
        modules = (intake, vad, extraction, language, gender, comparison)
        async with Bench(settings, *(stage for module in modules for stage in module.stages(settings))) as bench:
            opened_benches.append(bench)
            yield bench

    return opened
