"""The topics on a real broker: created as declared, left alone, reported when odd; and how large a record may be."""
# mypy: allow-untyped-calls

import asyncio
import time

import aiokafka.errors
import pytest
from aiokafka import AIOKafkaProducer
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]

from pipeline import partition_scan
from pipeline.broker import InMemoryBroker
from pipeline.connection import aiokafka_reader_options
from pipeline.records import Record
from pipeline.settings import Settings
from pipeline.snapshots import SavedCalls
from pipeline.topics import MAX_RECORD_BYTES, TOPICS, TopicsError, create_topics, partition_counts
from pipeline.worker import wait_for_topics

pytestmark = pytest.mark.broker

_DAY_MS = 86_400_000
_EXPECTED = {  # as the interface says, written again
    "media": ("delete", _DAY_MS),
    "requests": ("delete", _DAY_MS),
    "speech": ("delete", _DAY_MS),
    "prints": ("delete", _DAY_MS),
    "watchlist": ("compact", -1),
    "results": ("compact,delete", 7 * _DAY_MS),
    "dead-letters": ("delete", 7 * _DAY_MS),
}


@pytest.fixture
def settings(broker_bootstrap: str, topic_prefix: str) -> Settings:
    return Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, partitions=3)


def _config(settings: Settings, name: str) -> dict[str, str]:
    resource = ConfigResource(ResourceType.TOPIC, settings.topic(name))
    client = AdminClient({"bootstrap.servers": settings.broker})
    return {key: entry.value for key, entry in client.describe_configs([resource])[resource].result().items()}


def _create(settings: Settings, name: str, partitions: int, config: dict[str, str]) -> None:
    new = NewTopic(settings.topic(name), partitions, 1, config=config)
    client = AdminClient({"bootstrap.servers": settings.broker})
    client.create_topics([new])[settings.topic(name)].result()


async def test_topics_are_created_as_declared(settings: Settings) -> None:
    assert await create_topics(settings) == []
    found = AdminClient({"bootstrap.servers": settings.broker}).list_topics(timeout=10).topics
    for name, (policy, retention_ms) in _EXPECTED.items():
        assert len(found[settings.topic(name)].partitions) == 3
        config = _config(settings, name)
        assert set(config["cleanup.policy"].split(",")) == set(policy.split(","))
        assert int(config["retention.ms"]) == retention_ms
    assert int(_config(settings, "results")["min.compaction.lag.ms"]) == 3_600_000


async def test_creating_again_changes_nothing(settings: Settings) -> None:
    await create_topics(settings)
    before = {topic.name: _config(settings, topic.name) for topic in TOPICS}
    assert await create_topics(settings) == []
    assert {topic.name: _config(settings, topic.name) for topic in TOPICS} == before


async def test_odd_topics_are_reported_and_left(settings: Settings) -> None:
    _create(settings, "media", 5, {"cleanup.policy": "delete", "max.message.bytes": "1000000"})
    _create(settings, "watchlist", 3, {"cleanup.policy": "delete"})
    for _ in range(2):
        warnings = await create_topics(settings)
        assert len(warnings) == 3
        assert f"{settings.topic('media')} has 5 partitions, not 3" in warnings[0]
        assert f"{settings.topic('media')} has max.message.bytes=1000000, less than 2097152" in warnings[1]
        assert f"{settings.topic('watchlist')} has cleanup.policy=delete, not compact" in warnings[2]


async def test_too_few_brokers_for_the_copies(broker_bootstrap: str, topic_prefix: str) -> None:
    settings = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, replication_factor=32)
    with pytest.raises(TopicsError, match="refuses to create") as caught:
        await create_topics(settings)
    assert "\n" not in str(caught.value)


async def test_no_broker_is_one_line() -> None:
    with pytest.raises(TopicsError, match=r"no Kafka broker answers at 127\.0\.0\.1:1 .*CALLSTREAM_BROKER") as caught:
        await create_topics(Settings(broker="127.0.0.1:1"), attempts=2, timeout_s=0.5)
    assert "\n" not in str(caught.value)


async def test_a_chunk_that_is_too_long_reaches_the_dead_letters(settings: Settings) -> None:
    await create_topics(settings)
    async with AIOKafkaProducer(bootstrap_servers=settings.broker, max_request_size=10 * MAX_RECORD_BYTES) as producer:
        chunk, headers = b"\1" * 1_500_000, [("options", b"x" * 100_000)]
        await producer.send_and_wait(settings.topic("media"), chunk, headers=headers)
        largest = b"\1" * (MAX_RECORD_BYTES - 200)
        await producer.send_and_wait(settings.topic("media"), largest)
        await producer.send_and_wait(settings.topic("dead-letters"), largest, headers=[("error-message", b"x" * 100_000)])
        with pytest.raises(aiokafka.errors.MessageSizeTooLargeError):
            await producer.send_and_wait(settings.topic("media"), b"\1" * MAX_RECORD_BYTES)


async def test_the_in_memory_broker_has_the_topics_from_its_start() -> None:
    names = Settings(partitions=3)
    with InMemoryBroker(topics=partition_counts(names)) as broker:
        assert await create_topics(Settings(broker=broker.bootstrap, partitions=3)) == []


async def test_the_in_memory_broker_makes_topics_when_asked() -> None:
    with InMemoryBroker() as broker:
        assert await create_topics(Settings(broker=broker.bootstrap, partitions=4)) == []
        warnings = await create_topics(Settings(broker=broker.bootstrap, partitions=3))
        assert len(warnings) == len(TOPICS)
        assert all("has 4 partitions, not 3" in warning for warning in warnings)


async def test_a_worker_refuses_topics_in_which_a_call_cannot_keep_its_partition(settings: Settings) -> None:
    _create(settings, "speech", 1, {})
    assert any("speech has 1 partitions" in warning for warning in await create_topics(settings))
    with pytest.raises(TopicsError, match="media has 3 partitions: speech has 1"):
        await wait_for_topics(settings, [topic.name for topic in TOPICS])


async def test_partitions_that_one_topic_has_and_another_lacks_are_told(
    broker_bootstrap: str, topic_prefix: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, partitions=1)
    await create_topics(settings)
    soon = aiokafka_reader_options(settings) | {"request_timeout_ms": 2000}
    monkeypatch.setattr(partition_scan, "aiokafka_reader_options", lambda _: soon)
    saved = SavedCalls(settings)
    reading = asyncio.create_task(saved.of(Record(settings.topic("media"), 1, 0, b"c", b"", (), 1.0)))
    give_up_s = time.monotonic() + 60
    while not caplog.messages and time.monotonic() < give_up_s:  # noqa: ASYNC110 - nobody tells
        await asyncio.sleep(0.1)
    saved.forget()
    with pytest.raises(asyncio.CancelledError):
        await reading
    names = [settings.topic(name) for name in ("snapshots", "media")]
    assert caplog.messages[0].endswith("{} has 1 partitions, and {} more: give it as many".format(*names))
