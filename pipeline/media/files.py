"""A media file as the chunks of a call: its channels, a range of it, at a rate and in an encoding that calls may have."""

import contextlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.audio import g711
from pipeline.audio.resampling import Int16Stream
from pipeline.media.errors import MediaError
from pipeline.media.whole import WholeFile, can_seek
from schemas.media import MAX_CHANNELS, MAX_CHUNK_BYTES, SAMPLE_RATES_HZ, AudioFormat, Encoding
from schemas.requests import ChannelMode

Int16 = NDArray[np.int16]

CHUNK_MS = 500
OTHER_RATES_BECOME_HZ = 16000
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 768_000  # outside of them a second of a file is nothing, or too much to hold

_WAV = frozenset({"PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ALAW", "ULAW", "GSM610"})
# By libsndfile's names. It reads some twenty containers more, whose parsers are older and less looked at.
ALLOWED = {
    "WAV": _WAV,
    "WAVEX": _WAV,
    "FLAC": frozenset({"PCM_S8", "PCM_16", "PCM_24"}),
    "OGG": frozenset({"VORBIS", "OPUS"}),
    "MP3": frozenset({"MPEG_LAYER_III"}),
}
# Float WAV is not scaled to integers by libsndfile, and what Vorbis and Opus decode beyond full scale it turns into its
# opposite, not into the largest integer.
_FLOATS = frozenset({"FLOAT", "DOUBLE", "VORBIS", "OPUS"})
_HEAD_BYTES = 12
_UNREADABLE = "cannot be read as WAV, FLAC, Ogg or MP3"


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What of a file is to be heard.

    `channels` are the file's channels to take, in this order, None for all of them; `mix` makes their mean one channel.
    The range is in seconds of the file, rounded to the millisecond; what of it lies outside of the file is left out.
    """

    channel_mode: ChannelMode = ChannelMode.SPLIT
    channels: list[int] | None = None
    range_from_s: float = 0.0
    range_to_s: float | None = None

    def span(self, rate_hz: int) -> tuple[int, int | None]:
        """The range as sample frames at this rate: the first, and the one behind the last. Raises MediaError."""
        if not all(math.isfinite(at_s * 1000) for at_s in (self.range_from_s, self.range_to_s or 0.0)):
            raise MediaError("cannot be cut at a time that is no number")
        end = None if self.range_to_s is None else _sample_at(self.range_to_s, rate_hz)
        return _sample_at(self.range_from_s, rate_hz), end


EVERYTHING = Selection()


def _sample_at(at_s: float, rate_hz: int) -> int:
    return max(0, (round(at_s * 1000) * rate_hz + 500) // 1000)


class MediaFile:
    """An open media file as chunks of a call; close it, or use it as a context manager.

    Args:
        file: a path, or a descriptor that this object closes.
        selection: what of it is heard.
        encoding: of the chunks.
        chunk_ms: how much a chunk holds; less where it would be over a record's limit.
        is_trusted: take whatever libsndfile reads, not only the formats in `ALLOWED`.

    Raises:
        MediaError: it is no such file, or has not what is selected.
        OSError: it cannot be opened.
    """

    def __init__(
        self,
        file: Path | int,
        selection: Selection = EVERYTHING,
        encoding: Encoding = Encoding.PCM_S16LE,
        chunk_ms: int = CHUNK_MS,
        *,
        is_trusted: bool = False,
    ) -> None:
        with contextlib.ExitStack() as opened:
            fd = file if isinstance(file, int) else os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            opened.callback(os.close, fd)
            self._file = opened.enter_context(_open(fd, is_trusted=is_trusted))
            self._read_header(selection, encoding, chunk_ms)
            self._opened = opened.pop_all()

    def _read_header(self, selection: Selection, encoding: Encoding, chunk_ms: int) -> None:
        self._picked = _pick(selection.channels, self._file.channels)
        self._is_mix = selection.channel_mode is ChannelMode.MIX
        self._is_float = self._file.subtype in _FLOATS
        self.channel_numbers = [0] if self._is_mix else self._picked
        if len(self.channel_numbers) > MAX_CHANNELS:
            raise MediaError(f"has {len(self.channel_numbers)} channels, more than {MAX_CHANNELS}")
        self.file_rate_hz: int = self._file.samplerate
        rate_hz = self.file_rate_hz if self.file_rate_hz in SAMPLE_RATES_HZ else OTHER_RATES_BECOME_HZ
        self.format = AudioFormat(encoding, rate_hz, len(self.channel_numbers))
        most_bytes = MAX_CHUNK_BYTES
        if rate_hz != self.file_rate_hz:
            most_bytes = most_bytes * 7 // 8  # the last of a resampler holds what it still had
        self.chunk_ms = min(chunk_ms, most_bytes * 1000 // self.format.bytes_per_s)
        self._begin, self._end = selection.span(rate_hz)
        self._decoded_frames = 0

    @property
    def decoded_s(self) -> float:
        """How much of the file was decoded until now."""
        return self._decoded_frames / self.file_rate_hz

    def __enter__(self) -> "MediaFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file. May be called again."""
        self._opened.close()

    def chunks(self) -> Iterator[bytes]:
        """The audio in the call's encoding, once; a chunk may be empty. Raises MediaError where it cannot be decoded."""
        at = 0
        for frames in self._resampled():
            first, at = at, at + len(frames)
            if self._end is not None:
                frames = frames[: max(0, self._end - first)]
            yield encode(frames[max(0, self._begin - first) :], self.format.encoding)
            if self._end is not None and at >= self._end:
                return

    def _resampled(self) -> Iterator[Int16]:
        """What is selected, (n, channels) at the call's rate. A range is cut behind this, so that it is a part of the whole."""
        if self.file_rate_hz == self.format.sample_rate_hz:
            yield from self._blocks()
            return
        streams = [Int16Stream(self.file_rate_hz, self.format.sample_rate_hz) for _ in self.channel_numbers]
        for block, last in _mark_last(self._blocks()):
            yield np.stack([one.feed(block[:, number], last=last) for number, one in enumerate(streams)], axis=1)

    def _blocks(self) -> Iterator[Int16]:
        """The chosen channels, (n, channels) at the file's rate."""
        block_frames = max(1, self.file_rate_hz * self.chunk_ms // 1000)
        try:
            for samples in self._file.parts(block_frames, "float32" if self._is_float else "int16"):
                self._decoded_frames += len(samples)
                chosen = _int16(samples[:, self._picked])
                yield np.rint(chosen.mean(axis=1, keepdims=True)).astype(np.int16) if self._is_mix else chosen
        except soundfile.LibsndfileError as error:
            raise MediaError(f"cannot be decoded: {_text(error)}") from None


def _int16(samples: NDArray[Any]) -> Int16:
    if samples.dtype != np.int16:
        samples = np.minimum(np.rint(np.clip(np.nan_to_num(samples), -1.0, 1.0) * 32768), 32767)
    return samples.astype(np.int16, copy=False)


def encode(frames: Int16, encoding: Encoding) -> bytes:
    """Sample frames (n, channels) as bytes."""
    if encoding is Encoding.MULAW:
        return g711.encode_mulaw(frames.ravel())
    if encoding is Encoding.ALAW:
        return g711.encode_alaw(frames.ravel())
    return frames.astype("<i2").tobytes()


def _open(fd: int, *, is_trusted: bool) -> WholeFile:
    """The file, checked unless it is trusted. The descriptor stays the caller's. Raises MediaError."""
    if not is_trusted:
        _check_head(os.pread(fd, _HEAD_BYTES, 0))
    try:
        file = WholeFile(fd)
    except soundfile.LibsndfileError as error:
        through = "" if can_seek(fd) else " through a pipe, which not every format can be: try the file itself"
        raise MediaError(f"{_UNREADABLE}{through}: {_text(error)}") from None
    if not is_trusted:
        _check_format(file)
    return file


def _check_head(head: bytes) -> None:
    """Keep the parsers of other formats from running at all. What stands behind an ID3 tag is found out by libsndfile."""
    is_wav = head[:4] == b"RIFF" and head[8:12] == b"WAVE"
    is_mp3 = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2  # a frame of layer III
    if not (is_wav or is_mp3 or head[:4] in (b"fLaC", b"OggS") or head[:3] == b"ID3"):
        raise MediaError(_UNREADABLE)


def _check_format(file: WholeFile) -> None:
    if file.format not in ALLOWED:
        raise MediaError(_UNREADABLE)
    if file.subtype not in ALLOWED[file.format]:
        raise MediaError(f"is encoded as {file.subtype_info}, which is not supported")
    if not MIN_RATE_HZ <= file.samplerate <= MAX_RATE_HZ:
        raise MediaError(f"has a sample rate of {file.samplerate} Hz, outside of {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")


def _pick(channels: list[int] | None, available: int) -> list[int]:
    """The numbers of the channels to take."""
    picked = list(range(available)) if channels is None else channels
    if missing := [number for number in picked if not 0 <= number < available]:
        raise MediaError(f"has {available} channel{'s' if available > 1 else ''}, so no channel {missing[0]}")
    if not picked:
        raise MediaError("has channels, of which none is chosen")
    return picked


def _mark_last(blocks: Iterator[Int16]) -> Iterator[tuple[Int16, bool]]:
    """Each block with whether it is the last, whatever length the file's header claims."""
    held = next(blocks, None)
    for block in blocks:
        if held is not None:
            yield held, False
        held = block
    if held is not None:
        yield held, True


def _text(error: soundfile.LibsndfileError) -> str:
    return str(error.error_string).strip().rstrip(".")
