"""How many live calls one core bears: paced calls through Kafka and the whole chain, until answers come too late.

    python -m benchmarks.live [CALLS ...] [--seconds=300] [--speech=0.4] [--chunk-ms=250]

Two-channel calls at 8000 Hz, 40 % speech in each channel, of 5 minutes, begin one after the other, so that at any time they are
at every stage of a call; each that ends is followed by another. When the first has ended, three minutes are measured:
latency is from the record timestamp of the chunk that closes an utterance to that of the partial result. A number of calls is
borne when p99 of every technology is under 500 ms. The worker has core 0, the broker and the callers share the others. The
limit that it is held against is the same audio through the same models without Kafka and Faust, which waits for nothing; CALLS
are by default 30 % of the limit, 40 % and so on, until they are not borne, or 20, 10 and 5 %, until they are.
"""

import asyncio
import itertools
import logging
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import numpy as np
from aiokafka import AIOKafkaProducer

from benchmarks.calls import FORMAT, Shape, Track, limit_cpu_s, longest_cpu_s
from benchmarks.machine import describe
from benchmarks.worker import Usage, all_records, broker_and_worker
from pipeline.connection import aiokafka_options
from pipeline.records import chunk_headers
from pipeline.scoring.extraction import load_models
from pipeline.settings import Settings, load
from schemas.results import Transition, VadResult
from schemas.stream import Print, PrintRecord
from schemas.tasks import Technology

VAD = Technology.VOICE_ACTIVITY_DETECTION
STEPS = (0.3, 0.4, 0.5, 0.6, 0.7)  # of as many calls as the models alone leave time for
FEWER = (0.2, 0.1, 0.05)  # where not even the first of these are borne
MEASURED_S = 180.0
WARM_UP_S = 15.0
LATEST_MS = 500.0
_LIMIT_CALLS = 4
_RESULT = msgspec.json.Decoder(Transition)
_SEGMENTS = msgspec.json.Decoder(VadResult)
_PRINT: msgspec.msgpack.Decoder[PrintRecord] = msgspec.msgpack.Decoder(PrintRecord)


class Callers:
    """Keeps so many calls going; knows when each chunk was sent."""

    def __init__(self, settings: Settings, track: Track, calls: int) -> None:
        self._settings, self._track, self._calls, self._seconds = settings, track, calls, track.shape.seconds
        self._numbers = itertools.count()
        self.sent_ms: dict[tuple[int, int], int] = {}

    async def keep_going(self, until_s: float) -> None:
        """Calls on each line, one after the other, until that time."""
        options = aiokafka_options(self._settings)
        async with AIOKafkaProducer(**options, enable_idempotence=True) as self._producer:
            begins_s = [time.monotonic() + self._seconds * line / self._calls for line in range(self._calls)]
            await asyncio.gather(*(self._line(begin_s, until_s) for begin_s in begins_s))

    async def _line(self, begin_s: float, until_s: float) -> None:
        while begin_s < until_s:
            await asyncio.sleep(max(0.0, begin_s - time.monotonic()))
            begin_s = await self._call(begin_s, until_s)

    async def _call(self, begin_s: float, until_s: float) -> float:
        number, step = next(self._numbers), 8 * self._track.shape.chunk_ms
        frames = self._track.of_call(number)
        starts = range(0, len(frames), step)
        for sequence, at in enumerate(starts):
            due_s = begin_s + (at + step) / 8000
            if due_s > until_s:
                return until_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            headers = chunk_headers(FORMAT, sequence, at * FORMAT.frame_bytes, end=at == starts[-1])
            chunk = frames[at : at + step].astype("<i2").tobytes()
            sent = await self._producer.send("media", chunk, key=f"call-{number}".encode(), headers=list(headers))
            sent.add_done_callback(self._note)
        return begin_s + self._seconds

    def _note(self, sent: asyncio.Future[Any]) -> None:
        self.sent_ms[sent.result().partition, sent.result().offset] = sent.result().timestamp


class Measured(NamedTuple):
    """Latencies in ms of each technology, and what the worker used."""

    latency_ms: dict[Technology, list[float]]
    core_share: float
    usage: Usage


async def latencies_ms(
    settings: Settings, sent_ms: dict[tuple[int, int], int], window_ms: tuple[float, float]
) -> dict[Technology, list[float]]:
    """Of every partial result whose chunk was sent in that time."""
    heard: dict[str, Print] = {}
    for record in await all_records(settings, "prints"):
        one = _PRINT.decode(record.value or b"")
        if isinstance(one, Print):
            heard[f"prints/{record.partition}/{record.offset}"] = one
    found: dict[Technology, list[float]] = defaultdict(list)
    closed_ms: dict[tuple[str, int, int], int] = {}
    later: list[tuple[Technology, Print, int]] = []
    for record in await all_records(settings, "results"):
        transition, source = _RESULT.decode(record.value or b""), dict(record.headers)["source"].decode()
        if isinstance(transition.partial, msgspec.UnsetType):
            continue
        if source in heard:
            later.append((transition.technology, heard[source], record.timestamp))
        elif transition.technology is VAD and (at := _place(source)) in sent_ms:
            _note_closed(closed_ms, transition, sent_ms[at])
            found[VAD] += _within(sent_ms[at], record.timestamp, window_ms)
    for technology, one, answered_ms in later:
        sent = closed_ms.get((one.call_id, one.channel, round(one.end_sample / 8)))
        found[technology] += [] if sent is None else _within(sent, answered_ms, window_ms)
    return found


