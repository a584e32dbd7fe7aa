"""A media file that is heard whole: libsndfile reads it, and what it would pass over in silence is mended or refused."""

import os
from collections.abc import Iterator
from typing import Any, Literal

import soundfile
from numpy.typing import NDArray

from pipeline.media import containers
from pipeline.media.errors import MediaError

_UNKNOWN_BYTES = 2**63 - 1
_TO_THE_END = b"\xff\xff\xff\xff"


class WholeFile(soundfile.SoundFile):
    """A file that is read once, from its begin to its end. The descriptor stays the caller's.

    A pipe is read as it comes: nobody can look at its end before.

    Raises:
        MediaError: it holds audio that would not be heard.
        soundfile.LibsndfileError: it cannot be read.
    """

    def __init__(self, fd: int) -> None:
        self._source = _source(fd) if can_seek(fd) else None
        file: Any = self._source or fd
        super().__init__(file, closefd=False)

    def seekable(self) -> bool:
        """No: soundfile would seek behind each read, which tears holes into MP3."""
        return False

    def parts(self, frames: int, dtype: Literal["int16", "float32"]) -> Iterator[NDArray[Any]]:
        """All of it, (n, channels) with at most so many frames at once. Raises MediaError, soundfile.LibsndfileError."""
        # Asked for more than there is, libFLAC takes a tag behind the last frame for one that is damaged.
        left = self.frames if self.format == "FLAC" else _UNKNOWN_BYTES
        while len(part := self.read(min(frames, left), dtype=dtype, always_2d=True)):
            left -= len(part)
            yield part
        if self._source is not None:
            self._source.check_end(self.format)


def can_seek(fd: int) -> bool:
    """Whether it is a file, and no pipe."""
    try:
        return os.lseek(fd, 0, os.SEEK_CUR) >= 0
    except OSError:
        return False


def _source(fd: int) -> "_Source":
    """The file as libsndfile is to see it. Raises MediaError when it holds what libsndfile would leave out."""
    at = containers.begin(fd)
    head = os.pread(fd, 64, at)
    if head[:4] == b"RIFF" and head[8:12] == b"WAVE":
        return _Source(fd, at, mended_at=containers.unfinished_wav(fd, at))
    if head[:4] == b"OggS":
        containers.check_ogg(fd)
    if head[:4] == b"fLaC":
        containers.check_flac(fd, at)
    return _Source(fd, hides_length=containers.is_mp3_of_unknown_length(head))


class _Source:
    """The bytes of a file, read by libsndfile through soundfile.

    They begin at `base`: of a WAV behind tags libsndfile would leave out as many bytes at its end. `mended_at` is where in the
    file four bytes are read as 0xFF, which is data to the end of the file in a WAV. An MP3 whose length is hidden is counted
    or read to its end, where libsndfile would guess how many samples it has.
    """

    def __init__(self, fd: int, base: int = 0, *, mended_at: int | None = None, hides_length: bool = False) -> None:
        self._fd, self._base = fd, base
        self._size = os.fstat(fd).st_size - base
        self._mended_at = mended_at
        self._hides_length = hides_length
        self._at = 0
        self._answer: int | None = None  # of the next `tell`, where it is not the position
        self._failure: OSError | None = None

    def read(self, count: int) -> bytes:
        """What is next, at most so many bytes."""
        try:
            os.lseek(self._fd, self._base + self._at, os.SEEK_SET)
            content = os.read(self._fd, count)
        except OSError as error:  # behind it are callbacks from C, through which nothing can be raised
            self._failure = error
            return b""
        begin, self._at = self._at, self._at + len(content)
        return content if self._mended_at is None else _mend(content, self._mended_at - self._base - begin)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> None:
        """Go there, if that is in the file or behind it."""
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if whence == os.SEEK_END and self._hides_length:
            self._answer = _UNKNOWN_BYTES
        elif at < 0:
            self._answer = -1
        else:
            self._at = at

    def tell(self) -> int:
        """Where it is, or what became of a seek that led nowhere."""
        answer, self._answer = self._answer, None
        return self._at if answer is None else answer

    def check_end(self, container: str) -> None:
        """Raises MediaError when not all was read, or there is more audio than was."""
        if self._failure is not None:
            raise MediaError(f"cannot be read: {self._failure.strerror}")
        has_more = {"MP3": containers.has_more_mp3, "FLAC": containers.has_more_flac}.get(container)
        if has_more is not None and has_more(self._fd, self._base + self._at):
            raise MediaError(containers.MORE)


def _mend(content: bytes, at: int) -> bytes:
    """With the length of data at that place; it may begin before the content or end behind it."""
    length = _TO_THE_END[max(0, -at) : max(0, len(content) - at)]
    at = max(0, at)
    return content[:at] + length + content[at + len(length) :]
