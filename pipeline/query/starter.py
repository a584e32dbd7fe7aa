"""Publishes start-task requests and waits for the broker's acknowledgement."""

# mypy: untyped-calls-exclude="aiokafka"

import asyncio
import logging
import uuid

import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from pipeline.cancellation import is_asked_for
from pipeline.connection import aiokafka_options
from pipeline.refusal import start_client
from pipeline.settings import Settings
from schemas.media import Header
from schemas.requests import StartTask

logger = logging.getLogger(__name__)

TOPIC = "requests"
# A record that waits longer than this is dropped by the producer itself, so that a request answered with 500 starts nothing
# later (but for one that a hanging broker had already been sent: nobody can know); see request_timeout_ms in https://aiokafka.readthedocs.io/en/stable/api.html#aiokafka.AIOKafkaProducer.
RECORD_TIMEOUT_S = 4.0  # twice, to connect and to be acknowledged, is within the answer's time
ANSWER_TIMEOUT_S = 10.0
INLINE_BYTES = 900_000  # lists that go in the record itself
RECORD_OVERHEAD_BYTES = 4096  # key, headers and the technology's name around the lists

_encoder = msgspec.json.Encoder()


class StartUnavailableError(Exception):
    """Kafka took no request; the task was not started. The client may try again."""


class StartTooLargeError(Exception):
    """The request does not fit in a record."""


async def _check_topic(producer: AIOKafkaProducer, topic: str) -> None:
    # to name a missing topic may create it (auto.create.topics.enable), and only `callstream topics` may
    topics = (await producer.client.fetch_all_metadata()).topics()
    if topic not in topics:
        raise StartUnavailableError(f"topic {topic} is missing; `callstream topics` creates it")


class Starter:
    """A producer that connects when it is first needed."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = settings.topic(TOPIC)
        self._producer: AIOKafkaProducer | None = None
        self._connecting = asyncio.Lock()

    async def _connected(self) -> AIOKafkaProducer:
        async with self._connecting:
            if self._producer is None:
                self._producer = await self._connect()
            return self._producer

    async def _connect(self) -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **aiokafka_options(self._settings),
            acks="all",
            request_timeout_ms=int(RECORD_TIMEOUT_S * 1000),
            max_request_size=INLINE_BYTES + RECORD_OVERHEAD_BYTES,
        )
        try:
            await start_client(producer, self._settings)
            await _check_topic(producer, self._topic)
        except BaseException:
            await producer.stop()
            raise
        return producer

    async def start(self, task_id: uuid.UUID, request: StartTask, correlation_id: str, request_id: str) -> None:
        """Publishes the request under the task id. Raises StartUnavailableError or StartTooLargeError."""
        headers = [
            (Header.CONTENT_TYPE.value, b"application/json"),
            (Header.CORRELATION_ID.value, correlation_id.encode()),
            (Header.REQUEST_ID.value, request_id.encode()),
        ]
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                producer = await self._connected()
                await producer.send_and_wait(self._topic, _encoder.encode(request), key=str(task_id).encode(), headers=headers)
        except MessageSizeTooLargeError as error:
            raise StartTooLargeError(str(error)) from None
        except asyncio.CancelledError:
            if is_asked_for():
                raise
            raise StartUnavailableError(f"{self._topic} on {self._settings.broker}: the broker closed the connection") from None
        except (KafkaError, OSError, TimeoutError) as error:
            raise StartUnavailableError(f"{self._topic} on {self._settings.broker}: {type(error).__name__} {error}") from None

    async def close(self) -> None:
        """Ends the producer."""
        if self._producer is not None:
            await self._producer.stop()
