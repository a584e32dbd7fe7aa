"""Brokers for tests: `broker_bootstrap`, `embedded_broker` and `topic_prefix`."""

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.broker import EmbeddedBroker
from pipeline.settings import default_cache_dir


def cache_dir() -> Path:
    """Where the tests find or fetch Kafka's jars: where the program does."""
    return Path(os.environ.get("CALLSTREAM_CACHE_DIR") or default_cache_dir())


def _docker_answers() -> bool:
    import docker  # type: ignore[import-untyped]

    try:
        client = docker.from_env()
        with contextlib.closing(client):
            return bool(client.ping())
    except docker.errors.DockerException:
        return False


@contextlib.contextmanager
def _container() -> Iterator[str]:
    from testcontainers.community.kafka import KafkaContainer

    container = KafkaContainer().with_kraft()
    container.with_env("KAFKA_AUTO_CREATE_TOPICS_ENABLE", "false")
    container.with_env("KAFKA_MESSAGE_MAX_BYTES", "2097152")
    with container:
        yield container.get_bootstrap_server()


@pytest.fixture(scope="session")
def broker_bootstrap() -> Iterator[str]:
    """Bootstrap servers of a real Kafka: CALLSTREAM_BROKER, else a container, else the embedded broker."""
    if given := os.environ.get("CALLSTREAM_BROKER"):
        yield given
    elif _docker_answers():
        with _container() as bootstrap:
            yield bootstrap
    else:
        with EmbeddedBroker(cache_dir()) as broker:
            yield broker.bootstrap


@pytest.fixture(scope="session")
def _broker_to_kill() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(cache_dir()) as broker:
        yield broker


@pytest.fixture
def embedded_broker(_broker_to_kill: EmbeddedBroker) -> EmbeddedBroker:
    """An embedded Kafka that a test may kill and restart; it runs when the test begins. Nobody else uses it meanwhile."""
    if _broker_to_kill.wait(0) is not None:
        _broker_to_kill.restart()
    return _broker_to_kill


@pytest.fixture
def topic_prefix() -> str:
    """A prefix for topic names that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}."
