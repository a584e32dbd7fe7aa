"""What a second of audio costs in allocations and in Python calls, which are counted, not timed, against what was recorded.

    python -m benchmarks.guard [--record]

The bundled call goes through the stages of all agents in one process, wired by their topics as on Kafka, but without a broker;
and through voice activity detection alone. Counts hardly depend on the machine, so that they can be held to the record: this
ends with 1, and `tests/test_guard.py` fails, when one has grown by more than a tenth or is half of what it was. With `--record`
they become the new record; say why in the commit. Records are kept for each minor version of Python, whose own calls differ.
"""

import asyncio
import platform
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any
from unittest import mock

import memray
import msgspec

from agents import comparison, extraction, gender, language, vad
from benchmarks.machine import describe
from pipeline.partition_scan import PartitionScan
from pipeline.records import Record
from tests.agents.conftest import EmptyWatchlist
from tests.harness import Bench, bench_settings, media_headers, read_log, sample_audio

SECONDS = 20
GROWTH = 1.1
RECORD = Path(__file__).with_suffix(".json")
SCENARIOS: dict[str, Sequence[ModuleType]] = {
    "voice activity detection": (vad,),
    "all agents": (vad, extraction, language, gender, comparison),
}
# Not counted: the collector may free what was left by the scenario before. memray's total has them in it.
_FREES = {memray.AllocatorType.FREE, memray.AllocatorType.PYMALLOC_FREE, memray.AllocatorType.MUNMAP}
PYTHON = ".".join(platform.python_version_tuple()[:2])


class Counts(msgspec.Struct, frozen=True):
    """For each second of two-channel audio."""

    allocations: float
    calls: float


Records = dict[str, dict[str, Counts]]  # by version of Python and scenario


async def send(bench: Bench, call_id: str, audio: bytes) -> None:
    """A call, in chunks of 250 ms."""
    step = 2 * 2 * 8 * 250
    starts = range(0, len(audio), step)
    for sequence, at in enumerate(starts):
        headers = media_headers(sequence, end=at == starts[-1], position=at)
        await bench.produce("media", call_id.encode(), audio[at : at + step], headers)


async def run(agents: Sequence[ModuleType], count: Callable[[Callable[[], Awaitable[None]]], Awaitable[float]]) -> float:
    """What is counted while a call is heard by a new bench, for each second of it."""
    benches: list[Bench] = []

    async def read(scan: PartitionScan[Any], first: Record) -> Any:  # noqa: ANN401 - of the base
        return await read_log(scan, benches[-1].log, first)

    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(PartitionScan, "_read", read),
        mock.patch.object(comparison, "WatchlistFollower", EmptyWatchlist),
    ):
        settings = bench_settings(Path(folder), language_model="tiny", inference_threads=1)
        async with Bench(settings, *(stage for agent in agents for stage in agent.stages(settings))) as bench:
            benches.append(bench)
            # threads that are there already would not be counted
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
            counted = await count(lambda: send(bench, "call", sample_audio(0, SECONDS)))
    return counted / SECONDS


async def allocations(work: Callable[[], Awaitable[None]]) -> float:
    """How often memory was allocated, by Python and by the libraries."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "allocations.bin"
        with memray.Tracker(path, trace_python_allocators=True):
            await work()
        reader = memray.FileReader(path)
        total = float(sum(record.allocator not in _FREES for record in reader.get_allocation_records()))
        reader.close()
    return total


async def calls(work: Callable[[], Awaitable[None]]) -> float:
    """How many functions were called, Python's and C's."""
    with counted_calls() as count:
        await work()
    return float(count[0])


@contextmanager
def counted_calls() -> Iterator[list[int]]:
    """Counts in this thread and in those that begin meanwhile."""
    count = [0]

    def note(_frame: FrameType, event: str, _of: object) -> None:
        if event in ("call", "c_call"):
            count[0] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield count
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


async def uncounted(work: Callable[[], Awaitable[None]]) -> float:
    """For what is done once in a process."""
    await work()
    return 0.0


def measure() -> dict[str, Counts]:
    """The counts of each scenario."""
    asyncio.run(run(SCENARIOS["all agents"], uncounted))
    return {
        name: Counts(*(asyncio.run(run(agents, count)) for count in (allocations, calls))) for name, agents in SCENARIOS.items()
    }


def recorded() -> dict[str, Counts] | None:
    """What is on record for this version of Python."""
    return _read().get(PYTHON)


def _read() -> Records:
    return msgspec.json.decode(RECORD.read_bytes(), type=Records) if RECORD.exists() else {}


def main() -> int:
    """Print the counts; 1 when they have grown too much, or shrunk so much that less should stay less."""
    found, before = measure(), recorded()
    print(describe() + "\n")
    print("| scenario | allocations per s of audio | of the record | calls per s of audio | of the record |")
    print("|---|---|---|---|---|")
    moved = False
    for name, counts in found.items():
        cells = []
        for field in ("allocations", "calls"):
            value, old = getattr(counts, field), getattr((before or {}).get(name), field, None)
            moved |= old is not None and not old / 2 < value <= GROWTH * old
            cells += [f"{value:,.0f}", f"{value / old:.2f}" if old else "–"]
        print(f"| {name} | {' | '.join(cells)} |")
    if "--record" in sys.argv:
        RECORD.write_bytes(msgspec.json.format(msgspec.json.encode(_read() | {PYTHON: found}), indent=1) + b"\n")
        return 0
    return int(moved)


if __name__ == "__main__":
    sys.exit(main())
