"""The topics: what they are called, how long they keep, how large their records may be; and their creation."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from aiokafka.errors import KafkaConnectionError
from confluent_kafka import KafkaError, KafkaException, TopicCollection, Uuid
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType  # type: ignore[attr-defined]  # no __all__

from pipeline.connection import librdkafka_options
from pipeline.refusal import BrokerRefusedError, check_admission
from pipeline.settings import Settings

logger = logging.getLogger(__name__)

MAX_RECORD_BYTES = 2_097_152  # twice the largest chunk: one that is somewhat too long still arrives, to be dead-lettered
# Records as they were before their producers compressed them, and the headers that say why; some hosted Kafka takes no more.
MAX_DEAD_LETTER_BYTES = 8 * 1_048_576

_HOUR_MS = 3_600_000
_DAY_MS = 24 * _HOUR_MS
_ATTEMPTS = 3
_REQUEST_TIMEOUT_S = 10.0
_BACKOFF_S = 1.0
_VISIBLE_TIMEOUT_S = 30.0
_NO_ID = str(Uuid(0, 0))  # where the broker knows no ids
_NOT_SUPPORTED = (KafkaError._UNSUPPORTED_FEATURE, KafkaError.UNSUPPORTED_VERSION)


class TopicsError(Exception):
    """The topics cannot be created; the message is one line that says what to do."""


@dataclass(frozen=True)
class Topic:
    """One topic's declaration. Source of the settings: Apache Kafka documentation, topic configurations."""

    name: str
    cleanup_policy: str
    retention_ms: int | None  # None: kept for ever
    segment_ms: int
    max_message_bytes: int = MAX_RECORD_BYTES
    min_compaction_lag_ms: int | None = None
    stamped_by_broker: bool = False  # LogAppendTime: the clocks of those that write do not matter

    def config(self, replication_factor: int) -> dict[str, str]:
        """The topic's settings as the broker takes them."""
        values = {
            "cleanup.policy": self.cleanup_policy,
            "retention.ms": -1 if self.retention_ms is None else self.retention_ms,
            "segment.ms": self.segment_ms,
            "max.message.bytes": self.max_message_bytes,
            "min.insync.replicas": max(1, min(2, replication_factor - 1)),
            "min.compaction.lag.ms": self.min_compaction_lag_ms,
            "message.timestamp.type": "LogAppendTime" if self.stamped_by_broker else None,
        }
        return {name: str(value) for name, value in values.items() if value is not None}


