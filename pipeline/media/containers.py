"""What libsndfile passes over in silence: headers that were never finished, and audio behind the end that it sees."""

import os
import re
import struct
from collections.abc import Iterable, Iterator
from typing import TypeVar

from pipeline.media.errors import MediaError

SEVERAL = "holds several recordings one behind the other: give each as a file of its own"
MORE = "is damaged, or holds several recordings: there is audio behind what can be decoded"
_BLOCK_BYTES = 65_536

# More of them are in no file that is to be heard, but in one that is to keep a decoder busy.
_MOST_CHUNKS = 100_000
_MOST_TAGS = 1_000
_MOST_FALSE_PAGES = 10_000
_MOST_FALSE_FRAMES = 1_000_000
_Part = TypeVar("_Part")

_CHUNK = struct.Struct("<4sI")
_RIFF_BYTES = 12  # before the first chunk
_CHUNK_NAME = re.compile(rb"[ -~]{4}")
_NOTES = frozenset(
    (b"LIST", b"id3 ", b"ID3 ", b"bext", b"iXML", b"_PMX", b"cue ", b"JUNK", b"junk", b"PAD ", b"FLLR", b"cart")
)  # may be cut off
_TAGS = (b"ID3", b"APETAGEX")
_LEAST_FILL_BYTES = 16  # of one byte, as 0xFF; of zeros one will do
_STRAY_BYTES = 1024  # behind the last chunk of a WAV: what some programs leave there, and no audio to speak of

_PAGE_BYTES = 27  # of an Ogg page's header, before its table of segments
_IS_FIRST_PAGE = 2
_OGG_PAGE = re.compile(b"OggS")
_OGG_AUDIO = (b"\x01vorbis", b"OpusHead", b"Speex   ", b"\x7fFLAC")

_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # with the head of STREAMINFO
_CHANCE = 2  # three bytes that are alike by no more than that so often

_KBPS = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_KBPS_OF_HALF_RATES = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
_MPEG_RATES_HZ = (44_100, 48_000, 32_000)
_RATE_SHIFTS = {3: 0, 2: 1, 0: 2}  # by the number of the version: MPEG 1, 2 and 2.5
_LAYER_III = re.compile(rb"\xff(?=[\xe2\xe3\xf2\xf3\xfa\xfb])")
_FRAMES_IN_A_ROW = 5  # fewer are the encoder's padding, which is not heard, or chance
_LONGEST_ROW_BYTES = 5 * 1441 + 4
_FRAME_COUNT = re.compile(rb"(?s:(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f](.{4}))")


