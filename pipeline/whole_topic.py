"""Reading a whole topic: every partition, without a consumer group."""

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import UnknownTopicOrPartitionError

from pipeline.cancellation import stop_consumer
from pipeline.connection import aiokafka_options, aiokafka_reader_options
from pipeline.header_names import tolerate
from pipeline.refusal import start_client
from pipeline.settings import Settings

LOOK_ROUND_MS = 30_000  # for partitions that were added, and topics that were made anew


async def described_partitions(admin: AIOKafkaAdminClient, topic: str) -> list[TopicPartition]:
    """The partitions of a topic. Raises UnknownTopicOrPartitionError, and KafkaError when no broker answers."""
    # All topics are asked for: to name one that is missing may create it (auto.create.topics.enable).
    for described in await admin.describe_topics():
        if described["topic"] == topic and described["partitions"]:
            return sorted(TopicPartition(topic, each["partition"]) for each in described["partitions"])
    raise UnknownTopicOrPartitionError(f"topic {topic} is missing; `callstream topics` creates it")


async def partitions_of(settings: Settings, topic: str) -> list[TopicPartition]:
    """The same with a connection of its own."""
    admin = AIOKafkaAdminClient(**aiokafka_options(settings))
    try:
        await start_client(admin, settings)
        return await described_partitions(admin, topic)
    finally:
        await admin.close()


async def partition_numbers(settings: Settings) -> dict[str, set[int]]:
    """The partitions of every topic. Raises KafkaError when no broker answers."""
    admin = AIOKafkaAdminClient(**aiokafka_options(settings))
    try:
        await start_client(admin, settings)
        return {each["topic"]: {one["partition"] for one in each["partitions"]} for each in await admin.describe_topics()}
    finally:
        await admin.close()


async def open_topic(settings: Settings, topic: str, *, from_begin: bool) -> tuple[AIOKafkaConsumer, list[TopicPartition]]:
    """A started consumer of all partitions, at their begin or end. Raises KafkaError; then nothing is left open."""
    places = await partitions_of(settings, topic)
    tolerate()
    consumer = AIOKafkaConsumer(
        **aiokafka_reader_options(settings),
        auto_offset_reset="earliest",
        metadata_max_age_ms=LOOK_ROUND_MS,
    )
    try:
        await consumer.start()
        consumer.assign(places)
        await (consumer.seek_to_beginning(*places) if from_begin else consumer.seek_to_end(*places))
    except BaseException:
        await stop_consumer(consumer)
        raise
    return consumer, places
