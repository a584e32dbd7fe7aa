"""The service on a real broker."""

import asyncio
import json
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord

from pipeline.broker import EmbeddedBroker
from pipeline.cancellation import stop_consumer
from pipeline.query import tasks
from pipeline.query.app import Service, running
from pipeline.query.starter import INLINE_BYTES
from pipeline.query.view import TaskRow
from pipeline.settings import Settings
from pipeline.topics import create_topics
from schemas.tasks import Technology
from tests.query.conftest import client_of

# mypy: untyped-calls-exclude="aiokafka"

pytestmark = pytest.mark.broker

PATIENCE_S = 90.0  # how long to wait for what must come; a test never waits for something not to come
API = "/api/technology"
VAD = Technology.VOICE_ACTIVITY_DETECTION
GENDER = Technology.GENDER_IDENTIFICATION


@pytest.fixture
async def settings(broker_bootstrap: str, topic_prefix: str, tmp_path: Path) -> Settings:
    made = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, data_dir=str(tmp_path / "data"), partitions=2)
    await create_topics(made)
    return made


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():  # noqa: ASYNC110  # what is waited for lies in another process
            await asyncio.sleep(0.05)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    async with running(settings) as service, client_of(service) as client:
        yield service, client


async def is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/ready")).status_code == 200


def transition(task_id: str, revision: int, state: str, **more: object) -> bytes:
    task = {"task_id": task_id, "state": state}
    return json.dumps({"technology": VAD, "revision": revision, "task": task, **more}).encode()


async def publish(settings: Settings, records: Sequence[tuple[str, bytes | None]], partition: int | None = None) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=settings.broker)
    await producer.start()
    try:
        sent = [await producer.send(settings.topic("results"), value, key.encode(), partition) for key, value in records]
        await asyncio.gather(*sent)
    finally:
        await producer.stop()


async def read_requests(settings: Settings, count: int) -> list[ConsumerRecord[bytes, bytes]]:
    consumer = AIOKafkaConsumer(settings.topic("requests"), bootstrap_servers=settings.broker, auto_offset_reset="earliest")
    await consumer.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            return [await consumer.getone() for _ in range(count)]
    finally:
        await stop_consumer(consumer)


def applied(service: Service) -> float:
    return service.metrics.registry.get_sample_value("callstream_results_ingested_total", {"outcome": "applied"}) or 0


async def test_a_started_task_is_published_and_can_be_read_at_once(settings: Settings) -> None:
    async with serving(settings) as (_, client):
        ids = {"x-correlation-id": "the-call", "x-request-id": "the-request"}
        answer = await client.post(f"{API}/{GENDER}", json={"voiceprints": ["QUJD", "QQ=="]}, headers=ids)
        assert answer.status_code == 202
        task_id = answer.json()["task"]["task_id"]
        assert uuid.UUID(task_id).version == 4
        assert answer.json() == {"task": {"task_id": task_id, "state": "pending"}}
        assert answer.headers["location"] == answer.headers["x-location"] == f"{API}/{GENDER.value}/{task_id}"
        read = await client.get(answer.headers["location"])
        assert (read.status_code, read.json()) == (200, answer.json())
    [record] = await read_requests(settings, 1)
    assert record.key == task_id.encode()
    assert json.loads(record.value or b"") == {"technology": GENDER.value, "voiceprints": ["QUJD", "QQ=="]}
    assert dict(record.headers) == {
        "content-type": b"application/json",
        "x-correlation-id": b"the-call",
        "x-request-id": b"the-request",
    }


async def test_comparison_is_published_with_both_lists(settings: Settings) -> None:
    async with serving(settings) as (_, client):
        body = {"voiceprints_a": ["QQ=="] * 3, "voiceprints_b": ["QUI="]}
        answer = await client.post(f"{API}/{Technology.VOICEPRINT_COMPARISON}", json=body)
        assert answer.status_code == 202
    [record] = await read_requests(settings, 1)
    assert json.loads(record.value or b"") == {"technology": Technology.VOICEPRINT_COMPARISON.value, **body}
    assert {name for name, _ in record.headers} == {"content-type", "x-correlation-id", "x-request-id"}


