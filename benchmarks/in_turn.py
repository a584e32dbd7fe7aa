"""Whether this tree takes less CPU for a file than another one: each file through a worker of both, one right behind the other.

    python -m benchmarks.in_turn TREE [CALLS] [default|exhaustive]

TREE is the folder of another checkout, as of `git worktree add ../before HEAD~1`; its worker runs on this tree's packages. A
machine is faster at some minutes than at others, by more than most changes give: two runs of `benchmarks.batch` cannot tell
them, and the differences of pairs can, above all in the threads that run no models (models' have a lower priority, on Linux).
Files are those of `benchmarks.batch`; both workers share one core, one of them idle.
"""

import asyncio
import contextlib
import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.batch import SHAPE, WAYS, as_calls, write_files
from benchmarks.calls import DEFAULTS, Track
from benchmarks.machine import describe
from benchmarks.worker import pinned_worker, send_and_wait
from pipeline.broker.kafka import EmbeddedBroker
from pipeline.settings import Settings, load
from pipeline.topics import create_topics
from schemas.media import CallOptions

CALLS = 16
_FILES = 8


class Side(msgspec.Struct):
    """A tree's worker, and what each call took of it: CPU seconds of all threads, and of those that run no models."""

    settings: Settings
    pid: int
    all_s: list[float]
    frame_s: list[float]

    def take(self, path: Path, name: str, options: CallOptions) -> None:
        """Send a file, and note what it took."""
        before = threads_of(self.pid)
        asyncio.run(send_and_wait(self.settings, as_calls([path], name, options)))
        spent = [(cpu_s - before.get(thread, (0.0, 0))[0], nice) for thread, (cpu_s, nice) in threads_of(self.pid).items()]
        self.all_s.append(sum(cpu_s for cpu_s, _ in spent))
        self.frame_s.append(sum(cpu_s for cpu_s, nice in spent if not nice))


def threads_of(pid: int) -> dict[str, tuple[float, int]]:
    """CPU seconds and priority (`nice`) of each thread."""
    found = {}
    for task in (Path("/proc") / str(pid) / "task").iterdir():
        nice = int((task / "stat").read_text().rpartition(")")[2].split()[16])
        found[task.name] = (int((task / "schedstat").read_text().split()[0]) / 1e9, nice)
    return found


@contextlib.contextmanager
def side_of(tree: Path, settings: Settings) -> Iterator[Side]:
    """A broker and a worker for this tree."""
    with tempfile.TemporaryDirectory() as name, EmbeddedBroker(settings.cache_dir) as broker:
        here = msgspec.structs.replace(settings, broker=broker.bootstrap)
        asyncio.run(create_topics(here))
        with pinned_worker(here, Path(name), tree=tree) as usage:
            yield Side(here, usage().pid, [], [])


def report(before: Side, now: Side) -> None:
    """Print what both took, and the mean difference of the pairs with its standard error."""
    print("| threads | before, CPU s a call | now | to before | difference | ± |\n|---|---|---|---|---|---|")
    for name, old_s, new_s in (("all", before.all_s, now.all_s), ("without models", before.frame_s, now.frame_s)):
        old, new = statistics.mean(old_s), statistics.mean(new_s)
        differences = [one - other for one, other in zip(new_s, old_s, strict=True)]
        error = statistics.stdev(differences) / len(differences) ** 0.5
        print(f"| {name} | {old:.2f} | {new:.2f} | {new / old:.3f} | {new - old:+.3f} | {error:.3f} |")


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