def _place(source: str) -> tuple[int, int]:
    _, partition, offset = source.rsplit("/", 2)
    return int(partition), int(offset)


def _note_closed(closed_ms: dict[tuple[str, int, int], int], transition: Transition, sent_ms: int) -> None:
    call_id = str(transition.call_id)
    for channel in _SEGMENTS.decode(cast(msgspec.Raw, transition.partial)).channels:
        if channel.segments:
            closed_ms.setdefault((call_id, channel.channel_number, round(channel.segments[-1].end_time * 1000)), sent_ms)


def _within(sent_ms: float, answered_ms: float, window_ms: tuple[float, float]) -> list[float]:
    return [answered_ms - sent_ms] if window_ms[0] <= sent_ms < window_ms[1] else []


async def run(settings: Settings, track: Track, calls: int, usage: Callable[[], Usage]) -> Measured:
    """Fill up for the length of a call, then measure."""
    await asyncio.sleep(WARM_UP_S)
    callers, seconds = Callers(settings, track, calls), track.shape.seconds
    began_s, epoch_ms = time.monotonic(), 1000 * time.time()
    going = asyncio.ensure_future(callers.keep_going(began_s + seconds + MEASURED_S))
    await asyncio.sleep(seconds)
    before = usage()
    await asyncio.sleep(MEASURED_S - 0.5)
    after = usage()
    await going
    await asyncio.sleep(3.0)
    window_ms = epoch_ms + 1000 * seconds, epoch_ms + 1000 * (seconds + MEASURED_S)
    found = await latencies_ms(settings, callers.sent_ms, window_ms)
    return Measured(found, (after.cpu_s - before.cpu_s) / (MEASURED_S - 0.5), after)


def measure(settings: Settings, track: Track, calls: int) -> Measured:
    """A broker, a worker, and so many calls."""
    with broker_and_worker(settings) as (here, usage):
        return asyncio.run(run(here, track, calls, usage))


def shown(values: list[float]) -> str:
    """p50 and p99."""
    return " / ".join(f"{value:.0f}" for value in np.percentile(values, [50, 99])) if values else "none"


def main() -> None:
    """Measure until it is known how many are borne."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    options = dict(one[2:].split("=") for one in sys.argv[1:] if one.startswith("--"))
    shape = Shape(float(options.get("seconds", 300)), float(options.get("speech", 0.4)), int(options.get("chunk-ms", 250)))
    settings = load()
    os.sched_setaffinity(0, set(range(1, os.cpu_count() or 1)) or {0})  # the worker has core 0 for itself
    track = Track(settings, shape)
    models = load_models(settings)
    longest_s = longest_cpu_s(models, track)  # their first run, too, which is no part of the limit
    limit = limit_cpu_s(models, settings, track, numbers=range(_LIMIT_CALLS))
    given = [int(one) for one in sys.argv[1:] if not one.startswith("--")]
    more, fewer = (list(dict.fromkeys(max(1, round(step / limit)) for step in steps)) for steps in (STEPS, FEWER))
    print(describe())
    print(
        f"calls of {shape.seconds:.0f} s, {shape.speech:.0%} speech in each channel, records of {shape.chunk_ms} ms; ", end=""
    )
    print(f"without Kafka and Faust one core has the CPU for {1 / limit:.0f} of them (the limit),")
    print(f"and all models hear the longest of their utterances in {1000 * longest_s:.0f} ms\n")
    print("| calls | of the limit | CPU of the core | VAD p50 / p99 ms | voiceprint | gender | language | memory MB | borne |")
    print("|---|---|---|---|---|---|---|---|---|")

    def is_borne(calls: int) -> bool:
        return report(calls, limit, measure(settings, track, calls), are_silent=not shape.speech)

    search(is_borne, given or more, [] if given else fewer)


def search(is_borne: Callable[[int], bool], more: Sequence[int], fewer: Sequence[int]) -> None:
    """Try `more` in turn until they are too many; where its first are too many already, `fewer` until they are borne."""
    climbs = is_borne(more[0])
    for calls in more[1:] if climbs else fewer:
        if is_borne(calls) is not climbs:
            return


def report(calls: int, limit: float, found: Measured, *, are_silent: bool = False) -> bool:
    """Print a row; whether so many calls are borne: also that nothing came of calls with speech in them is a no."""
    tasks = VAD, Technology.VOICEPRINT_EXTRACTION, Technology.GENDER_IDENTIFICATION, Technology.LANGUAGE_IDENTIFICATION
    lists = [found.latency_ms.get(task, []) for task in tasks]
    is_borne = all(float(np.percentile(values, 99)) < LATEST_MS if values else are_silent for values in lists)
    cells = [f"{calls * limit:.0%}", f"{found.core_share:.0%}", *map(shown, lists), f"{found.usage.memory_mb:.0f}"]
    print(f"| {calls} | {' | '.join(cells)} | {'yes' if is_borne else 'no'} |", flush=True)
    return is_borne


if __name__ == "__main__":
    main()