async def test_a_file_carries_the_ids_of_its_request(settings: Settings) -> None:
    word, file = f"{API}/{Technology.LANGUAGE_IDENTIFICATION}", {"file": ("call.wav", b"audio")}
    groups = '{"groups": [{"identifier": "g", "languages": []}]}'
    async with serving(settings) as (_, client):
        refused = await client.post(word, files=file, data={"config": groups}, params={"channel_mode": "stereo"})
        assert refused.status_code == 422
        found = [detail["location"] for detail in refused.json()["detail"]]
        assert found == [["query", "channel_mode"], ["body", "config"]]
        ids = {"x-correlation-id": "the-call", "x-request-id": "the-request"}
        assert (await client.post(word, files=file, headers=ids)).status_code == 202
    [record] = await read_requests(settings, 1)
    options = json.loads(record.value or b"")["media"]["options"]
    assert (options["correlation_id"], options["request_id"]) == ("the-call", "the-request")


async def test_a_body_of_the_largest_size_fits_in_a_record(settings: Settings) -> None:
    voiceprint = "QUJD" * ((INLINE_BYTES - 100) // 4)
    async with serving(settings) as (_, client):
        answer = await client.post(f"{API}/{GENDER}", json={"voiceprints": [voiceprint]})
        assert answer.status_code == 202
    [record] = await read_requests(settings, 1)
    assert json.loads(record.value or b"")["voiceprints"] == [voiceprint]


async def test_a_task_is_followed_to_its_end(settings: Settings) -> None:
    task_id = str(uuid.uuid4())
    path = f"{API}/{VAD.value}/{task_id}"
    async with serving(settings) as (_, client):
        await publish(settings, [(task_id, transition(task_id, 0, "pending"))])
        await eventually(lambda: has_state(client, path, "pending"))
        await publish(settings, [(task_id, transition(task_id, 1, "done", result={"channels": []}))])
        await eventually(lambda: has_state(client, path, "done"))
        assert (await client.get(path)).json() == {"task": {"task_id": task_id, "state": "done"}, "result": {"channels": []}}
        await publish(settings, [(task_id, None)])
        await eventually(lambda: has_status(client, path, 404))


async def has_state(client: httpx.AsyncClient, path: str, state: str) -> bool:
    answer = await client.get(path)
    return answer.status_code == 200 and answer.json()["task"]["state"] == state


async def has_status(client: httpx.AsyncClient, path: str, status: int) -> bool:
    return (await client.get(path)).status_code == status


async def test_no_task_is_unknown_before_all_are_known(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CATCH_UP_S", PATIENCE_S)
    task_id = str(uuid.uuid4())
    path = f"{API}/{VAD.value}/{task_id}"
    await publish(settings, [(task_id, transition(task_id, 0, "pending"))])
    async with serving(settings) as (service, client):
        assert await has_state(client, path, "pending")
        service.view.damaged = True
        await eventually(lambda: emptied(service))
        assert await has_state(client, path, "pending")


async def emptied(service: Service) -> bool:
    return not service.view.damaged


async def test_what_was_published_while_away_is_caught_up_and_nothing_is_read_twice(settings: Settings) -> None:
    ids = [str(uuid.uuid4()) for _ in range(300)]
    records: list[tuple[str, bytes | None]] = [(task_id, transition(task_id, 0, "pending")) for task_id in ids]
    await publish(settings, records[:200])
    async with serving(settings) as (service, client):
        await eventually(lambda: is_ready(client))
        assert applied(service) == 200
    await publish(settings, records[200:])
    async with serving(settings) as (service, client):
        await eventually(lambda: is_ready(client))
        assert applied(service) == 100
        found = [(await client.get(f"{API}/{VAD.value}/{task_id}")).status_code for task_id in ids]
        assert found == [200] * 300
        text = (await client.get("/metrics")).text
        assert 'callstream_view_lag_records{partition="0"} 0.0' in text
        assert f'callstream_task_states_total{{state="pending",technology="{VAD.value}"}} 100.0' in text
        service.follower._fail(TimeoutError(), 1.0)
        assert "callstream_view_lag_records{" not in (await client.get("/metrics")).text  # nobody knows


async def test_streams_end_where_records_were_read_and_could_not_be_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not come again; whoever listens does, and gets the current states."""
    task_id = str(uuid.uuid4())
    async with serving(settings) as (service, client):
        await eventually(lambda: is_ready(client))
        owner_of = service.hub._owner_of

        def broken(_: TaskRow) -> str | None:
            monkeypatch.setattr(service.hub, "_owner_of", owner_of)
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(service.hub, "_owner_of", broken)
        with service.hub.streaming("call", lambda owner: True) as stream:
            await publish(settings, [(task_id, transition(task_id, 0, "running", call_id="call"))])
            async with asyncio.timeout(PATIENCE_S):
                await stream.ended()
        [known] = service.view.tasks_of_call("call")
        assert (known.task_id, known.revision) == (task_id, 0)


async def test_a_view_that_takes_nothing_is_not_told_as_kafkas_fault(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = str(uuid.uuid4())
    async with serving(settings) as (service, client):
        await eventually(lambda: is_ready(client))
        apply = service.view.apply

        def full(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(service.view, "apply", full)
        await publish(settings, [(task_id, transition(task_id, 0, "pending"))])
        await eventually(lambda: has_status(client, "/ready", 503))
        checks = (await client.get("/ready")).json()["checks"]
        assert checks == {"kafka": "ok", "store": "ok", "view": "OperationalError: database or disk is full"}
        assert f"into the view in {settings.data_dir} stopped" in caplog.text
        assert settings.broker not in caplog.text
        monkeypatch.setattr(service.view, "apply", apply)
        await eventually(lambda: is_ready(client))
        assert await has_state(client, f"{API}/{VAD.value}/{task_id}", "pending")


async def test_a_record_that_is_no_transition_is_skipped_with_its_place(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = str(uuid.uuid4())
    wrong = [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        transition("no-uuid", 0, "pending"),
        transition(task_id, -1, "pending"),
        transition(task_id, 2**63, "pending"),
        transition(task_id, 0, "sleeping"),
        transition(task_id, 0, "done"),
        transition(task_id, 0, "failed"),
    ]
    await publish(
        settings, [*[("key", value) for value in wrong], ("no-uuid", None), (task_id, transition(task_id, 0, "pending"))], 1
    )
    async with serving(settings) as (service, client):
        await eventually(lambda: is_ready(client))
        assert (await client.get(f"{API}/{VAD.value}/{task_id}")).json()["task"]["state"] == "pending"
        assert applied(service) == 1
    for offset in range(len(wrong) + 1):
        assert f"skipped {settings.topic('results')}/1/{offset}," in caplog.text


async def test_a_broker_that_goes_away_and_comes_back(
    embedded_broker: EmbeddedBroker, topic_prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "CATCH_UP_S", 0.1)
    settings = Settings(broker=embedded_broker.bootstrap, topic_prefix=topic_prefix, data_dir=str(tmp_path), partitions=1)
    body = {"voiceprints": ["QQ=="]}
    ids = [str(uuid.uuid4()) for _ in range(2)]
    await create_topics(settings)
    async with serving(settings) as (service, client):
        await publish(settings, [(ids[0], transition(ids[0], 0, "pending"))])
        await eventually(lambda: is_ready(client))
        assert (await client.post(f"{API}/{GENDER}", json=body)).status_code == 202
        rows = service.view.count()
        await asyncio.to_thread(embedded_broker.kill)
        await eventually(lambda: has_status(client, "/ready", 503))
        assert not service.follower.is_current
        assert await has_status(client, "/health", 200)
        assert await has_state(client, f"{API}/{VAD.value}/{ids[0]}", "pending")
        assert await has_status(client, f"{API}/{VAD.value}/{ids[1]}", 503)  # it may be there by now
        refused = await client.post(f"{API}/{GENDER}", json=body)
        assert (refused.status_code, refused.json()["type"]) == (500, "internal")
        assert service.view.count() == rows
        await asyncio.to_thread(embedded_broker.restart)
        await publish(settings, [(ids[1], transition(ids[1], 0, "pending"))])
        await eventually(lambda: has_state(client, f"{API}/{VAD.value}/{ids[1]}", "pending"))
        await eventually(lambda: is_ready(client))
        assert (await client.post(f"{API}/{GENDER}", json=body)).status_code == 202
        assert len(await read_requests(settings, 2)) == 2
        assert service.follower.is_current
        assert applied(service) == 2