class _Budget:
    """How many parts of a file are looked at, in all."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def spend(self) -> None:
        """Look at one more. Raises MediaError where that is too many."""
        if not self._left:
            raise MediaError(f"is damaged: it has more than {self._most:,} parts of one kind")
        self._left -= 1

    def of(self, parts: Iterable[_Part]) -> Iterator[_Part]:
        """These parts. Raises MediaError where they are too many."""
        for part in parts:
            self.spend()
            yield part


def unfinished_wav(fd: int, at: int) -> int | None:
    """Where the header of the WAV that begins there has the length of its data, if that was never written; else None.

    Raises MediaError when there is audio behind the data.
    """
    size = os.fstat(fd).st_size
    budget = _Budget(_MOST_CHUNKS)
    chunks = _chunks(fd, at + _RIFF_BYTES, size)
    data = next((place for name, *place in budget.of(chunks) if name == b"data"), None)
    if data is None or sum(data) >= size:
        return None
    at, length = data
    if not length and _behind(fd, at, size, budget)[1]:
        return at - 4
    _check_behind(fd, at + length, size, budget)
    return None


def _check_behind(fd: int, at: int, size: int, budget: _Budget) -> None:
    """Raises MediaError when there is audio from there on: notes, tags and what fills a file up are none."""
    while at < size:
        budget.spend()
        names, left = _behind(fd, at, size, budget)
        if {b"RIFF", b"data"} & names:
            raise MediaError(SEVERAL)
        at = size - left
        if left <= _STRAY_BYTES or os.pread(fd, 8, at).startswith(_TAGS):
            return
        begin, at = at, _fill_end(fd, at)
        if at - begin < _LEAST_FILL_BYTES and os.pread(fd, 1, begin) != b"\0":
            raise MediaError(MORE)


def _behind(fd: int, at: int, size: int, budget: _Budget) -> tuple[set[bytes], int]:
    """The names of the chunks of a WAV from there on, and how many bytes are left that are none."""
    names = set()
    for name, content_at, length in budget.of(_chunks(fd, at, size)):
        if content_at + length > size and name not in _NOTES:
            break
        names.add(name)
        at = content_at + length + length % 2
    return names, max(0, size - at)


def _chunks(fd: int, at: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """The name of each chunk of a WAV from there on, where its content begins and how long it is; up to what is no chunk."""
    while at + _CHUNK.size <= size:
        name, length = _CHUNK.unpack(os.pread(fd, _CHUNK.size, at))
        if not _CHUNK_NAME.fullmatch(name):
            return
        yield name, at + _CHUNK.size, length
        at += _CHUNK.size + length
        at += length % 2 and not _CHUNK_NAME.fullmatch(os.pread(fd, 4, at))  # not all programs pad


def _fill_end(fd: int, at: int) -> int:
    """Where the run of one byte ends that begins there."""
    byte = os.pread(fd, 1, at)
    for block_at, block in _blocks(fd, at):
        if rest := block.lstrip(byte):
            return block_at + len(block) - len(rest)
        at = block_at + len(block)
    return at


def _blocks(fd: int, at: int, overlap: int = 0) -> Iterator[tuple[int, bytes]]:
    """The file from there on, piece by piece; each begins with so many bytes of the one before it."""
    while block := os.pread(fd, _BLOCK_BYTES, at):
        yield at, block
        if len(block) <= overlap:
            return
        at += len(block) - overlap


def _find(fd: int, wanted: re.Pattern[bytes], at: int) -> int | None:
    for block_at, block in _blocks(fd, at, overlap=7):
        if found := wanted.search(block):
            return block_at + found.start()
    return None


def check_ogg(fd: int) -> None:
    """Raises MediaError when there are several streams of audio, of which libsndfile hears the first."""
    streams = 0
    for at, head in _pages(fd):
        if head[5] & _IS_FIRST_PAGE:
            streams += os.pread(fd, 8, at + len(head)).startswith(_OGG_AUDIO)
        if streams > 1:
            raise MediaError("holds several streams of audio: give each as a file of its own")


def _pages(fd: int) -> Iterator[tuple[int, bytes]]:
    """Where each page of an Ogg file begins, and its header."""
    at, damages = _find(fd, _OGG_PAGE, 0), 0
    while at is not None:
        head = os.pread(fd, _PAGE_BYTES + 255, at)
        if len(head) < _PAGE_BYTES:
            return
        if head[:4] != b"OggS":
            at, damages = _find(fd, _OGG_PAGE, at + 1), damages + 1
            if damages > _MOST_FALSE_PAGES:
                raise MediaError(f"is damaged: {damages:,} of its pages are not where they should be")
            continue
        head = head[: _PAGE_BYTES + head[_PAGE_BYTES - 1]]
        yield at, head
        at += len(head) + sum(head[_PAGE_BYTES:])


def check_flac(fd: int, first: int) -> None:
    """Raises MediaError when another FLAC file is behind the first."""
    if _find(fd, _FLAC, first + 4) is not None:
        raise MediaError(SEVERAL)


def has_more_flac(fd: int, at: int) -> bool:
    """Whether frames of FLAC are from there on."""
    frame = os.pread(fd, 3, _first_flac_frame(fd))  # all but the last begin alike
    return len(frame) == 3 and sum(block.count(frame) for _, block in _blocks(fd, at)) > _CHANCE


def _first_flac_frame(fd: int) -> int:
    """Where it begins, behind the blocks of metadata."""
    at = begin(fd) + 4
    while len(head := os.pread(fd, 4, at)) == 4:
        at += 4 + int.from_bytes(head[1:])
        if head[0] & 0x80:
            break
    return at


def begin(fd: int) -> int:
    """Where a file begins behind its ID3 tags."""
    return max(_Budget(_MOST_TAGS).of(_tag_ends(fd)), default=0)


def _tag_ends(fd: int) -> Iterator[int]:
    at = 0
    while (head := os.pread(fd, 10, at))[:3] == b"ID3" and len(head) == 10:
        at += 10 + sum((head[6 + number] & 0x7F) << 21 - 7 * number for number in range(4))
        yield at


def is_mp3_of_unknown_length(head: bytes) -> bool:
    """Whether an MP3 begins so without the number of its frames (Xing, Info): libsndfile guesses it and stops there."""
    found = _FRAME_COUNT.search(head)
    return _frame_bytes(head) > 0 and (found is None or found[1] == bytes(4))


def has_more_mp3(fd: int, at: int) -> bool:
    """Whether frames of MP3 are from there on."""
    blocks = _blocks(fd, at, overlap=_LONGEST_ROW_BYTES)
    frames = ((block, found.start()) for _, block in blocks for found in _LAYER_III.finditer(block))
    return any(_is_row(block, begin) for block, begin in _Budget(_MOST_FALSE_FRAMES).of(frames))


def _is_row(block: bytes, at: int) -> bool:
    for _ in range(_FRAMES_IN_A_ROW):
        length = _frame_bytes(block[at : at + 4])
        if not length:
            return False
        at += length
    return True


def _frame_bytes(head: bytes) -> int:
    """How long a frame of MP3 is by its header; 0 when it is none."""
    if len(head) < 4 or not _LAYER_III.match(head):
        return 0
    version, kbps, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if kbps in (0, 15) or rate == 3:
        return 0
    rate_hz = _MPEG_RATES_HZ[rate] >> _RATE_SHIFTS[version]
    bits_per_s = 1000 * (_KBPS if version == 3 else _KBPS_OF_HALF_RATES)[kbps]
    return (144 if version == 3 else 72) * bits_per_s // rate_hz + (head[2] >> 1 & 1)
