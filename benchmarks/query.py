"""Rates of the query service: records into the view, and GET over HTTP against a bare Litestar route in the same process.

Run: python -m benchmarks.query [TASKS] [REQUESTS]
"""

import asyncio
import logging
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec
import uvicorn
from litestar import Litestar, Response, get

from benchmarks.machine import describe
from pipeline.query.follower import BATCH_RECORDS
from pipeline.query.records import read_change
from pipeline.query.server import serving
from pipeline.query.view import Change, View, now_ms
from pipeline.settings import Settings
from schemas.results import Segment, SegmentType, Transition, VadChannel, VadResult
from schemas.tasks import TaskInfo, TaskState, Technology

VAD = Technology.VOICE_ACTIVITY_DETECTION
TTL_S = 86_400.0
ROUNDS = 5


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


async def latencies_ms(client: httpx.AsyncClient, paths: Sequence[str]) -> list[float]:
    """One request after another on one connection."""
    took = []
    for path in paths:
        began_s = time.perf_counter()
        answer = await client.get(path)
        took.append((time.perf_counter() - began_s) * 1000)
        answer.raise_for_status()
    return took


@get("/{task_id:str}")
async def bare(task_id: str) -> Response[bytes]:  # noqa: ARG001  # a path parameter, as the real route has
    """As little as a route can do."""
    return Response(b'{"task":{}}', media_type="application/json")


async def bare_server() -> tuple[uvicorn.Server, asyncio.Task[None], str]:
    """The bare route behind uvicorn."""
    config = uvicorn.Config(
        Litestar([bare], openapi_config=None, logging_config=None), port=0, log_config=None, access_log=False
    )
    server = uvicorn.Server(config)
    work = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    return server, work, f"http://127.0.0.1:{port}"


def report(name: str, took_ms: list[float]) -> None:
    """One line of percentiles."""
    cuts = statistics.quantiles(took_ms, n=100)
    print(f"{name}: p50 {cuts[49]:.3f} ms, p99 {cuts[98]:.3f} ms over {len(took_ms)} requests")


async def compare(settings: Settings, task_ids: Sequence[str], requests: int) -> None:
    """GET of the service and of the bare route, by turns, so that a noisy machine treats both alike."""
    server, work, bare_url = await bare_server()
    ours: list[float] = []
    theirs: list[float] = []
    async with (
        serving(settings) as (url, _),
        httpx.AsyncClient(base_url=url) as client,
        httpx.AsyncClient(base_url=bare_url) as other,
    ):
        for _ in range(ROUNDS):
            chosen = random.choices(task_ids, k=requests // ROUNDS)
            ours += await latencies_ms(client, [f"/api/technology/{VAD.value}/{task_id}" for task_id in chosen])
            theirs += await latencies_ms(other, [f"/{task_id}" for task_id in chosen])
    server.should_exit = True
    await work
    report(f"GET a task among {len(task_ids)}", ours)
    report("GET a bare Litestar route", theirs)
    print(f"ratio of p50: {statistics.median(ours) / statistics.median(theirs):.2f} (client's time in both)")


async def main() -> None:
    """Prints the machine, then the figures."""
    logging.disable(logging.CRITICAL)  # there is no Kafka here, as the follower would say again and again
    tasks, requests = (int(text) for text in (*sys.argv[1:3], *("100000", "2000")[len(sys.argv) - 1 :]))
    print(f"machine: {describe()}")
    with tempfile.TemporaryDirectory() as folder:
        task_ids = [str(uuid.uuid4()) for _ in range(tasks)]
        view = View(Path(folder), TTL_S)
        print(f"ingest: {ingest(view, records(task_ids)):,.0f} records/s ({3 * tasks} records of {tasks} tasks)")
        view.close()
        await compare(Settings(broker="127.0.0.1:1", data_dir=folder, port=0), task_ids, requests)


if __name__ == "__main__":
    asyncio.run(main())
