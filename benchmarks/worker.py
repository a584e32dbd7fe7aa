"""A worker process on one core, and what it left on Kafka."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from aiokafka import ConsumerRecord

from pipeline.broker.kafka import EmbeddedBroker
from pipeline.broker.process import GuardedProcess
from pipeline.cancellation import stop_consumer
from pipeline.sample import sample_path
from pipeline.sending import CallSender, SendOptions
from pipeline.settings import Settings
from pipeline.topics import create_topics
from pipeline.watching import open_results, read_transitions
from pipeline.whole_topic import open_topic
from schemas.tasks import Technology

TASKS = 4  # of a call that asks for nothing


class Usage(NamedTuple):
    """A process: its CPU seconds since its start, and memory in MB, now and at most."""

    pid: int
    cpu_s: float
    memory_mb: float
    peak_mb: float


@contextmanager
def pinned_worker(
    settings: Settings, folder: Path, core: int = 0, tree: Path | None = None, **changed: str
) -> Iterator[Callable[[], Usage]]:
    """A worker of all agents on this core, with these settings changed; gives a function that tells what it has used.

    Its code is that of `tree`, another checkout, if one is given.
    """
    process = GuardedProcess()
    environment = [f"CALLSTREAM_BROKER={settings.broker}", f"CALLSTREAM_DATA_DIR={folder}", "CALLSTREAM_INFERENCE_THREADS=1"]
    environment += [f"CALLSTREAM_{name.upper()}={value}" for name, value in changed.items()]
    command = ["taskset", "-c", str(core), sys.executable, "-m", "pipeline.cli", "worker"]
    place = [] if tree is None else ["-C", str(tree), f"PYTHONPATH={tree}"]
    process.start(["env", *place, *environment, *command], folder / f"worker-{core}.log")
    assert process.pid is not None
    try:
        yield lambda pid=process.pid: usage_of(pid)  # type: ignore[misc]
        process.stop(10.0)
    finally:
        process.close()


@contextmanager
def broker_and_worker(settings: Settings) -> Iterator[tuple[Settings, Callable[[], Usage]]]:
    """A broker of its own with the topics, and a worker on the first core; gives settings that lead there."""
    with tempfile.TemporaryDirectory() as name, EmbeddedBroker(settings.cache_dir) as broker:
        here = msgspec.structs.replace(settings, broker=broker.bootstrap)
        asyncio.run(create_topics(here))
        with pinned_worker(here, Path(name)) as usage:
            yield here, usage


def usage_of(pid: int) -> Usage:
    """What a process has used."""
    proc = Path("/proc") / str(pid)
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line)
    now_kb, peak_kb = (int(status[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return Usage(pid, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), now_kb / 1024, peak_kb / 1024)


async def all_records(settings: Settings, topic: str) -> "list[ConsumerRecord[bytes, bytes]]":
    """Everything on a topic by now."""
    consumer, places = await open_topic(settings, settings.topic(topic), from_begin=True)
    try:
        records: list[ConsumerRecord[bytes, bytes]] = []
        for place, end in (await consumer.end_offsets(places)).items():
            while await consumer.position(place) < end:
                for batch in (await consumer.getmany(timeout_ms=200)).values():
                    records += batch
        return records
    finally:
        await stop_consumer(consumer)


def sample_calls(call_ids: Sequence[str], *, chunk_ms: int = 500, realtime: bool = False) -> list[tuple[Path, SendOptions]]:
    """The bundled call under each of these ids."""
    return [(sample_path(), SendOptions(call_id=one, chunk_ms=chunk_ms, realtime=realtime)) for one in call_ids]


async def send(settings: Settings, calls: Sequence[tuple[Path, SendOptions]]) -> None:
    """Send files as calls, one after the other."""
    async with CallSender(settings) as sender:
        for path, how in calls:
            await sender.send(path, how)


async def wait_final(settings: Settings, call_ids: Collection[str]) -> None:
    """Until all tasks of these calls have ended."""
    final: dict[str, set[Technology]] = {call_id: set() for call_id in call_ids}
    consumer = await open_results(settings, from_begin=True)
    try:
        async for item in read_transitions(consumer):
            if item is not None and item[0].task.state.is_final and item[0].call_id in final:
                final[str(item[0].call_id)].add(item[0].technology)
            if all(len(done) == TASKS for done in final.values()):
                return
    finally:
        await stop_consumer(consumer)


async def send_and_wait(settings: Settings, calls: Sequence[tuple[Path, SendOptions]]) -> None:
    """Send files as calls, and wait until all of their tasks have ended."""
    await send(settings, calls)
    await wait_final(settings, {str(how.call_id) for _, how in calls})
