"""A child that is in the hands of its file may say anything: it is not believed."""

import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from pipeline.media import wire
from pipeline.media.link import ChildLink, DecoderError, ServerLink
from pipeline.media.sandbox import DecodeLimits, MediaError, MediaInfo, Selection
from pipeline.media.wire import Exit, Job
from schemas.media import AudioFormat, Encoding
from tests.media.samples import noise, write

JOB = Job(Selection(), DecodeLimits(decoded_s=10.0), wants_audio=True)
WELL = Exit()
MONO = AudioFormat(Encoding.PCM_S16LE, 8000, 1)
Frame = tuple[bytes, bytes]


def frame(kind: bytes, content: object = None) -> Frame:
    if content is None or isinstance(content, bytes):
        return kind, content or b""
    return kind, msgspec.msgpack.encode(content)


GOOD_BEGIN = [frame(wire.LIVING), frame(wire.FORMAT, MONO)]


class Liars(ServerLink):
    """A server whose children say what it is told, and end as it is told."""

    def __init__(self, frames: Sequence[Frame], ending: Exit | None, tail: bytes = b"") -> None:
        self._frames, self._ending, self._tail = frames, ending, tail

    def submit(self, job: Job, fds: list[int]) -> None:
        output, end = (socket.socket(fileno=os.dup(fd)) for fd in fds[1:])
        with output, end:
            for kind, content in self._frames:
                output.sendall(wire.HEADER.pack(kind, len(content)) + content)
            output.sendall(self._tail)
            if self._ending is not None:
                end.send(msgspec.msgpack.encode(self._ending))


async def hear(path: Path, frames: Sequence[Frame], ending: Exit | None = WELL, tail: bytes = b"") -> list[bytes]:
    with ChildLink(Liars(frames, ending, tail), path, JOB, None) as child:
        return [chunk async for chunk in child.chunks()]


@pytest.fixture
def path(wav: Path) -> Path:
    return write(wav, noise(10, 1), 8000)


async def test_a_child_that_speaks_as_it_should(path: Path) -> None:
    frames = [*GOOD_BEGIN, frame(wire.AUDIO, b"abcd"), frame(wire.LIVING), frame(wire.DONE, MediaInfo(MONO, 0.5, [0]))]
    assert await hear(path, frames) == [b"abcd"]


@pytest.mark.parametrize(
    "frames",
    [
        [frame(wire.AUDIO, b"ab")],
        [*GOOD_BEGIN, frame(wire.AUDIO, b"abc")],
        [*GOOD_BEGIN, *[frame(wire.AUDIO, bytes(40_000))] * 5],
        [*GOOD_BEGIN, frame(b"?")],
        [*GOOD_BEGIN, frame(wire.DONE, b"\xc1")],
        [frame(wire.DONE, MediaInfo(MONO, 0.5, [0]))],
        [*GOOD_BEGIN, frame(wire.DONE, MediaInfo(MONO, float("nan"), [0]))],
        [*GOOD_BEGIN, frame(wire.DONE, MediaInfo(MONO, 1e9, [0]))],
        [*GOOD_BEGIN, frame(wire.DONE, MediaInfo(MONO, 0.5, [0, 1]))],
        [frame(wire.FORMAT, AudioFormat(Encoding.PCM_S16LE, 7, 1))],
        [frame(wire.FORMAT, AudioFormat(Encoding.PCM_S16LE, 8000, 0))],
        [frame(wire.FORMAT, AudioFormat(Encoding.MULAW, 8000, 1))],
        [frame(wire.FORMAT, b"")],
    ],
)
async def test_what_cannot_be_is_not_believed(path: Path, frames: list[Frame]) -> None:
    with pytest.raises(MediaError):
        await hear(path, frames)


async def test_a_frame_that_claims_gigabytes_is_not_waited_for(path: Path) -> None:
    with pytest.raises(MediaError):
        await hear(path, GOOD_BEGIN, tail=wire.HEADER.pack(wire.AUDIO, 2**32 - 1))


async def test_reasons_are_one_short_line(path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        await hear(path, [frame(wire.REFUSED, b"is\nbad\x1b[31m\xff" + b"x" * 5000)])
    assert caught.value.reason.startswith("is bad [31m")
    assert len(caught.value.reason) == 200


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (None, DecoderError),
        (Exit(errno=11), BlockingIOError),
        (Exit(status=signal.SIGKILL), DecoderError),
        (Exit(status=40), DecoderError),
        (Exit(status=signal.SIGSEGV), MediaError),
        (Exit(status=signal.SIGXCPU), MediaError),
        (Exit(status=wire.EXIT_UNCONFINED << 8), MediaError),  # it has been confined: a file may have made it say so
        (Exit(status=wire.EXIT_FAILED << 8), MediaError),
        (Exit(), DecoderError),
    ],
)
@pytest.mark.parametrize("tail", [b"", b"A", wire.HEADER.pack(wire.AUDIO, 100) + b"cut off"])
async def test_how_a_child_ended_says_whose_fault_it_was(
    path: Path, ending: Exit | None, expected: type[Exception], tail: bytes
) -> None:
    with pytest.raises(expected):
        await hear(path, GOOD_BEGIN, ending, tail)


async def test_a_machine_that_cannot_confine_is_no_files_fault(path: Path) -> None:
    with pytest.raises(PermissionError, match="could not be confined"):
        await hear(path, [], Exit(status=wire.EXIT_UNCONFINED << 8))


async def test_a_child_without_a_filter_of_system_calls_is_told_of_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [frame(wire.UNFILTERED), frame(wire.FORMAT, MONO), frame(wire.DONE, MediaInfo(MONO, 0.5, [0]))]
    for _ in range(3):
        await hear(path, frames)
    assert [record.message for record in caplog.records if "seccomp" in record.message] == [
        "this machine has no filter of system calls (seccomp) for the decoders of media files: they run without"
    ]
