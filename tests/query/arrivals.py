"""Records of `results` as they arrive, and what a client makes of them."""

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any, NamedTuple

from pipeline.query.app import Service
from pipeline.query.events import Arrival
from pipeline.query.records import read_change
from pipeline.query.view import now_ms
from schemas.tasks import Technology

VAD = Technology.VOICE_ACTIVITY_DETECTION
IDS = tuple(str(uuid.UUID(int=number)) for number in range(3))
PATIENCE_S = 30.0
RESULT: dict[str, object] = {"channels": []}


class Event(NamedTuple):
    id: str
    event: str
    data: dict[str, Any]


def parsed(text: bytes) -> Event:
    """One event, as https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation says."""
    assert text.endswith(b"\n\n")
    fields = dict(line.split(b": ", 1) for line in text.removesuffix(b"\n\n").split(b"\n"))
    assert list(fields) == [b"id", b"event", b"data"]
    return Event(fields[b"id"].decode(), fields[b"event"].decode(), json.loads(fields[b"data"]))


def record(task_id: str, revision: int, state: str, call_id: str | None = "call", **more: object) -> bytes:
    task = {"task_id": task_id, "state": state}
    call = {} if call_id is None else {"call_id": call_id}
    return json.dumps({"technology": VAD, "revision": revision, "task": task, **call, **more}).encode()


def arrival(task_id: str, value: bytes | None, at_ms: int | None = None) -> Arrival:
    return Arrival(read_change(task_id.encode(), value, now_ms() if at_ms is None else at_ms), value)


def running(task_id: str, revision: int, call_id: str | None = "call", **more: object) -> Arrival:
    return arrival(task_id, record(task_id, revision, "running", call_id, **more))


def done(task_id: str, revision: int) -> Arrival:
    return arrival(task_id, record(task_id, revision, "done", result=RESULT))


def ingest(service: Service, *arrivals: Arrival) -> None:
    """What the follower does with a batch."""
    service.view.apply([change for change, _ in arrivals], {})
    service.hub.publish(arrivals)


def path_of(task_id: str, technology: Technology = VAD) -> str:
    return f"/api/technology/{technology.value}/{task_id}"


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # in this event loop
            await asyncio.sleep(0)
