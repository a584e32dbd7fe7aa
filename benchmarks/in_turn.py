"""Whether this tree takes less CPU for a file than another one: each file through a worker of both, one right behind the other.

    python -m benchmarks.in_turn TREE [CALLS] [default|exhaustive]

TREE is the folder of another checkout, as of `git worktree add ../before HEAD~1`; its worker runs on this tree's packages. A
machine is faster at some minutes than at others, by more than most changes give: two runs of `benchmarks.batch` cannot tell
them, and the differences of pairs can. Files are those of `benchmarks.batch`; both workers share one core, one of them idle.
"""

import asyncio
import contextlib
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.batch import SHAPE, WAYS, as_calls, write_files
from benchmarks.calls import DEFAULTS, Track
from benchmarks.machine import describe
from benchmarks.worker import Usage, pinned_worker, send_and_wait
from pipeline.broker.kafka import EmbeddedBroker
from pipeline.settings import Settings, load
from pipeline.topics import create_topics
from schemas.media import CallOptions

CALLS = 16
_FILES = 8


class Side(msgspec.Struct):
    """A tree's worker, and what each call took of it."""

    tree: Path
    settings: Settings
    usage: Callable[[], Usage]
    cpu_s: list[float]

    def take(self, path: Path, name: str, options: CallOptions) -> None:
        """Send a file, and note what it took."""
        before_s = self.usage().cpu_s
        asyncio.run(send_and_wait(self.settings, as_calls([path], name, options)))
        self.cpu_s.append(self.usage().cpu_s - before_s)


@contextlib.contextmanager
def side_of(tree: Path, settings: Settings) -> Iterator[Side]:
    """A broker and a worker for this tree."""
    with tempfile.TemporaryDirectory() as name, EmbeddedBroker(settings.cache_dir) as broker:
        here = msgspec.structs.replace(settings, broker=broker.bootstrap)
        asyncio.run(create_topics(here))
        with pinned_worker(here, Path(name), tree=tree) as usage:
            yield Side(tree, here, usage, [])


def report(before: Side, now: Side) -> None:
    """Print what both took, and the mean difference of the pairs with its standard error."""
    print("| tree | CPU s a call | to the other |\n|---|---|---|")
    base_s = statistics.mean(before.cpu_s)
    for side in (before, now):
        print(f"| {side.tree} | {statistics.mean(side.cpu_s):.2f} | {statistics.mean(side.cpu_s) / base_s:.3f} |")
    differences = [one - other for one, other in zip(now.cpu_s, before.cpu_s, strict=True)]
    error = statistics.stdev(differences) / len(differences) ** 0.5
    print(f"\ndifference of {len(differences)} pairs: {statistics.mean(differences):+.3f} s a call, ± {error:.3f}")


def run(sides: Sequence[Side], track: Track, count: int, way: str) -> None:
    """Each file through both; whoever was second is first with the next."""
    with tempfile.TemporaryDirectory() as name:
        paths = write_files(track, Path(name), _FILES)
        for side in sides:
            asyncio.run(send_and_wait(side.settings, as_calls(paths[:1], "warm-up", DEFAULTS)))
        for number in range(count):
            for side in sides[:: 1 if number % 2 else -1]:
                side.take(paths[number % _FILES], f"{way}-{number}", dict(WAYS)[way])


def main() -> None:
    """Measure and print."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    arguments = dict(enumerate(sys.argv))
    settings, other = load(), Path(arguments[1]).resolve()
    os.sched_setaffinity(0, set(range(1, os.cpu_count() or 1)) or {0})
    print(describe() + "\n")
    with side_of(other, settings) as before, side_of(Path.cwd(), settings) as now:
        count, way = int(arguments.get(2, CALLS)), arguments.get(3, WAYS[0][0])
        run((before, now), Track(settings, SHAPE), max(2, count), way)
        report(before, now)


if __name__ == "__main__":
    main()
