"""Whether what a call costs stays the same with more workers, more partitions, and keys that meet on one partition.

    python -m benchmarks.scale [CALLS]

The bundled call (two channels, 8000 Hz, 77 s) is sent so many times at once to 1, 2 and 4 workers of all agents, each pinned to
a core (in turn, when there are fewer), with 1, 8 and 32 partitions, and with call ids that all fall on one partition of eight.
Held against one worker with eight partitions in the same run: CPU of the workers a call, and calls a second. The broker has no
core to itself once there are as many workers as cores, so elapsed time says less than CPU.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiokafka.partitioner import murmur2

from benchmarks.machine import describe
from benchmarks.worker import Usage, pinned_worker, sample_calls, send_and_wait
from pipeline.broker.kafka import EmbeddedBroker
from pipeline.broker.ports import free_port
from pipeline.settings import Settings, load
from pipeline.topics import create_topics
from tests.system import wait_ready

CALLS = 16
WARM_UP_CALLS = 8
PARTITIONS = 8
SETTLED_S = 10.0  # after a worker says that it is ready, others may still join


class Case(NamedTuple):
    """How many workers and partitions, and whether all calls are on one of these."""

    workers: int
    partitions: int = PARTITIONS
    is_hot: bool = False

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.workers} | {self.partitions} | {'one' if self.is_hot else 'all'}"


CASES = (Case(1), Case(2), Case(4), Case(1, 1), Case(1, 32), Case(2, PARTITIONS, is_hot=True))


class Spent(NamedTuple):
    """CPU of all workers and elapsed time for all calls, and the share of that CPU that the busiest worker had."""

    cpu_s: float
    elapsed_s: float
    busiest: float
    memory_mb: float


def partition_of(key: str, partitions: int) -> int:
    """Where a producer with the default partitioner of Kafka's Java client puts a key."""
    return int(murmur2(key.encode()) & 0x7FFFFFFF) % partitions


def call_ids(case: Case, count: int, name: str) -> list[str]:
    """So many ids; of a hot case those that fall on partition 0."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        number += 1
        if not case.is_hot or partition_of(f"{name}-{number}", case.partitions) == 0:
            found.append(f"{name}-{number}")
    return found


@contextmanager
def workers(settings: Settings, count: int, folder: Path) -> Iterator[list[Callable[[], Usage]]]:
    """So many of them, pinned to cores in turn, once they share the partitions."""
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as stack:
        ports, usages = [], []
        for number in range(count):
            own = folder / str(number)
            own.mkdir()
            ports.append(free_port())
            worker = pinned_worker(settings, own, cores[number % len(cores)], worker_port=str(ports[-1]))
            usages.append(stack.enter_context(worker))
        for port in ports:
            wait_ready(f"http://127.0.0.1:{port}", wanted=True)
        time.sleep(SETTLED_S)
        yield usages


def measure(settings: Settings, case: Case, count: int) -> Spent:
    """One row, with a broker of its own."""
    with tempfile.TemporaryDirectory() as name, EmbeddedBroker(settings.cache_dir) as broker:
        here = msgspec.structs.replace(settings, broker=broker.bootstrap, partitions=case.partitions)
        asyncio.run(create_topics(here))
        with workers(here, case.workers, Path(name)) as usages:
            asyncio.run(send_and_wait(here, sample_calls(call_ids(case, WARM_UP_CALLS, "warm-up"))))
            before_s = [usage().cpu_s for usage in usages]
            began_s = time.monotonic()
            asyncio.run(send_and_wait(here, sample_calls(call_ids(case, count, "call"))))
            elapsed_s, after = time.monotonic() - began_s, [usage() for usage in usages]
    spent_s = [now.cpu_s - then_s for now, then_s in zip(after, before_s, strict=True)]
    return Spent(sum(spent_s), elapsed_s, max(spent_s) / sum(spent_s), max(one.memory_mb for one in after))


def main() -> None:
    """Measure and print."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    settings, count = load(), int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    print(describe() + "\n")
    print("| workers | partitions | of them used | CPU s a call | to one worker | calls a second | to one worker ", end="")
    print("| busiest worker's share of CPU | MB of the largest worker |\n|---|---|---|---|---|---|---|---|---|")
    first: Spent | None = None
    for case in CASES:
        found = measure(settings, case, count)
        first = first or found
        cells = f"{found.cpu_s / count:.2f} | {found.cpu_s / first.cpu_s:.2f} | {count / found.elapsed_s:.2f}"
        more = f"{first.elapsed_s / found.elapsed_s:.2f} | {found.busiest:.0%} | {found.memory_mb:.0f}"
        print(f"| {case.name} | {cells} | {more} |", flush=True)


if __name__ == "__main__":
    main()
