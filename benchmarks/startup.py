"""How soon a worker that is started gives its first result, and what of that is loading: Python's modules and the models.

    python -m benchmarks.startup

A call waits on `media` when the worker is started, with the models in the cache. From the start of the process to the record
timestamp of the first partial result and of the call's last `done`. The limit in the same run is a process that loads the same
modules and models and ends; Kafka's group, which a worker has to join, takes some of the rest.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.machine import describe
from benchmarks.worker import all_records, pinned_worker, sample_calls, send, wait_final
from pipeline.broker.kafka import EmbeddedBroker
from pipeline.settings import Settings, load
from pipeline.topics import create_topics
from schemas.results import Transition
from schemas.tasks import TaskState

ROUNDS = 3
_LOADING = """
import pipeline.cli, agents.comparison, agents.gender, agents.intake, agents.language, agents.vad, agents.extraction
from pipeline.models.detector import load_vad
from pipeline.scoring.extraction import load_models
from pipeline.settings import load
settings = load()
load_models(settings), load_vad(settings.cache_dir, settings.manifest_path)
"""
_RESULT = msgspec.json.Decoder(Transition)


def loading_s() -> float:
    """The limit, on the core that the worker has."""
    began_s = time.monotonic()
    subprocess.run(["taskset", "-c", "0", sys.executable, "-c", _LOADING], check=True)
    return time.monotonic() - began_s


async def _answers_s(settings: Settings, began_s: float) -> tuple[float, float]:
    """When the first partial result and the last `done` came."""
    partial, done = [], []
    for record in await all_records(settings, "results"):
        transition = _RESULT.decode(record.value or b"")
        if not isinstance(transition.partial, msgspec.UnsetType):
            partial.append(record.timestamp / 1000 - began_s)
        if transition.task.state is TaskState.DONE and transition.call_id == "call":
            done.append(record.timestamp / 1000 - began_s)
    return min(partial), max(done)


def once(settings: Settings) -> tuple[float, float]:
    """Seconds to the first partial result, and to the end of all tasks."""
    with tempfile.TemporaryDirectory() as name, EmbeddedBroker(settings.cache_dir) as broker:
        here = msgspec.structs.replace(settings, broker=broker.bootstrap)
        asyncio.run(create_topics(here))
        asyncio.run(send(here, sample_calls(["call"])))
        began_s = time.time()
        with pinned_worker(here, Path(name)):
            asyncio.run(wait_final(here, ["call"]))
            return asyncio.run(_answers_s(here, began_s))


def main() -> None:
    """Measure and print."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    settings = load()
    print(describe() + "\n")
    limit_s = statistics.median(loading_s() for _ in range(ROUNDS))
    partial_s, done_s = (statistics.median(times) for times in zip(*(once(settings) for _ in range(ROUNDS)), strict=True))
    print("| from the start of the worker to | seconds | to loading alone |\n|---|---|---|")
    print(f"| modules and models loaded (the limit) | {limit_s:.1f} | 1.0 |")
    print(f"| the first partial result | {partial_s:.1f} | {partial_s / limit_s:.1f} |")
    print(f"| all of a call of 77 s, whose chunks were there, done | {done_s:.1f} | {done_s / limit_s:.1f} |")


if __name__ == "__main__":
    main()
