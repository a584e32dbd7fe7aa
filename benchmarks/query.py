"""Rates of the query service: records into the view against bare SQLite, and GET over HTTP against a bare Litestar route.

Run: python -m benchmarks.query [TASKS] [REQUESTS]
"""

import asyncio
import contextlib
import os
import random
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import uvicorn
from litestar import Litestar, Response, get

from benchmarks.machine import describe
from pipeline.broker.ports import free_port
from pipeline.query.follower import BATCH_RECORDS
from pipeline.query.records import read_change
from pipeline.query.view import Change, View, now_ms
from pipeline.query.view_file import connect
from schemas.results import Segment, SegmentType, Transition, VadChannel, VadResult
from schemas.tasks import TaskInfo, TaskState, Technology

VAD = Technology.VOICE_ACTIVITY_DETECTION
TTL_S = 86_400.0
ROUNDS = 5
STEP = 50_000  # tasks whose records are made at once
CONNECTIONS = 8


def records(task_ids: Sequence[str]) -> list[bytes]:
    """Three records a task (pending, running, done), interleaved as many calls at once would write them."""
    segments = [Segment(SegmentType.VOICE, float(second), second + 0.5) for second in range(8)]
    result = msgspec.Raw(msgspec.json.encode(VadResult([VadChannel(0, 4.0, segments)])))
    values: list[bytes] = []
    for revision, state in enumerate((TaskState.PENDING, TaskState.RUNNING, TaskState.DONE)):
        final = result if state is TaskState.DONE else msgspec.UNSET
        transitions = (Transition(VAD, revision, TaskInfo(task_id, state), "call", result=final) for task_id in task_ids)
        values.extend(msgspec.json.encode(transition) for transition in transitions)
    return values


def ingest(view: View, values: Sequence[bytes]) -> float:
    """Records a second, decoding included, in the follower's batches."""
    began_s = time.perf_counter()
    for start in range(0, len(values), BATCH_RECORDS):
        now = now_ms()
        changes: list[Change] = [read_change(None, value, now) for value in values[start : start + BATCH_RECORDS]]
        view.apply(changes, {("results", 0): start + len(changes)})
    return len(values) / (time.perf_counter() - began_s)


def ingest_bare(database: sqlite3.Connection, task_ids: Sequence[str], values: Sequence[bytes]) -> float:
    """Records a second into one table by task id, not decoded, in the same batches."""
    began_s = time.perf_counter()
    for start in range(0, len(values), BATCH_RECORDS):
        batch = values[start : start + BATCH_RECORDS]
        rows = [(task_ids[number % len(task_ids)], value) for number, value in enumerate(batch, start)]
        database.execute("BEGIN")
        database.executemany("INSERT OR REPLACE INTO tasks VALUES (?, ?)", rows)
        database.execute("COMMIT")
    return len(values) / (time.perf_counter() - began_s)


def open_bare(path: Path) -> sqlite3.Connection:
    """SQLite as the view opens it, with one table."""
    database = connect(path)
    database.execute("CREATE TABLE tasks (id TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
    return database


async def _answered(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))


async def latencies_ms(url: str, paths: Sequence[str]) -> list[float]:
    """One request after another on one connection, with as little of a client as there can be."""
    reader, writer = await asyncio.open_connection(*urlsplit(url).netloc.split(":"))
    took = []
    for path in paths:
        began_s = time.perf_counter()
        writer.write(f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode())
        await _answered(reader)
        took.append((time.perf_counter() - began_s) * 1000)
    writer.close()
    return took


async def rate_per_s(url: str, paths: Sequence[str]) -> float:
    """Requests a second over several connections at once."""
    began_s = time.perf_counter()
    await asyncio.gather(*(latencies_ms(url, paths[start::CONNECTIONS]) for start in range(CONNECTIONS)))
    return len(paths) / (time.perf_counter() - began_s)


