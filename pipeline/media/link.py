"""This side of the fork server, and of each child that it forks."""

import asyncio
import contextlib
import errno
import functools
import logging
import math
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from pipeline.media import wire
from pipeline.media.errors import MediaError
from pipeline.media.wire import Exit, Job, MediaInfo
from schemas.media import MAX_CHANNELS, MAX_CHUNK_BYTES, SAMPLE_RATES_HZ, AudioFormat, Encoding

logger = logging.getLogger(__name__)

OnExit = Callable[[Exit], None]

_SLICE_S = 0.5
_START_S = 120.0  # for the server to load its libraries and fork; only a machine that is stuck takes so long
_MAX_REASON_CHARS = 200
_HOPELESS = "cannot be decoded"
# What a file can do to its decoder. SIGKILL is none of them: a child that nobody of ours killed died of the machine's trouble.
_FAULTS = {
    signal.SIGSEGV,
    signal.SIGBUS,
    signal.SIGABRT,
    signal.SIGFPE,
    signal.SIGILL,
    signal.SIGXCPU,
    signal.SIGXFSZ,
    signal.SIGSYS,
    signal.SIGTRAP,
}
_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}  # a fork takes one thread along


class DecoderError(OSError):
    """A decoder stood still or was ended from outside: trouble of the machine, unless the same file has it again."""


