"""`callstream send`: media files as calls, chunk by chunk, as a producer of live calls would."""

import asyncio
import contextlib
import math
import os
import signal
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click
import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, UnknownTopicOrPartitionError

from pipeline.connection import aiokafka_options
from pipeline.media.errors import MediaError
from pipeline.media.files import MediaFile
from pipeline.media.files import encode as encode
from pipeline.options import OptionsError, known_tasks, read_options
from pipeline.records import abort_headers, chunk_headers, headers_of
from pipeline.refusal import BrokerRefusedError, start_client
from pipeline.settings import Settings
from pipeline.whole_topic import partitions_of
from schemas.errors import ErrorDetail
from schemas.media import MAX_CHUNK_BYTES, Encoding, Header
from schemas.tasks import Technology, call_task_id

OnSent = Callable[[float], None]

_IN_FLIGHT = 64  # chunks sent and not yet acknowledged
_SILENCE_S = 10.0  # without an acknowledgement, after which the user is told
_LAST_WORDS_S = 5.0
_UNTOLD = "a part may have been sent, Kafka could not be told, and it ends as it is when nothing has come for long enough"


class SendError(Exception):
    """A file cannot be sent; `is_usage` when the request itself is wrong."""

    def __init__(self, message: str, *, is_usage: bool = False) -> None:
        super().__init__(message)
        self.is_usage = is_usage


class SendOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to send."""

    call_id: str | None = None
    chunk_ms: int = 500
    realtime: bool = False
    encoding: str = Encoding.PCM_S16LE
    options: str | None = None


class SentCall(msgspec.Struct, frozen=True):
    """A call that was sent, and the ids of the tasks that it starts."""

    call_id: str
    file: str
    duration_s: float
    tasks: dict[Technology, str]


def _text(path: Path) -> str:
    """A path as text: on Linux it is bytes, and need not be UTF-8."""
    return os.fsencode(path).decode(errors="replace")


def shown(path: Path) -> str:
    """A file's name as text."""
    return _text(Path(path.name))


def default_call_id(path: Path) -> str:
    """A call id that names the file and is new each time."""
    return f"{Path(shown(path)).stem[:80]}-{uuid.uuid4().hex[:8]}"


class _InFlight:
    """Chunks that are not acknowledged yet, the oldest first, with when each was sent; tells the user of a long silence."""

    def __init__(self, broker: str) -> None:
        self._broker = broker
        self._chunks: deque[tuple[float, asyncio.Future[object]]] = deque()
        self._is_silent = False
        self.sent_count = 0
        self._end: asyncio.Future[object] | None = None

    async def __aenter__(self) -> "_InFlight":
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._watching.cancel()

    def add(self, chunk: asyncio.Future[object], *, end: bool) -> None:
        # when one has failed nobody asks for the others
        chunk.add_done_callback(lambda one: one.cancelled() or one.exception())
        self._chunks.append((time.monotonic(), chunk))
        self.sent_count += 1
        self._end = chunk if end else None

    async def has_ended(self) -> bool:
        """Whether Kafka has taken the call's end, which is waited for where it was sent."""
        if self._end is None:
            return False
        await asyncio.wait([self._end])
        return not self._end.cancelled() and self._end.exception() is None

    async def until(self, most: int) -> None:
        """Until so many are left, at most. Raises what kept a chunk from Kafka."""
        while self._chunks and (len(self._chunks) > most or self._chunks[0][1].done()):
            oldest = self._chunks[0][1]
            await asyncio.wait([oldest])  # which does not cancel it
            self._chunks.popleft()
            oldest.result()
        if not self._chunks:
            self._tell(False)

    async def _watch(self) -> None:
        """Beside the sending, which may wait in many places: for room in a batch, for an acknowledgement."""
        while True:
            await asyncio.sleep(1.0)
            oldest_s = next((sent_s for sent_s, chunk in self._chunks if not chunk.done()), math.inf)
            self._tell(time.monotonic() - oldest_s > _SILENCE_S)

    def _tell(self, is_silent: bool) -> None:
        if is_silent != self._is_silent:
            self._is_silent = is_silent
            what = f"no answer for {_SILENCE_S:g} s, waiting" if is_silent else "answers again"
            click.echo(f"callstream: {self._broker}: {what}", err=True)


