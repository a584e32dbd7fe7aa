"""Extraction's models with utterances of several calls in one run, against each in a run of its own.

    python -m benchmarks.batching [CALLS]

On the provider of CALLSTREAM_INFERENCE_PROVIDER; made for GPUs. The utterances of so many calls (24) are there at once, as
behind an outage. With batches CALLSTREAM_IN_FLIGHT of them are in work, each alone CALLSTREAM_INFERENCE_THREADS.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from agents.extractor import extract
from benchmarks.calls import RATE_HZ, Shape, Track
from benchmarks.machine import describe
from pipeline.audio.listener import HeardUtterance
from pipeline.models.models import ModelSet
from pipeline.scoring.extraction import load_models
from pipeline.settings import Settings, load
from schemas.stream import Utterance

CALLS = 24
BATCHES = (1, 4, 16)
SHAPE = Shape(seconds=60, speech=0.4, chunk_ms=500)


def utterances(settings: Settings, calls: int) -> list[Utterance]:
    """The utterances of calls that begin at different places of the bundled one."""
    track, found = Track(settings, SHAPE), []
    for number in range(calls):
        for one in track.listen(track.of_call(number)):
            if isinstance(one, HeardUtterance):
                audio, span = one.audio.astype("<i2").tobytes(), one.span
                found.append(Utterance(str(number), one.channel, span.start_sample, span.end_sample, RATE_HZ, audio))
    return found


def seconds(models: ModelSet, heard: Sequence[Utterance], threads: int) -> float:
    """How long the models take for all of them."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda one: extract(models, one), heard[:threads]))
        began_s = time.perf_counter()
        list(pool.map(lambda one: extract(models, one), heard))
        return time.perf_counter() - began_s


def main() -> None:
    """Measure and print."""
    settings = load()
    heard = utterances(settings, int(sys.argv[1]) if len(sys.argv) > 1 else CALLS)
    spoken_s = sum((one.end_sample - one.start_sample) / RATE_HZ for one in heard)
    print(f"{describe()}; provider {settings.inference_provider}; {len(heard)} utterances, {spoken_s:.0f} s\n")
    print("| utterances in a run, at most | seconds | audio s per s | time, to each alone |\n|---|---|---|---|")
    alone_s = 0.0
    for batch in BATCHES:
        models = load_models(msgspec.structs.replace(settings, inference_batch=batch))
        took_s = seconds(models, heard, settings.in_flight if batch > 1 else settings.inference_threads)
        alone_s = alone_s or took_s
        print(f"| {batch} | {took_s:.1f} | {spoken_s / took_s:.1f} | {took_s / alone_s:.2f} |", flush=True)


if __name__ == "__main__":
    main()
