from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agents import comparison, extraction, gender, language, vad
from pipeline.partition_scan import PartitionScan
from pipeline.records import Record
from pipeline.scoring.enrolled import Enrolled
from pipeline.scoring.voiceprint import pack
from pipeline.settings import Settings
from tests.harness import Bench, bench_settings, read_log

OpenBench = Callable[..., AbstractAsyncContextManager[Bench]]


class EmptyWatchlist:
    """In place of Kafka's compacted topic, which the broker tests read."""

    def __init__(self, _settings: Settings) -> None:
        self.entries: dict[str, Any] = {}

    async def now(self) -> Enrolled:
        return Enrolled({subject: pack(voiceprint) for subject, voiceprint in self.entries.items()})

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@pytest.fixture
def open_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenBench:
    """A bench with every stage that calls meet; keyword arguments are settings, and `log` what the topics hold already."""
    return opener(tmp_path, monkeypatch, (vad, extraction, language, gender, comparison))


def opener(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, agents: Sequence[Any]) -> OpenBench:
    """Opens benches with the stages of these agents' modules."""
    monkeypatch.setattr(comparison, "WatchlistFollower", EmptyWatchlist)
    opened_benches: list[Bench] = []

    async def read_bench(scan: PartitionScan[Any], first: Record) -> Any:
        return await read_log(scan, opened_benches[-1].log, first)

    monkeypatch.setattr(PartitionScan, "_read", read_bench)

    @asynccontextmanager
    async def opened(**changed: Any) -> AsyncIterator[Bench]:
        settings = bench_settings(tmp_path, language_model="tiny", **changed)
        async with Bench(settings, *(stage for agent in agents for stage in agent.stages(settings))) as bench:
            opened_benches.append(bench)
            yield bench

    return opened
