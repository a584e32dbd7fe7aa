"""Long polls and event streams from a real broker to a real socket."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from pipeline.query.server import serving
from pipeline.settings import Settings
from pipeline.topics import create_topics
from schemas.tasks import Technology, call_task_id
from tests.query.arrivals import RESULT, Event, parsed, path_of, record

# mypy: untyped-calls-exclude="aiokafka"

pytestmark = pytest.mark.broker

PATIENCE_S = 90.0
CALL = "call-1"
TASK = call_task_id(CALL, Technology.VOICE_ACTIVITY_DETECTION)
PARTIALS = 20


@pytest.fixture
async def settings(broker_bootstrap: str, topic_prefix: str, tmp_path: Path) -> Settings:
    made = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, data_dir=str(tmp_path / "data"), partitions=2, port=0)
    await create_topics(made)
    return made


@asynccontextmanager
async def streamed(client: httpx.AsyncClient) -> AsyncIterator[AsyncIterator[Event]]:
    async with client.stream("GET", "/api/events", params={"call_id": CALL}) as answer:
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream")
        yield events_in(answer)


async def events_in(answer: httpx.Response) -> AsyncIterator[Event]:
    text = b""
    async for piece in answer.aiter_raw():
        text += piece
        while b"\n\n" in text:
            event, text = text.split(b"\n\n", 1)
            if not event.startswith(b":"):
                yield parsed(event + b"\n\n")


async def until_final(events: AsyncIterator[Event]) -> list[Event]:
    got = []
    async for event in events:
        got.append(event)
        if event.event == "done":
            break
    return got


def revisions(events: list[Event]) -> list[int]:
    assert {event.id.split("/")[0] for event in events} == {TASK}
    return [int(event.id.split("/")[1]) for event in events]


async def polled(client: httpx.AsyncClient) -> list[str]:
    """The states that long polls see, one after another."""
    states = ["pending"]
    while states[-1] != "done":
        answer = await client.get(path_of(TASK), params={"wait": 60})
        states.append(answer.json()["task"]["state"])
    return states


async def test_records_are_pushed_in_order_each_once(settings: Settings) -> None:
    values = [record(TASK, 0, "pending", CALL)]
    values += [record(TASK, n, "running", CALL, partial={**RESULT, "n": n}) for n in range(1, PARTIALS + 1)]
    values += [record(TASK, PARTIALS + 1, "done", CALL, result=RESULT)]
    topic, key = settings.topic("results"), TASK.encode()
    async with (
        asyncio.timeout(PATIENCE_S),
        serving(settings) as (url, _),
        httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client,
        AIOKafkaProducer(bootstrap_servers=settings.broker) as producer,
        streamed(client) as whole,
    ):
        await producer.send_and_wait(topic, values[0], key)
        assert revisions([await anext(whole)]) == [0]
        polling = asyncio.create_task(polled(client))
        for at, value in enumerate(values[1:-5], start=1):
            await producer.send_and_wait(topic, value, key)
            await producer.send_and_wait(topic, values[at - 1], key)  # one that was there already
        async with streamed(client) as late:
            reading = asyncio.create_task(until_final(late))
            for value in values[-5:]:
                await producer.send_and_wait(topic, value, key)
            other = record(str(uuid.uuid4()), 0, "running", "call-2")
            await producer.send_and_wait(topic, other, key)
            seen_late, seen = await reading, await until_final(whole)
        assert revisions(seen) == list(range(1, len(values)))
        assert [event.data for event in seen] == [json.loads(value) for value in values[1:]]
        first = revisions(seen_late)[0]
        assert revisions(seen_late) == list(range(first, len(values)))
        assert seen_late[1:] == seen[first:]  # `seen` begins with revision 1
        assert await polling in (["pending", "running", "done"], ["pending", "done"])
        answer = await client.get(path_of(TASK), params={"wait": 60})
        assert answer.json() == {"task": {"task_id": TASK, "state": "done"}, "result": RESULT}
