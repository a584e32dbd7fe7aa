"""What an open call takes of a worker's memory: calls that have begun and then say nothing, more and more of them.

    python -m benchmarks.memory [CALLS ...]

Two-channel calls at 8000 Hz, of which each has sent a quarter of a second. Memory is the worker's resident set when all of them
are open in every agent, less what it was before the first: the aim is 64 kB for each.
"""

import asyncio
import logging
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from aiokafka import AIOKafkaProducer

from benchmarks.machine import describe
from benchmarks.worker import Usage, pinned_worker
from pipeline.broker.kafka import EmbeddedBroker
from pipeline.cancellation import stop_consumer
from pipeline.connection import aiokafka_options
from pipeline.records import chunk_headers
from pipeline.sample import sample_path
from pipeline.sending import CallSender, SendOptions
from pipeline.settings import Settings, load
from pipeline.topics import create_topics
from pipeline.whole_topic import open_topic
from schemas.media import AudioFormat

STEPS = (10, 100, 1000, 10_000)
AIM_KB = 64.0
FORMAT = AudioFormat(sample_rate_hz=8000, channels=2)
CHUNK = bytes(FORMAT.bytes_per_s // 4)
QUIET_S = 20.0


async def open_calls(settings: Settings, first: int, last: int) -> None:
    """Begin calls, and wait until each has begun for all agents."""
    headers = list(chunk_headers(FORMAT, 0, 0, end=False))
    async with AIOKafkaProducer(**aiokafka_options(settings), enable_idempotence=True) as producer:
        keys = [f"call-{number}".encode() for number in range(first, last)]
        await asyncio.gather(*[await producer.send("media", CHUNK, key=key, headers=headers) for key in keys])
    await printed(settings, last)
    await asyncio.sleep(5.0)  # the agents behind


async def printed(settings: Settings, count: int) -> int:
    """Wait until there are so many records on `prints`, or no more come; how many there are."""
    consumer, _ = await open_topic(settings, "prints", from_begin=True)
    found, last_s = 0, time.monotonic()
    try:
        while found < count and time.monotonic() - last_s < QUIET_S:
            if batches := await consumer.getmany(timeout_ms=500):
                found, last_s = found + sum(map(len, batches.values())), time.monotonic()
        return found
    finally:
        await stop_consumer(consumer)


async def warm_up(settings: Settings) -> int:
    """One whole call, so that all that is made once is there; how many records it left on `prints`."""
    async with CallSender(settings) as sender:
        await sender.send(sample_path(), SendOptions(call_id="warm-up"))
    return await printed(settings, sys.maxsize)


async def measure(settings: Settings, steps: list[int], usage: Callable[[], Usage]) -> None:
    """Print a row for each number of calls."""
    opened = first = await warm_up(settings)
    begin_mb = usage().memory_mb
    for calls in steps:
        before = usage()
        await open_calls(settings, opened, first + calls)
        now, new = usage(), first + calls - opened
        opened = first + calls
        kb = 1024 * (now.memory_mb - begin_mb) / calls
        cells = [f"{now.memory_mb:.0f}", f"{kb:.0f}", f"{kb / AIM_KB:.2f}", f"{1000 * (now.cpu_s - before.cpu_s) / new:.1f}"]
        print(f"| {calls} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Open more and more calls."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    steps = [int(one) for one in sys.argv[1:]] or list(STEPS)
    settings = load()
    os.sched_setaffinity(0, set(range(1, os.cpu_count() or 1)) or {0})
    print(describe() + "\n")
    print("| open calls | worker MB | kB for each | of the aim | CPU ms to begin one |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, EmbeddedBroker(settings.cache_dir) as broker:
        here = msgspec.structs.replace(settings, broker=broker.bootstrap)
        asyncio.run(create_topics(here))
        with pinned_worker(here, Path(name), idle_timeout_s="86400") as usage:
            asyncio.run(measure(here, steps, usage))


if __name__ == "__main__":
    main()