class CallSender:
    """Produces files as calls."""

    def __init__(self, settings: Settings) -> None:
        self._topic = settings.topic("media")
        self._settings = settings

    async def __aenter__(self) -> "CallSender":
        self._producer = AIOKafkaProducer(
            **aiokafka_options(self._settings), enable_idempotence=True, max_request_size=2 * MAX_CHUNK_BYTES
        )
        try:
            await start_client(self._producer, self._settings)
            await partitions_of(self._settings, self._topic)  # or the first chunk would wait for its topic, without a word
        except UnknownTopicOrPartitionError as error:
            await self._producer.stop()
            raise SendError(error.args[0] if error.args else str(error)) from None
        except asyncio.CancelledError:
            with contextlib.suppress(KafkaError):
                await self._producer.stop()
            raise
        except (KafkaError, OSError) as error:
            with contextlib.suppress(Exception):
                await self._producer.stop()
            what = "" if isinstance(error, BrokerRefusedError) else f"no broker answers at {self._settings.broker}: "
            raise SendError(f"{what}{error}") from None
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(KafkaError, TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):  # of an idempotent producer nothing expires: it would wait for ever
                await self._producer.stop()

    async def send(self, path: Path, how: SendOptions, on_sent: OnSent | None = None) -> SentCall:
        """Send one file as one call; every chunk is acknowledged when this returns.

        Raises SendError. The tasks of what was sent until then fail, also where the sender is cancelled, if Kafka can be told.
        """
        call_id = how.call_id or default_call_id(path)
        tasks = known_task_ids(call_id, how.options)
        with _open(path, how) as media:
            async with _InFlight(self._settings.broker) as in_flight:
                try:
                    sent_bytes = await self._send_chunks(media, call_id, how, on_sent or (lambda _: None), in_flight)
                except asyncio.CancelledError:
                    await self._end_of(call_id, how, in_flight, "the sender was stopped")
                    raise
                except MediaError as error:
                    end = await self._end_of(call_id, how, in_flight, str(error))
                    raise SendError(f"{_text(path)} {error.reason}{end}") from None
                except KafkaError as error:
                    end = await self._cut_off(call_id, how, in_flight)
                    raise SendError(f"call {call_id} was not sent to its end: {error}{end}") from None
        return SentCall(call_id, _text(path), sent_bytes / media.format.bytes_per_s, tasks)

    async def _end_of(self, call_id: str, how: SendOptions, in_flight: _InFlight, why: str) -> str:
        """Say that nothing more comes, or the call would be known by half and nothing in its results would say so.

        What that comes to, for the user.
        """
        if not in_flight.sent_count:
            return ""
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                await self._abort(call_id, how, why)
        except (KafkaError, TimeoutError):
            return f"; of call {call_id} {_UNTOLD}"
        return f"; call {call_id}, of which a part was sent, fails"

    async def _cut_off(self, call_id: str, how: SendOptions, in_flight: _InFlight) -> str:
        """The same when Kafka has refused a chunk: it would refuse whatever this producer sends behind it, too."""
        try:
            async with asyncio.timeout(_LAST_WORDS_S):
                if await in_flight.has_ended():
                    return f"; call {call_id} ends with audio missing, as its results say"
                async with CallSender(self._settings) as afresh:
                    return await afresh._end_of(call_id, how, in_flight, "not all of it could be sent")
        except (SendError, TimeoutError):
            return f"; of call {call_id} {_UNTOLD}"

    async def _abort(self, call_id: str, how: SendOptions, why: str) -> None:
        headers = abort_headers(ErrorDetail(["root"], f"{why}.", "internal"), how.options)
        await self._producer.send_and_wait(self._topic, b"", key=call_id.encode(), headers=list(headers))

    async def _send_chunks(
        self, media: MediaFile, call_id: str, how: SendOptions, on_sent: OnSent, in_flight: _InFlight
    ) -> int:
        position, started_s = 0, time.monotonic()
        extra = headers_of({Header.OPTIONS: how.options}) if how.options else ()
        for sequence, (chunk, end) in enumerate(_mark_last(media.chunks())):
            if how.realtime:
                await asyncio.sleep(max(0.0, started_s + (position + len(chunk)) / media.format.bytes_per_s - time.monotonic()))
            headers = chunk_headers(media.format, sequence, position, end=end) + (extra if sequence == 0 else ())
            sent = await self._producer.send(self._topic, chunk, key=call_id.encode(), headers=list(headers))
            in_flight.add(sent, end=end)
            position += len(chunk)
            await in_flight.until(_IN_FLIGHT)
            on_sent(position / media.format.bytes_per_s)
        await in_flight.until(0)
        return position


def _open(path: Path, how: SendOptions) -> MediaFile:
    try:
        return MediaFile(path, encoding=Encoding(how.encoding), chunk_ms=how.chunk_ms, is_trusted=True)
    except MediaError as error:
        raise SendError(f"{_text(path)} {error.reason}") from None
    except OSError as error:
        raise SendError(f"{_text(path)} cannot be read: {error.strerror or error}") from None


def _mark_last(chunks: Iterator[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Each chunk with whether it is the last; an empty last one when there is no audio at all."""
    held = next(chunks, b"")
    for chunk in chunks:
        yield held, False
        held = chunk
    yield held, True


def known_task_ids(call_id: str, options: str | None) -> dict[Technology, str]:
    """The ids of the tasks that a call with these options starts. Raises SendError."""
    try:
        technologies = known_tasks(read_options(options))
    except OptionsError as error:
        raise SendError(str(error), is_usage=True) from None
    return {technology: call_task_id(call_id, technology) for technology in technologies}


async def send_files(settings: Settings, paths: Sequence[Path], how: SendOptions, *, as_json: bool) -> None:
    """Send files one after another and print their task ids. Raises SendError."""
    known_task_ids("", how.options)  # or nothing is sent
    sending = asyncio.current_task()
    assert sending is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, sending.cancel)  # as at SIGINT
    async with CallSender(settings) as sender:
        for path in paths:
            call = await sender.send(path, how)
            if as_json:
                click.echo(msgspec.json.encode(call))
            else:
                click.echo(f"call {call.call_id}: {call.duration_s:.2f} s from {call.file}")
                for technology, task_id in call.tasks.items():
                    click.echo(f"  {technology.value:46} {task_id}")