@get("/{task_id:str}")
async def bare(task_id: str) -> Response[bytes]:  # noqa: ARG001  # a path parameter, as the real route has
    """As little as a route can do."""
    return Response(b'{"task":{}}', media_type="application/json")


def serve_bare(port: int) -> None:
    """The bare route behind uvicorn, in a process of its own as the service is."""
    app = Litestar([bare], openapi_config=None, logging_config=None)
    uvicorn.run(app, port=port, log_config=None, access_log=False)


@contextlib.contextmanager
def process(*command: str, port: int, **environment: str) -> Iterator[str]:
    """A server process, once it listens; its URL."""
    with subprocess.Popen([sys.executable, "-m", *command], env=os.environ | environment, stderr=subprocess.DEVNULL) as started:
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            started.terminate()


def report(what: str, ours: float, peer: str, theirs: float, digits: int) -> None:
    """A row of the table."""
    print(f"| {what} | {ours:,.{digits}f} | {peer} | {theirs:,.{digits}f} | {ours / theirs:.2f} |", flush=True)


def report_ingest(folder: Path, task_ids: Sequence[str]) -> None:
    """Records of all tasks into a view, and into bare SQLite, by turns."""
    rates: tuple[list[float], list[float]] = ([], [])
    with contextlib.closing(View(folder, TTL_S)) as view, contextlib.closing(open_bare(folder / "bare.sqlite")) as bare_view:
        for at in range(0, len(task_ids), STEP):
            chosen = task_ids[at : at + STEP]
            values = records(chosen)
            rates[0].append(ingest(view, values))
            rates[1].append(ingest_bare(bare_view, chosen, values))
    ours, theirs = map(statistics.mean, rates)
    report(f"records a second, of {len(task_ids):,} tasks", ours, "bare SQLite, nothing decoded", theirs, 0)


async def compare(ours_url: str, theirs_url: str, task_ids: Sequence[str], requests: int) -> None:
    """GET of the service and of the bare route, by turns, so that a noisy machine treats both alike."""
    ours: list[float] = []
    theirs: list[float] = []
    rates: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        chosen = random.choices(task_ids, k=requests // ROUNDS)
        paths = [f"/api/technology/{VAD.value}/{task_id}" for task_id in chosen]
        ours += await latencies_ms(ours_url, paths)
        theirs += await latencies_ms(theirs_url, [f"/{task_id}" for task_id in chosen])
        rates[0].append(await rate_per_s(ours_url, paths))
        rates[1].append(await rate_per_s(theirs_url, [f"/{task_id}" for task_id in chosen]))
    cuts, bare_cuts = (statistics.quantiles(each, n=100) for each in (ours, theirs))
    for percent in (50, 99):
        what = f"GET of {len(task_ids):,} tasks, p{percent}, ms"
        report(what, cuts[percent - 1], "a bare Litestar route", bare_cuts[percent - 1], 3)
    report(f"requests a second, {CONNECTIONS} connections", max(rates[0]), "a bare Litestar route", max(rates[1]), 0)


def main() -> None:
    """Prints the machine, then the figures."""
    tasks, requests = (int(text) for text in (*sys.argv[1:3], *("1000000", "10000")[len(sys.argv) - 1 :]))
    print(describe() + "\n")
    print("| what | ours | peer | its figure | ours to the peer's |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        task_ids = [str(uuid.uuid4()) for _ in range(tasks)]
        report_ingest(Path(folder), task_ids)
        port, bare_port = free_port(), free_port()
        away = {"CALLSTREAM_BROKER": "127.0.0.1:1", "CALLSTREAM_DATA_DIR": folder, "CALLSTREAM_PORT": str(port)}
        with (
            process("pipeline.cli", "query", port=port, **away) as ours,
            process("benchmarks.query", "bare", str(bare_port), port=bare_port) as theirs,
        ):
            asyncio.run(compare(ours, theirs, task_ids, requests))


if __name__ == "__main__":
    if sys.argv[1:2] == ["bare"]:
        serve_bare(int(sys.argv[2]))
    else:
        main()
