"""Intake: media files that were given over HTTP become calls on `media`, chunk by chunk, as a producer would send them.

A file is decoded twice: once to know that it can be, before anything is said of it, and once for its chunks. Both are the same
each time, so a successor repeats itself and the chunks that came before count once.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import stamina

from pipeline.blobs import BlobError, BlobStore, open_blobs
from pipeline.delivery import Receipt, describe_error
from pipeline.media.sandbox import DecodeLimits, MediaError, MediaInfo, Sandbox, Selection
from pipeline.records import DeadLetterError, OutgoingRecord, Record, chunk_headers, correlation_id_of, headers_of
from pipeline.settings import Settings
from pipeline.stage import Frame, Stage
from pipeline.start_tasks import read_start_task
from pipeline.transitions import TaskLog, derived_correlation_id, failed, rejected
from schemas.errors import DeadLetterType, ErrorDetail, TaskError
from schemas.media import Header
from schemas.requests import MediaRequest
from schemas.tasks import Technology, call_task_id

logger = logging.getLogger(__name__)

Headers = tuple[tuple[str, bytes], ...]

_OPTIONS = msgspec.json.Encoder()


class IntakeStage:
    """From files to calls."""

    name = "intake"
    topics: tuple[str, ...] = ("requests",)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limits = DecodeLimits(decoded_s=settings.max_call_s)
        self._begun: set[str] = set()

    async def start(self, frame: Frame) -> None:
        """Get ready to decode."""
        self._publisher = frame.publisher
        self._store: BlobStore = open_blobs(self._settings)
        self._sandbox = Sandbox(max_children=self._settings.inference_threads)

    async def stop(self) -> None:
        """End what decodes."""
        self._sandbox.close()

    def forget(self) -> None:
        """Requests that are in work will come again."""
        self._begun.clear()

    async def tick(self) -> None:
        """Nothing is due by time."""

    async def process(self, record: Record, receipt: Receipt) -> None:
        """Send the file of a request; other requests are other agents'."""
        found = _media_request(record)
        if found is not None:
            async for attempt in stamina.retry_context(on=OSError, attempts=None, timeout=None, wait_max=5.0):
                with attempt:
                    await self._try(record, *found)
        receipt.release()

    async def _try(self, record: Record, technology: Technology, media: MediaRequest) -> None:
        """Say all of a file. Raises OSError when the blob store or a decoder could not be had: then it is done again."""
        opened = self._store.local(media.file.name)
        try:
            path = await asyncio.to_thread(opened.__enter__)
        except BlobError as error:  # the task was answered long ago, or the store has lost it: nothing is sure, nothing is said
            raise DeadLetterError(DeadLetterType.BLOB_MISSING, str(error)) from None
        try:
            await self._hear(record, technology, media, path)
        except OSError as error:
            logger.warning("call %s cannot be read, trying again until it works: %s", media.call_id, describe_error(error))
            raise
        finally:
            await asyncio.to_thread(opened.__exit__, None, None, None)

    async def _hear(self, record: Record, technology: Technology, media: MediaRequest, path: Path) -> None:
        selection = _selection(media)
        try:
            _check_range(media)
            info = await self._sandbox.probe(path, selection, self._limits)
        except MediaError as error:
            detail = ErrorDetail(["body", "file"], f"{error}.", "media.invalid")
            await self._publisher.publish(_refusal(record, technology, media, rejected([detail])))
            return
        self._begun.add(media.call_id)
        async with contextlib.aclosing(self._sandbox.decode(path, selection, self._limits)) as chunks:
            async for chunk in _records(technology, media, info, chunks):
                await self._publisher.publish([chunk])
        self._begun.discard(media.call_id)

    async def fail(self, record: Record, message: str) -> None:
        """Fail the task, unless its call has begun: then its states are the other agents' to say."""
        found = _media_request(record)
        if found is not None and found[1].call_id not in self._begun:
            technology, media = found
            await self._publisher.publish(_refusal(record, technology, media, failed(message)))


async def _records(
    technology: Technology, media: MediaRequest, info: MediaInfo, chunks: AsyncIterator[bytes]
) -> AsyncIterator[OutgoingRecord]:
    """The call: its options with its first chunk, its end with its last."""
    options = headers_of({Header.OPTIONS: _options(technology, media, info)})
    position, sequence, held = 0, 0, b""
    async for chunk in chunks:
        if held:
            yield _record(media, info, sequence, position, held, options)
            sequence, position, options = sequence + 1, position + len(held), ()
        held = chunk
    yield _record(media, info, sequence, position, held, options, end=True)


def _record(
    media: MediaRequest, info: MediaInfo, sequence: int, position: int, chunk: bytes, options: Headers, *, end: bool = False
) -> OutgoingRecord:
    headers = chunk_headers(info.format, sequence, position, end=end) + options
    return OutgoingRecord("media", media.call_id.encode(), chunk, headers)


def _check_range(media: MediaRequest) -> None:
    if media.range_to is not None and media.range_to <= media.range_from:
        raise MediaError("has nothing in a range that ends where it begins, or before")


def _selection(media: MediaRequest) -> Selection:
    return Selection(
        channel_mode=media.channel_mode,
        channels=media.channels,
        range_from_s=media.range_from,
        range_to_s=media.range_to,
    )


def _media_request(record: Record) -> tuple[Technology, MediaRequest] | None:
    try:
        technology, request = read_start_task(record)
    except DeadLetterError:
        return None  # what nobody can read is the gender agent's to bury
    media = request.media
    if media is None:
        return None
    if record.key != call_task_id(media.call_id, technology).encode():
        raise DeadLetterError(DeadLetterType.KEY_INVALID, "the key is not the id of this call's task")
    return technology, media


def _refusal(record: Record, technology: Technology, media: MediaRequest, error: TaskError) -> list[OutgoingRecord]:
    correlation_id = media.options.correlation_id or correlation_id_of(record) or derived_correlation_id(media.call_id)
    log = TaskLog.of_call(technology, media.call_id, correlation_id, owner=media.options.owner)
    return [log.pending(record.source), log.ended(record.source, error)]


def _options(technology: Technology, media: MediaRequest, info: MediaInfo) -> str:
    numbers = None if info.channel_numbers == list(range(info.format.channels)) else info.channel_numbers
    changed = msgspec.structs.replace(
        media.options, technologies=[technology], is_file=True, channel_numbers=numbers, start_time=round(media.range_from, 3)
    )
    return _OPTIONS.encode(changed).decode()


def stages(settings: Settings) -> Sequence[Stage]:
    """The stages of this agent."""
    return [IntakeStage(settings)]
