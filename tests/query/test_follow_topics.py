"""The service and its topics: offsets that are not there, topics that are made anew, that come late, that grow."""

import asyncio
import uuid
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]  # no __all__

from pipeline.query import follower
from pipeline.query.view import View
from pipeline.settings import Settings
from pipeline.topics import create_topics
from tests.query.conftest import DAY_S, replaced
from tests.query.test_follow import (
    API,
    GENDER,
    VAD,
    applied,
    eventually,
    has_state,
    has_status,
    is_ready,
    publish,
    serving,
    transition,
)

pytestmark = pytest.mark.broker


@pytest.fixture
async def settings(broker_bootstrap: str, topic_prefix: str, tmp_path: Path) -> Settings:
    made = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, data_dir=str(tmp_path / "data"), partitions=2)
    await create_topics(made)
    return made


async def test_an_offset_that_is_out_of_range_means_from_the_earliest(settings: Settings) -> None:
    task_id = str(uuid.uuid4())
    await publish(settings, [(task_id, transition(task_id, 0, "pending"))], partition=0)
    async with serving(settings) as (_, client):
        await eventually(lambda: is_ready(client))
    view = View(Path(settings.data_dir), DAY_S)
    view.apply([], {(settings.topic("results"), 0): 1_000_000})
    view.close()
    async with serving(settings) as (service, client):
        await eventually(lambda: is_ready(client))
        assert applied(service) == 1


async def test_another_prefix_does_not_use_the_offsets(settings: Settings, topic_prefix: str) -> None:
    task_id = str(uuid.uuid4())
    await publish(settings, [(task_id, transition(task_id, 0, "pending"))])
    async with serving(settings) as (_, client):
        await eventually(lambda: is_ready(client))
    other = replaced(settings, topic_prefix=f"{topic_prefix}other.")
    await create_topics(other)
    async with serving(other) as (service, client):
        await eventually(lambda: is_ready(client))
        assert await has_status(client, f"{API}/{VAD.value}/{task_id}", 404)
        assert service.view.next_offsets(settings.topic("results")) == {}


TASKS = [str(uuid.uuid5(uuid.NAMESPACE_OID, str(number))) for number in range(3)]


async def begin(settings: Settings, task_ids: list[str]) -> None:
    await publish(settings, [(each, transition(each, 0, "pending")) for each in task_ids], partition=0)


async def made_anew(settings: Settings) -> None:
    """The topic `results` is another of the same name."""
    name, admin = settings.topic("results"), AdminClient({"bootstrap.servers": settings.broker})
    [deleted] = admin.delete_topics([name]).values()
    await asyncio.to_thread(deleted.result)

    async def is_gone() -> bool:
        return name not in (await asyncio.to_thread(admin.list_topics, timeout=30)).topics

    await eventually(is_gone)
    await create_topics(settings)


async def test_a_topic_that_was_made_anew_meanwhile_is_read_from_its_begin(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    old, *new = TASKS
    await begin(settings, [old])
    async with serving(settings) as (_, client):
        await eventually(lambda: is_ready(client))
    await made_anew(settings)
    await begin(settings, new)
    async with serving(settings) as (_, client):
        await eventually(lambda: is_ready(client))
        found = [(await client.get(f"{API}/{VAD.value}/{each}")).status_code for each in (old, *new)]
        assert found == [404, 200, 200]
    assert "made anew" in caplog.text


async def test_a_topic_that_is_made_anew_while_it_is_followed_is_read_from_its_begin(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "TOPIC_EVERY_S", 0.2)
    monkeypatch.setattr(follower, "PARTITIONS_EVERY_S", 3600.0)
    old, *new = TASKS
    await begin(settings, [old])
    async with serving(settings) as (_, client):
        await eventually(lambda: is_ready(client))
        await made_anew(settings)
        await begin(settings, new)
        for each in new:
            await eventually(lambda each=each: has_status(client, f"{API}/{VAD.value}/{each}", 200))  # type: ignore[misc]
        await eventually(lambda: has_status(client, f"{API}/{VAD.value}/{old}", 404))


async def test_it_waits_for_topics_and_creates_none(broker_bootstrap: str, topic_prefix: str, tmp_path: Path) -> None:
    settings = Settings(broker=broker_bootstrap, topic_prefix=f"{topic_prefix}late.", data_dir=str(tmp_path), partitions=1)
    async with serving(settings) as (service, client):

        async def says_so() -> bool:
            return "callstream topics" in (await client.get("/ready")).json()["checks"]["kafka"]

        await eventually(says_so)
        answer = await client.post(f"{API}/{GENDER}", json={"voiceprints": ["QQ=="]})
        assert (answer.status_code, answer.json()["type"]) == (500, "internal")
        names = await asyncio.to_thread(
            lambda: AdminClient({"bootstrap.servers": broker_bootstrap}).list_topics(timeout=30).topics
        )
        assert not [name for name in names if name.startswith(settings.topic_prefix)]
        assert service.view.count() == 0
        await create_topics(settings)
        await eventually(lambda: is_ready(client))
        assert (await client.post(f"{API}/{GENDER}", json={"voiceprints": ["QQ=="]})).status_code == 202


async def test_new_partitions_are_followed(settings: Settings) -> None:
    task_id = str(uuid.uuid4())
    async with serving(settings) as (_, client):
        await eventually(lambda: is_ready(client))
        admin = AdminClient({"bootstrap.servers": settings.broker})
        [grown] = admin.create_partitions([NewPartitions(settings.topic("results"), 3)]).values()
        await asyncio.to_thread(grown.result)
        await publish(settings, [(task_id, transition(task_id, 0, "pending"))], partition=2)
        await eventually(lambda: has_state(client, f"{API}/{VAD.value}/{task_id}", "pending"))