# A segment is deleted or compacted only once it is closed, so it is closed well within the time that its records are kept.
TOPICS = (
    Topic("media", "delete", _DAY_MS, _HOUR_MS),
    Topic("requests", "delete", _DAY_MS, _HOUR_MS),
    # The index of prints compares the times of these two.
    Topic("speech", "delete", _DAY_MS, _HOUR_MS, stamped_by_broker=True),
    Topic("prints", "delete", _DAY_MS, _HOUR_MS, stamped_by_broker=True),
    # What is superseded may still be read for a while: a worker that was believed dead may write behind its successor.
    Topic("snapshots", "compact,delete", _DAY_MS, _HOUR_MS // 6, min_compaction_lag_ms=_HOUR_MS // 6),
    Topic("watchlist", "compact", None, _DAY_MS),
    # A follower has an hour to read every transition before only the last of a task remains.
    Topic("results", "compact,delete", 7 * _DAY_MS, 6 * _HOUR_MS, min_compaction_lag_ms=_HOUR_MS),
    Topic("dead-letters", "delete", 7 * _DAY_MS, _DAY_MS, max_message_bytes=MAX_DEAD_LETTER_BYTES),
)


# What is said of a call is in partitions of one number, so these have equally many.
KEPT_TOGETHER = ("speech", "prints", "snapshots")


def topic_id(settings: Settings, name: str, timeout_s: float) -> str | None:
    """What a topic that is made anew does not share with the one of before; None where it cannot be learned. Blocks."""
    try:
        client = AdminClient(librdkafka_options(settings))
        [future] = client.describe_topics(TopicCollection([name]), request_timeout=timeout_s).values()
        found = str(future.result().topic_id)
    except KafkaException:
        return None
    return None if found == _NO_ID else found


def partition_counts(settings: Settings) -> dict[str, int]:
    """Partitions by the topics' names on the broker; the same number for all, so that a call keeps its partition's number."""
    return {settings.topic(topic.name): settings.partitions for topic in TOPICS}


async def create_topics(settings: Settings, *, attempts: int = _ATTEMPTS, timeout_s: float = _REQUEST_TIMEOUT_S) -> list[str]:
    """Create the topics that are missing, and leave the others as they are.

    Returns one warning for each existing topic whose partition count or cleanup policy is not the declared one.

    Raises:
        TopicsError: the broker cannot be reached after `attempts` of `timeout_s` each, or refuses us or a topic.
    """
    try:
        with contextlib.suppress(KafkaConnectionError):  # it may be starting
            await check_admission(settings)
    except BrokerRefusedError as error:
        raise TopicsError(str(error)) from None
    return await asyncio.to_thread(_create_topics, settings, attempts, timeout_s)


def _create_topics(settings: Settings, attempts: int, timeout_s: float) -> list[str]:
    client = AdminClient(librdkafka_options(settings) | {"allow.auto.create.topics": "true"})
    present = _existing(client, settings, attempts, timeout_s)
    missing = [topic for topic in TOPICS if settings.topic(topic.name) not in present]
    found, unsupported = _create(client, settings, missing, timeout_s)
    for name in unsupported:
        _create_by_asking(client, name, timeout_s)
    counts = _wait_until_visible(client, settings, timeout_s)
    not_ours = sorted(present | found | unsupported)
    return _wrong_counts(settings, {name: counts[name] for name in not_ours}) + _wrong_policies(
        client, settings, not_ours, timeout_s
    )


def _existing(client: AdminClient, settings: Settings, attempts: int, timeout_s: float) -> set[str]:
    wanted = partition_counts(settings)
    for attempt in range(1, attempts + 1):
        try:
            topics = client.list_topics(timeout=timeout_s).topics
        except KafkaException as error:
            if attempt == attempts:
                reason = error.args[0].str()
                what = f"no Kafka broker answers at {settings.broker} ({reason})"
                raise TopicsError(f"{what}; start one, or look at CALLSTREAM_BROKER and CALLSTREAM_KAFKA_SECURITY") from None
            logger.warning("callstream: %s does not answer yet, trying again", settings.broker)
            time.sleep(_BACKOFF_S)
        else:
            return topics.keys() & wanted.keys()
    raise ValueError(f"attempts must be at least 1, not {attempts}")


def _create(client: AdminClient, settings: Settings, topics: Iterable[Topic], timeout_s: float) -> tuple[set[str], set[str]]:
    """Create topics; returns those that another process created first, and those that the broker has no request to create."""
    copies = settings.replication_factor
    new = [NewTopic(settings.topic(topic.name), settings.partitions, copies, config=topic.config(copies)) for topic in topics]
    found, unsupported = set(), set()
    futures = client.create_topics(new, operation_timeout=timeout_s, request_timeout=timeout_s) if new else {}
    for name, future in futures.items():
        try:
            future.result()
        except KafkaException as error:
            fault: KafkaError = error.args[0]
            if fault.code() in _NOT_SUPPORTED:
                unsupported.add(name)
            elif fault.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                found.add(name)
            else:
                raise TopicsError(f"the broker at {settings.broker} refuses to create {name}: {fault.str()}") from None
    return found, unsupported


def _create_by_asking(client: AdminClient, name: str, timeout_s: float) -> None:
    """Where there is no request to create a topic, asking for it creates it, with the broker's own partition count."""
    try:
        client.list_topics(name, timeout=timeout_s)
    except KafkaException as error:
        raise TopicsError(f"the broker does not create {name}: {error.args[0].str()}") from None


def _wait_until_visible(client: AdminClient, settings: Settings, timeout_s: float) -> dict[str, int]:
    """Partitions by topic, once every partition of every topic has a leader."""
    wanted = partition_counts(settings).keys()
    deadline = time.monotonic() + _VISIBLE_TIMEOUT_S
    while True:
        try:
            topics = client.list_topics(timeout=timeout_s).topics
        except KafkaException as error:
            raise TopicsError(f"the broker at {settings.broker} was lost: {error.args[0].str()}; try again") from None
        unready = [name for name in wanted if name not in topics or any(p.leader < 0 for p in topics[name].partitions.values())]
        if not unready:
            return {name: len(topics[name].partitions) for name in wanted}
        if time.monotonic() > deadline:
            raise TopicsError(f"{unready[0]} has partitions without a leader; look at the brokers, then try again")
        time.sleep(0.1)


def _wrong_counts(settings: Settings, counts: Mapping[str, int]) -> list[str]:
    return [
        f"{name} has {count} partitions, not {settings.partitions}; it was left as it is"
        for name, count in counts.items()
        if count != settings.partitions
    ]


def _wrong_policies(client: AdminClient, settings: Settings, names: Iterable[str], timeout_s: float) -> list[str]:
    declared = {settings.topic(topic.name): topic for topic in TOPICS}
    resources = [ConfigResource(ResourceType.TOPIC, name) for name in sorted(names)]
    futures = client.describe_configs(resources, request_timeout=timeout_s) if resources else {}
    warnings = []
    for resource, future in futures.items():
        try:
            found = {name: str(entry.value) for name, entry in future.result().items()}
        except KafkaException as error:
            if error.args[0].code() not in _NOT_SUPPORTED:
                warnings.append(f"{resource.name}: its settings cannot be read: {error.args[0].str()}")
            continue
        topic = declared[resource.name]
        if set(found["cleanup.policy"].split(",")) != set(topic.cleanup_policy.split(",")):
            policies = f"cleanup.policy={found['cleanup.policy']}, not {topic.cleanup_policy}"
            warnings.append(f"{resource.name} has {policies}; it was left as it is")
        if int(found.get("max.message.bytes", topic.max_message_bytes)) < topic.max_message_bytes:
            sizes = f"max.message.bytes={found['max.message.bytes']}, less than {topic.max_message_bytes}"
            warnings.append(f"{resource.name} has {sizes}; it was left as it is")
        if topic.stamped_by_broker and found.get("message.timestamp.type") != "LogAppendTime":
            warnings.append(f"{resource.name} is not stamped by the broker (message.timestamp.type); it was left as it is")
    return warnings