class ServerLink:
    """The fork server. Raises OSError when it cannot be started."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-m", "pipeline.media.server", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=_ENVIRONMENT,
                cwd="/",
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it can still be asked."""
        return self._process.poll() is None

    def submit(self, job: Job, fds: list[int]) -> None:
        """Have a child forked. Raises OSError."""
        message = msgspec.msgpack.encode(job)
        if len(message) > wire.MAX_JOB_BYTES:
            raise MediaError("has not so many channels")
        socket.send_fds(self._socket, [message], fds)

    def close(self) -> None:
        """End it; its children die with it."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


class ChildLink:
    """One job, and the sockets that its audio and its end come from. Leaving the context closes them, which kills the child.

    Raises OSError when the file cannot be opened or the server not be asked, MediaError when the job makes no sense.
    """

    def __init__(self, server: ServerLink, path: Path, job: Job, on_exit: OnExit | None) -> None:
        self._server = server
        self._limits = job.limits
        self._has_begun = False
        self._refusal: MediaError | None = None
        self._on_exit = on_exit
        self._format: AudioFormat | None = None
        self._info: MediaInfo | None = None
        self._audio_bytes = 0
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            file_fd = _open_regular(path)
            theirs.callback(os.close, file_fd)
            pairs = [socket.socketpair(socket.AF_UNIX, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)]
            self._output, self._end = (ours.enter_context(pair[0]) for pair in pairs)
            given = [theirs.enter_context(pair[1]).fileno() for pair in pairs]
            for one in (self._output, self._end):
                one.setblocking(False)
            server.submit(job, [file_fd, *given])
            self._ours = ours.pop_all()

    def __enter__(self) -> "ChildLink":
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()

    @property
    def info(self) -> MediaInfo:
        """What the file is, when all chunks have been taken."""
        if self._info is None:
            raise DecoderError("the decoder has not ended")
        return self._info

    async def chunks(self) -> AsyncIterator[bytes]:
        """The audio until the child is done. Raises MediaError or OSError."""
        while self._info is None and self._refusal is None:
            kind, content = await self._frame()
            if chunk := self._take(kind, content):
                yield chunk
        self._judge(await self._ending())
        if self._refusal is not None:
            raise self._refusal

    async def _frame(self) -> tuple[bytes, bytes]:
        try:
            kind, size = wire.HEADER.unpack(await self._receive(wire.HEADER.size))
            if size > MAX_CHUNK_BYTES:
                raise MediaError(_HOPELESS)
            return kind, await self._receive(size)
        except EOFError:
            self._judge(await self._ending())
            raise DecoderError("the decoder ended without a word") from None
        except DecoderError:
            if not self._has_begun:
                self._server.close()  # it is stuck, or the machine is; the next file gets a new one
            raise

    def _take(self, kind: bytes, content: bytes) -> bytes:
        """What a frame means; its audio, if any. The child may be in the hands of the file, so it is not believed."""
        try:
            match kind:
                case wire.FORMAT:
                    self._format = _checked(msgspec.msgpack.decode(content, type=AudioFormat))
                case wire.AUDIO:
                    return self._count(content)
                case wire.DONE:
                    self._info = self._checked_info(msgspec.msgpack.decode(content, type=MediaInfo))
                case wire.REFUSED:
                    self._refusal = MediaError(_one_line(content))
                case wire.LIVING:
                    self._has_begun = True
                case wire.UNFILTERED:
                    self._has_begun = True
                    _warn_of_no_filter()
                case _:
                    raise MediaError(_HOPELESS)
        except msgspec.MsgspecError:
            raise MediaError(_HOPELESS) from None
        return b""

    def _checked_info(self, given: MediaInfo) -> MediaInfo:
        is_right = given.format == self._format and len(given.channel_numbers) == given.format.channels
        if not (is_right and 0 <= given.duration_s <= self._limits.decoded_s + 1):
            raise MediaError(_HOPELESS)
        return given

    def _count(self, audio: bytes) -> bytes:
        self._audio_bytes += len(audio)
        if self._format is None or len(audio) % self._format.frame_bytes:
            raise MediaError(_HOPELESS)
        if self._audio_bytes > (self._limits.decoded_s + 1) * self._format.bytes_per_s:
            raise MediaError(f"is longer than {self._limits.decoded_s:g} s")
        return audio

    async def _receive(self, count: int) -> bytes:
        buffer = bytearray(count)
        filled = 0
        while filled < count:
            try:
                got = self._output.recv_into(memoryview(buffer)[filled:])
            except BlockingIOError:
                await _readable(self._output, self._limits.stall_s if self._has_begun else _START_S)
                continue
            except ConnectionResetError:
                got = 0
            if got == 0:
                raise EOFError
            filled += got
        return bytes(buffer)

    async def _ending(self) -> Exit:
        """How the child ended, as soon as it has."""
        await _readable(self._end, _START_S)
        if not (message := self._end.recv(wire.MAX_JOB_BYTES)):
            raise DecoderError("the decoders' server ended")
        return msgspec.msgpack.decode(message, type=Exit)

    def _judge(self, ending: Exit) -> None:
        """Raise when the child did not end well: MediaError when the file did it, DecoderError or OSError when not."""
        if ending.errno:
            raise OSError(ending.errno, os.strerror(ending.errno))
        if self._on_exit is not None:
            self._on_exit(ending)
        if os.WIFSIGNALED(ending.status):
            number = os.WTERMSIG(ending.status)
            if number == signal.SIGXCPU:
                raise MediaError(f"{_HOPELESS} in {self._limits.cpu_s} s of computing time")
            if number in _FAULTS:
                raise MediaError(_HOPELESS)
            raise DecoderError(f"the decoder was ended by signal {number}")
        if os.WEXITSTATUS(ending.status) == wire.EXIT_UNCONFINED and not self._has_begun:
            raise PermissionError("the decoder could not be confined: is prctl or setrlimit forbidden on this machine?")
        if ending.status:
            raise MediaError(_HOPELESS)


async def _readable(one: socket.socket, timeout_s: float) -> None:
    """Wait until a socket has something. Raises DecoderError.

    In slices, each of which counts as itself however long it took: a process that was frozen has not been waiting.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(one, _set, ready)
    slice_s = min(_SLICE_S, timeout_s)
    try:
        for _ in range(math.ceil(timeout_s / slice_s)):
            done, _pending = await asyncio.wait([ready], timeout=slice_s)
            if done:
                return
    finally:
        loop.remove_reader(one)
    raise DecoderError(f"nothing came of the decoder for {timeout_s:g} s")


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


@functools.cache
def _warn_of_no_filter() -> None:
    logger.warning("this machine has no filter of system calls (seccomp) for the decoders of media files: they run without")


def _open_regular(path: Path) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe would be waited for
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return fd


def _checked(given: AudioFormat) -> AudioFormat:
    is_right = given.encoding is Encoding.PCM_S16LE and given.sample_rate_hz in SAMPLE_RATES_HZ
    if not (is_right and 1 <= given.channels <= MAX_CHANNELS):
        raise MediaError(_HOPELESS)
    return given


def _one_line(reason: bytes) -> str:
    text = reason.decode(errors="replace")
    return "".join(one if one.isprintable() else " " for one in text)[:_MAX_REASON_CHARS]
