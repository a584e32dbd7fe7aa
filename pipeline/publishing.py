"""Publishing: a record counts as sent when the broker has acknowledged it."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

import faust
import stamina
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, RecordListTooLargeError, UnknownTopicOrPartitionError
from faust.exceptions import ProducerSendError

from pipeline.delivery import describe_error
from pipeline.membership import Lease
from pipeline.records import ORIGINAL, OutgoingRecord, Record, headers_of, shown_key
from pipeline.settings import Settings
from pipeline.topics import MAX_DEAD_LETTER_BYTES
from schemas.errors import DeadLetterType
from schemas.media import Header

logger = logging.getLogger(__name__)

MAX_RECORD_BYTES = 1_048_576
_MAX_BURIED_BYTES = MAX_DEAD_LETTER_BYTES - 1_048_576  # of a value; headers and key may take the rest
_MAX_KEY_BYTES = 1000
_MAX_MESSAGE_CHARS = 500


class RecordTooLargeError(Exception):
    """This record can never be sent; the task that it belongs to fails."""


def record_bytes(record: OutgoingRecord) -> int:
    """What a record takes: key, value and headers."""
    headers = sum(len(name) + len(value) for name, value in record.headers)
    return len(record.value or b"") + len(record.key or b"") + headers


class Publisher(Protocol):
    """Publishes records, each acknowledged by the broker before the call returns."""

    async def publish(self, records: Sequence[OutgoingRecord]) -> list[int]:
        """Publish in order; their offsets. Raises RecordTooLargeError; retries everything that may pass."""

    async def publish_side_by_side(self, records: Sequence[OutgoingRecord]) -> list[int]:
        """The same for records of different topics, any of which may be there first, or alone if the process dies."""


class FaustPublisher:
    """Publishes through a Faust app's producer, as long as its consumer's lease lasts."""

    def __init__(self, app: faust.App, settings: Settings, lease: Lease) -> None:
        self._app = app
        self._lease = lease
        self._settings = settings

    async def publish(self, records: Sequence[OutgoingRecord]) -> list[int]:
        """Publish in order: each record is acknowledged before the next is sent."""
        return [await self._send(record) for record in records]

    async def publish_side_by_side(self, records: Sequence[OutgoingRecord]) -> list[int]:
        """Publish, and wait until all are acknowledged: one request takes them together."""
        if len(records) == 1:
            return await self.publish(records)
        sent = await asyncio.gather(*(self._send(record) for record in records), return_exceptions=True)
        return [_offset_of(one) for one in sent]

    async def _send(self, record: OutgoingRecord) -> int:
        size, limit = record_bytes(record), MAX_DEAD_LETTER_BYTES if record.topic == "dead-letters" else MAX_RECORD_BYTES
        if size > limit:
            raise RecordTooLargeError(f"{size} bytes for topic {record.topic}, more than {limit}")
        with contextlib.suppress(KafkaError):
            return await self._try_to_send(record)  # nearly always; what tries again costs as much as the sending
        async for attempt in stamina.retry_context(on=KafkaError, attempts=None, timeout=None, wait_initial=0.1, wait_max=5.0):
            with attempt:
                return await self._try_to_send(record)
        raise AssertionError("retried for ever")

    async def _try_to_send(self, record: OutgoingRecord) -> int:
        try:
            await self._lease.wait()
            return await self._send_once(record)
        except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
            raise RecordTooLargeError(str(error)) from None
        except KafkaError as error:
            words = "cannot publish to %s (key %r), trying again until it works: %s"
            logger.warning(words, record.topic, shown_key(record.key), describe_error(error))
            raise

    async def _send_once(self, record: OutgoingRecord) -> int:
        # Straight to the producer: a Faust topic's futures, callbacks and sensors for each record would tell nobody anything.
        producer = await self._app.maybe_start_producer()
        topic = self._settings.topic(record.topic)
        try:
            sent = await producer.send(topic, record.key, record.value, record.partition, None, list(record.headers))
        except ProducerSendError as error:
            raise error.__cause__ or error from None  # what aiokafka said, which may pass
        except AssertionError as error:
            if "Unrecognized partition" not in str(error):
                raise
            # It has been added since aiokafka last looked.
            await cast(Any, producer)._producer.client.force_metadata_update()
            raise UnknownTopicOrPartitionError(f"{topic}/{record.partition}: {error}") from None
        return int((await sent).offset)


def _offset_of(sent: int | BaseException) -> int:
    if isinstance(sent, BaseException):
        raise sent
    return sent


def _reasons(record: Record, stage: str, error_type: DeadLetterType, message: str) -> dict[Header, str]:
    return {
        Header.ERROR_TYPE: error_type.value,
        Header.ERROR_MESSAGE: message[:_MAX_MESSAGE_CHARS],
        Header.STAGE: stage,
        Header.SOURCE: record.source,
    }


def dead_letter(record: Record, stage: str, error_type: DeadLetterType, message: str) -> OutgoingRecord:
    """A `dead-letters` record: key and value untouched, the original headers kept behind the new ones.

    A value that is too large is left out, and an empty one stands where there is neither key nor value.
    """
    reasons: Mapping[Header, str] = _reasons(record, stage, error_type, message)
    kept = tuple((f"{ORIGINAL}{name}" if name in reasons else name, value) for name, value in record.headers)
    if len(record.value or b"") > _MAX_BURIED_BYTES:
        return _letter(record.key, None, headers_of(reasons) + kept + _left_out(record))
    return _letter(record.key, record.value, headers_of(reasons) + kept)


def bare_letter(record: Record, stage: str, error_type: DeadLetterType, message: str) -> OutgoingRecord:
    """One of which Kafka takes no more: a producer that compresses gets keys and headers past its limit that are larger."""
    key = None if record.key is None else record.key[:_MAX_KEY_BYTES]
    return _letter(key, None, headers_of(_reasons(record, stage, error_type, message)) + _left_out(record))


def _left_out(record: Record) -> tuple[tuple[str, bytes]]:
    return ((Header.VALUE_LEFT_OUT.value, f"{len(record.value or b'')} bytes".encode()),)


def _letter(key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes], ...]) -> OutgoingRecord:
    # aiokafka sends no record that has neither
    return OutgoingRecord("dead-letters", key, b"" if key is None and value is None else value, headers)
