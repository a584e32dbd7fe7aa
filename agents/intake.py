"""Intake: media files that were given over HTTP become calls on `media`, chunk by chunk, as a producer would send them.

A file is decoded twice: once to know that it can be, before anything is said of it, and once for its chunks. Both are the same
each time, so a successor repeats itself and the chunks that came before count once. A file that cannot be heard is said to be
so on `media` too: the agent that hears the call is the only one that says anything of its tasks, so nothing is contradicted.
"""

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import stamina

from pipeline.blobs import BlobError, BlobStore, checked_file, open_blobs
from pipeline.delivery import Receipt, describe_error
from pipeline.media.sandbox import DecodeLimits, DecoderError, MediaError, MediaInfo, Sandbox, Selection
from pipeline.options import OptionsError, check_groups
from pipeline.records import DeadLetterError, OutgoingRecord, Record, abort_headers, chunk_headers, headers_of
from pipeline.settings import Settings
from pipeline.stage import Frame, Stage, check_exhaustion
from pipeline.start_tasks import FROM_MEDIA, read_start_task
from pipeline.storing import in_blob_thread
from schemas.errors import DeadLetterType, ErrorDetail
from schemas.media import Header
from schemas.requests import MediaRequest
from schemas.tasks import Technology, call_task_id

logger = logging.getLogger(__name__)

Headers = tuple[tuple[str, bytes], ...]

_JSON = msgspec.json.Encoder()
_MOST_S = 604_800.0  # no call is longer
_TRIES = 5  # a file that kills its decoder, or has it killed, must not keep others waiting for ever
_MAX_MESSAGE_CHARS = 500


class IntakeStage:
    """From files to calls."""

    name = "intake"
    topics: tuple[str, ...] = ("requests",)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limits = DecodeLimits(decoded_s=settings.max_call_s)

    async def start(self, frame: Frame) -> None:
        """Get ready to decode."""
        self._publisher = frame.publisher
        self._store: BlobStore = open_blobs(self._settings)
        self._sandbox = Sandbox(max_children=self._settings.inference_threads)

    async def stop(self) -> None:
        """End what decodes."""
        self._sandbox.close()

    def forget(self) -> None:
        """Nothing is kept from one request to the next."""

    async def tick(self) -> None:
        """Nothing is due by time."""

    async def process(self, record: Record, receipt: Receipt) -> None:
        """Send the file of a request; other requests are other agents'."""
        found = _media_request(record)
        if found is not None:
            await self._send(*found)
        receipt.release()

    async def _send(self, technology: Technology, media: MediaRequest) -> None:
        """Send a file as a call. Raises DecoderError when its decoders died or stood still each time that it was tried."""
        tries = stamina.retry_context(on=DecoderError, attempts=_TRIES, timeout=None, wait_initial=1.0, wait_max=60.0)
        async for attempt in tries:
            with attempt:
                await self._send_when_possible(technology, media)

    async def _send_when_possible(self, technology: Technology, media: MediaRequest) -> None:
        """Wait for ever for the blob store to answer and for a decoder to be started: neither is the file's fault."""
        async for attempt in stamina.retry_context(on=_is_passing, attempts=None, timeout=None, wait_max=5.0):
            with attempt:
                try:
                    await self._open_and_send(technology, media)
                except OSError as error:
                    check_exhaustion(error)
                    logger.warning("call %s cannot be sent, trying again: %s", media.call_id, describe_error(error))
                    raise

    async def _open_and_send(self, technology: Technology, media: MediaRequest) -> None:
        opened = checked_file(self._store, media.file)
        try:
            path = await in_blob_thread(opened.__enter__)
        except BlobError as error:  # the task was answered long ago, or the store has lost it: nothing is sure, nothing is said
            raise DeadLetterError(DeadLetterType.BLOB_MISSING, str(error)) from None
        try:
            await self._decode(technology, media, path)
        finally:
            await in_blob_thread(opened.__exit__, None, None, None)

    async def _decode(self, technology: Technology, media: MediaRequest, path: Path) -> None:
        selection = _selection(media)
        if (wrong := _contradiction(media)) is not None:
            await self._publisher.publish([_abort(technology, _without_groups(media), wrong)])
            return
        try:
            info = await self._sandbox.probe(path, selection, self._limits)
        except MediaError as error:
            detail = ErrorDetail(["body", "file"], f"{error}.", "media.invalid")
            await self._publisher.publish([_abort(technology, media, detail)])
            return
        async with contextlib.aclosing(self._sandbox.decode(path, selection, self._limits)) as chunks:
            async for chunk in _records(technology, media, info, _as_before(chunks)):
                await self._publisher.publish([chunk])

    async def fail(self, record: Record, message: str) -> None:
        """Fail the task, through the call: only the agent that hears it knows how much was said of it."""
        found = _media_request(record)
        if found is not None:
            await self._publisher.publish([_abort(*found, ErrorDetail(["root"], message[:_MAX_MESSAGE_CHARS], "internal"))])


def _is_passing(error: Exception) -> bool:
    return isinstance(error, OSError) and not isinstance(error, DecoderError)


async def _as_before(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The chunks of a file that was decoded to its end a moment ago. Raises DecoderError when this time it cannot be."""
    try:
        async for chunk in chunks:
            yield chunk
    except MediaError as error:
        raise DecoderError(f"{error}, which was decoded before") from error


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


def _without_groups(media: MediaRequest) -> MediaRequest:
    """With groups that contradict themselves the options would be no options: a dead letter."""
    return msgspec.structs.replace(media, options=msgspec.structs.replace(media.options, language_groups=[]))


def _contradiction(media: MediaRequest) -> ErrorDetail | None:
    """What does not go together in the request: a schema cannot say it, so it is accepted first."""
    try:
        check_groups(media.options)
    except OptionsError as error:
        return ErrorDetail(["body", "config"], f"{error}.", error.type)
    if media.range_to is not None and media.range_to <= media.range_from:
        return ErrorDetail(["query", "range_to"], "range_to must be greater than range_from.", "value.invalid")
    return None


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
    if media is None or technology not in FROM_MEDIA:
        return None  # lists, whatever stands beside them
    if record.key != call_task_id(media.call_id, technology).encode():
        raise DeadLetterError(DeadLetterType.KEY_INVALID, "the key is not the id of this call's task")
    return technology, media


def _abort(technology: Technology, media: MediaRequest, why: ErrorDetail) -> OutgoingRecord:
    """In place of the call, or behind what there is of it: nothing more comes."""
    headers = abort_headers(why, _options(technology, media, None))
    return OutgoingRecord("media", media.call_id.encode(), b"", headers)


def _options(technology: Technology, media: MediaRequest, info: MediaInfo | None) -> str:
    numbers = None if info is None else info.channel_numbers
    if info is not None and numbers == list(range(info.format.channels)):
        numbers = None
    changed = msgspec.structs.replace(
        media.options,
        technologies=[technology],
        is_file=True,
        channel_numbers=numbers,
        start_time=round(min(media.range_from, _MOST_S) * 1000) / 1000,
    )
    return _JSON.encode(changed).decode()


def stages(settings: Settings) -> Sequence[Stage]:
    """The stages of this agent."""
    return [IntakeStage(settings)]
