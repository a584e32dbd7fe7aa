"""What a killed worker costs: seconds until nothing lags, records that come twice, and what being ready for it costs.

    python -m benchmarks.recovery

Calls of the bundled sample (two channels, 8000 Hz) are fed up to an age of 60 s, the only worker is killed with SIGKILL,
another is started at once, and the rest is fed. Held against: the same feed, nobody killed. Kafka gives the dead worker's
partitions away when its session times out, which is the least that a recovery takes; so the table says it.

Then the same calls from begin to end through a worker that writes no snapshots, and through one that does: CPU and bytes.
"""

import logging
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import msgspec

from benchmarks.machine import describe
from pipeline.broker.kafka import EmbeddedBroker
from pipeline.settings import Settings, load
from tests.faults.calls import Call, Chunk, Variant, make_call
from tests.faults.feed import Feed
from tests.faults.outcome import Outcome
from tests.faults.pool import Pool
from tests.system import System, open_system

SAMPLE = Variant(0.0, 76.0, (0, 1))
AGE_S = 60
CHUNK_S = 0.5
BYTES_PER_S = 8000 * 2 * 2
TOPICS = ("speech", "prints", "snapshots")
PATIENCE_S = 600.0


@contextmanager
def opened(broker: EmbeddedBroker, settings: Settings, name: str) -> Iterator[tuple[System, Outcome]]:
    """Topics of their own, and a reader of what comes."""
    here = msgspec.structs.replace(settings, broker=broker.bootstrap, topic_prefix=f"{name}.")
    with tempfile.TemporaryDirectory() as folder, open_system(here, Path(folder)) as system, Outcome(system) as outcome:
        yield system, outcome


def sample_calls(count: int) -> list[Call]:
    """Calls of the whole sample, cut evenly."""
    return [make_call(f"call-{number}", SAMPLE, random.Random(number), calm=True) for number in range(count)]


def split(calls: Sequence[Call]) -> tuple[list[Chunk], list[Chunk]]:
    """The records before the age at which the worker is killed, and those behind it, call beside call."""
    at = int(AGE_S / CHUNK_S)
    rounds = [[call.chunks[number] for call in calls] for number in range(len(calls[0].chunks))]
    return list(chain.from_iterable(rounds[:at])), list(chain.from_iterable(rounds[at:]))


def wait_settled(outcome: Outcome) -> dict[str, int]:
    """Until the lag does not change any more: what is held is held on purpose."""
    lag, since_s = outcome.lag(), time.monotonic()
    while time.monotonic() - since_s < 3:
        time.sleep(0.3)
        if (now := outcome.lag()) != lag:
            lag, since_s = now, time.monotonic()
    return lag


def recovery(broker: EmbeddedBroker, settings: Settings, count: int, *, kill: bool) -> tuple[float, float, dict[str, int]]:
    """Seconds to lag zero, seconds of audio in flight at the kill, and what came twice on each topic."""
    calls = sample_calls(count)
    before, after = split(calls)
    name = f"r{count}{'k' if kill else ''}{settings.session_timeout_s:g}"
    with opened(broker, settings, name) as (system, outcome), Pool(system, 1) as pool:
        outcome.wait_joined()
        with Feed(system.settings, before):
            pass
        lag = wait_settled(outcome)
        chunks_held = sum(behind for place, behind in lag.items() if place.startswith("vad"))
        began_s = time.monotonic()
        if kill:
            pool.send(0, signal.SIGKILL)
        with Feed(system.settings, after):
            pass
        outcome.wait(calls, PATIENCE_S)
        elapsed_s = time.monotonic() - began_s
        twice = {topic: outcome.duplicates(topic) for topic in TOPICS}
        records = sum(task.records for task in outcome.tasks.values())
        twice["results"] = records - sum(len(task.revisions) for task in outcome.tasks.values())
        return elapsed_s, chunks_held * CHUNK_S, twice


def report_recovery(broker: EmbeddedBroker, settings: Settings) -> None:
    """The first table."""
    print("\n| calls of 60 s | session timeout s | in flight, s of call | SIGKILL to lag zero s | nobody killed s ", end="")
    print("| twice on results, speech, prints |\n|---|---|---|---|---|---|")
    for timeout_s in (6.0, 20.0):
        chosen = msgspec.structs.replace(settings, session_timeout_s=timeout_s)
        for count in (1, 8) if timeout_s == 6.0 else (8,):
            calm_s, _, _ = recovery(broker, chosen, count, kill=False)
            killed_s, in_flight_s, twice = recovery(broker, chosen, count, kill=True)
            numbers = f"{twice['results']}, {twice['speech']}, {twice['prints']}"
            print(f"| {count} | {timeout_s:g} | {in_flight_s:.0f} | {killed_s:.1f} | {calm_s:.1f} | {numbers} |", flush=True)


def cpu_s(pid: int) -> float:
    """CPU seconds of a process by now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def cost(broker: EmbeddedBroker, settings: Settings, name: str, always: str | None) -> tuple[float, int]:
    """CPU seconds of a worker for eight calls, and the bytes that it wrote on `snapshots`."""
    calls = sample_calls(8)
    with opened(broker, settings, name) as (system, outcome), Pool(system, 1, always=always) as pool:
        outcome.wait_joined()
        before_s = cpu_s(pool.workers[0].pid)
        with Feed(system.settings, list(chain(*split(calls)))):
            pass
        outcome.wait(calls, PATIENCE_S)
        spent_s = cpu_s(pool.workers[0].pid) - before_s
        return spent_s, sum(len(one.value() or b"") + len(one.key() or b"") for one in system.read("snapshots"))


def report_cost(broker: EmbeddedBroker, settings: Settings) -> None:
    """The second table: the least of two rounds each, in turn."""
    found: dict[str, list[tuple[float, int]]] = {"without": [], "with": []}
    for number in range(2):
        found["without"].append(cost(broker, settings, f"without{number}", "forgetful"))
        found["with"].append(cost(broker, settings, f"with{number}", None))
    without_s, with_s = (min(seconds for seconds, _ in rounds) for rounds in found.values())
    written, audio_s = found["with"][0][1], 8 * SAMPLE.length_s
    print(f"\nsnapshots: CPU {with_s:.2f} s with, {without_s:.2f} s without, {with_s / without_s:.3f} times", end="")
    print(f"; {written / audio_s:.0f} bytes for a second of call, {written / audio_s / BYTES_PER_S:.1%} of its audio")


def main() -> None:
    """Measure and print."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    settings = msgspec.structs.replace(load(), language_model="tiny", partitions=4)
    print(describe())
    with EmbeddedBroker(settings.cache_dir) as broker:
        report_recovery(broker, settings)
        report_cost(broker, settings)


if __name__ == "__main__":
    main()
