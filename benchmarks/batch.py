"""How many hours of audio an hour of one core takes from files, and what Kafka and Faust add to the models.

    python -m benchmarks.batch [CALLS]

Two-channel files of five minutes at 8000 Hz, 40 % speech in each channel, are sent as `callstream send` does, as fast as a
worker of all agents on one core takes them. The limit in the same run is the same audio through the same detector and the same
onnxruntime sessions without Kafka and Faust, on the worker's core and in turn with it, two files at a time, since machines are
faster at some minutes than at others. Twice: as it is by default, where models stop when a channel has said enough, and with
`exhaustive`.
"""

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
import soundfile

from benchmarks.calls import DEFAULTS, RATE_HZ, Shape, Track, limit_cpu_s, longest_cpu_s
from benchmarks.machine import describe
from benchmarks.worker import broker_and_worker, send_and_wait
from pipeline.scoring.extraction import load_models
from pipeline.sending import SendOptions
from pipeline.settings import load
from schemas.media import CallOptions

SHAPE = Shape(300.0, 0.4, 500)
CALLS = 8
_IN_TURN = 2
_WORKERS_CORE = 0
WAYS = (("default", DEFAULTS), ("exhaustive", CallOptions(exhaustive=True)))


def write_files(track: Track, folder: Path, count: int) -> list[Path]:
    """Files of calls, each with another begin."""
    paths = [folder / f"call-{number}.wav" for number in range(count)]
    for number, path in enumerate(paths):
        soundfile.write(path, track.of_call(number), RATE_HZ)
    return paths


def as_calls(paths: Sequence[Path], name: str, options: CallOptions) -> list[tuple[Path, SendOptions]]:
    """Each file under an id of its own."""
    text = msgspec.json.encode(options).decode()
    return [(path, SendOptions(call_id=f"{name}-{path.stem}", chunk_ms=SHAPE.chunk_ms, options=text)) for path in paths]


def main() -> None:
    """Measure and print."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    settings, count = load(), int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    others = set(range(1, os.cpu_count() or 1)) or {_WORKERS_CORE}
    os.sched_setaffinity(0, others)  # the broker, too
    print(describe() + "\n")
    print("| models | audio hours an hour of one core | without Kafka and Faust (the limit) | CPU, ours to the limit |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, broker_and_worker(settings) as (here, usage):
        track, models = Track(settings, SHAPE), load_models(settings)
        longest_cpu_s(models, track)  # their first run is no part of the limit
        paths = write_files(track, Path(name), count)
        asyncio.run(send_and_wait(here, as_calls(paths[:1], "warm-up", DEFAULTS)))
        for way, options in WAYS:
            ours = limit = 0.0
            for begin in range(0, count, _IN_TURN):
                numbers = range(begin, min(begin + _IN_TURN, count))
                before_s = usage().cpu_s
                asyncio.run(send_and_wait(here, as_calls([paths[number] for number in numbers], way, options)))
                ours += (usage().cpu_s - before_s) / (SHAPE.seconds * count)
                os.sched_setaffinity(0, {_WORKERS_CORE})
                limit += limit_cpu_s(models, settings, track, options, numbers) * len(numbers) / count
                os.sched_setaffinity(0, others)
            print(f"| {way} | {1 / ours:.0f} | {1 / limit:.0f} | {ours / limit:.2f} |", flush=True)


if __name__ == "__main__":
    main()
