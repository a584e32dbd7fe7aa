"""A worker process on one core, and what it left on Kafka."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from aiokafka import ConsumerRecord

from pipeline.broker.process import GuardedProcess
from pipeline.cancellation import stop_consumer
from pipeline.settings import Settings
from pipeline.whole_topic import open_topic


class Usage(NamedTuple):
    """CPU seconds since its start, and memory in MB: now and at most."""

    cpu_s: float
    memory_mb: float
    peak_mb: float


@contextmanager
def pinned_worker(settings: Settings, folder: Path, core: int = 0, **changed: str) -> Iterator[Callable[[], Usage]]:
    """A worker of all agents on this core, with these settings changed; gives a function that tells what it has used."""
    process = GuardedProcess()
    environment = [f"CALLSTREAM_BROKER={settings.broker}", f"CALLSTREAM_DATA_DIR={folder}", "CALLSTREAM_INFERENCE_THREADS=1"]
    environment += [f"CALLSTREAM_{name.upper()}={value}" for name, value in changed.items()]
    command = ["taskset", "-c", str(core), sys.executable, "-m", "pipeline.cli", "worker"]
    process.start(["env", *environment, *command], folder / f"worker-{core}.log")
    assert process.pid is not None
    try:
        yield lambda pid=process.pid: usage_of(pid)  # type: ignore[misc]
        process.stop(10.0)
    finally:
        process.close()


def usage_of(pid: int) -> Usage:
    """What a process has used."""
    proc = Path("/proc") / str(pid)
    fields = (proc / "stat").read_text().rpartition(")")[2].split()
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line)
    now_kb, peak_kb = (int(status[name].split()[0]) for name in ("VmRSS", "VmHWM"))
    return Usage((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), now_kb / 1024, peak_kb / 1024)


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
