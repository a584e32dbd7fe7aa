"""One call from bytes to utterances: decoding, resampling and voice activity detection on a fixed grid of blocks.

What is heard is a function of the call's bytes; the pieces in which they come change nothing. Every `GRID_BLOCKS` the state
that matters is small, and a `GridPoint` says so: a listener can go on from there as if it had heard everything before.
"""

from collections import deque

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.audio.decoding import FrameDecoder
from pipeline.audio.resampling import StreamResampler, analysis_rate_hz
from pipeline.audio.vad import SpeechSpan, VadSnapshot, VoiceActivityDetector
from pipeline.audio.vad_spans import VadParameters
from pipeline.models.silero import SileroVad
from schemas.media import AudioFormat
from schemas.stream import CallSnapshot

Int16 = NDArray[np.int16]

BLOCK_MS = 160  # whole windows of silero (32 ms) and of webrtcvad (20 ms), whole frames at every sample rate
GRID_BLOCKS = VadParameters().restart_blocks  # 16 s

_DETECTORS = msgspec.msgpack.Decoder(VadSnapshot)


class HeardUtterance(msgspec.Struct, frozen=True):
    """An utterance as it was cut from the call; `audio` is int16 (n,) at the analysis rate."""

    channel: int
    span: SpeechSpan
    audio: Int16


class GridPoint(msgspec.Struct, frozen=True):
    """The listener before block `block`.

    To go on from here audio from `first_block` on must be fed again, of which the part before `block` is only kept.
    `position` is the byte of the call at which `first_block` begins.
    """

    block: int
    first_block: int
    position: int
    detectors: list[bytes]


Heard = HeardUtterance | GridPoint


class _Channel:
    """One channel: its resampler, its detector, and the audio that a coming utterance may still need."""

    def __init__(self, resampler: StreamResampler, detector: VoiceActivityDetector, kept_from: int = 0) -> None:
        self.detector = detector
        self._resampler = resampler
        self._kept: deque[Int16] = deque()  # block by block
        self._kept_from = kept_from

    def restart(self, block_before: Int16) -> None:
        self._resampler.restart(block_before)

    def keep(self, block: Int16, *, last: bool) -> None:
        """Take a block that was heard before."""
        self._kept.append(self._resampler.feed(block, last=last))

    def feed(self, block: Int16, *, last: bool, end: bool) -> list[tuple[SpeechSpan, Int16]]:
        """Hear a block; `last` of a resampler's stretch, `end` of the call."""
        samples = self._resampler.feed(block, last=last or end)
        self._kept.append(samples)
        spans = self.detector.feed(samples)
        if end:
            spans += self.detector.finish()
        cut = self._cut(spans) if spans else []
        self._forget(self.detector.keep_from_sample)
        return cut

    def pausing(self) -> tuple[SpeechSpan, Int16] | None:
        """The open span and its audio, once it pauses."""
        span = self.detector.pausing()
        return None if span is None else self._cut([span])[0]

    def _cut(self, spans: list[SpeechSpan]) -> list[tuple[SpeechSpan, Int16]]:
        kept, begin = np.concatenate(list(self._kept)), self._kept_from
        return [(span, kept[span.start_sample - begin : span.end_sample - begin]) for span in spans]

    def _forget(self, before: int) -> None:
        while self._kept and self._kept_from + len(self._kept[0]) <= before:
            self._kept_from += len(self._kept.popleft())


class CallListener:
    """The channels of one call."""

    def __init__(self, audio_format: AudioFormat, silero: SileroVad, snapshot: CallSnapshot | None = None) -> None:
        """Begin at the call's first byte, or go on from a snapshot: then feed from `snapshot.assembly.position` on."""
        rate_hz = audio_format.sample_rate_hz
        self.rate_hz = analysis_rate_hz(rate_hz)
        self.blocks_heard = 0
        self.format = audio_format
        self._block_frames = rate_hz * BLOCK_MS // 1000
        self._block_samples = self.rate_hz * BLOCK_MS // 1000
        self._block = snapshot.first_block if snapshot else 0
        self._keeps_from = self._block + 1 if self._block else 0  # the block before only warms the resamplers up
        self._hears_from = self._grid_block = snapshot.block if snapshot else 0
        position = snapshot.assembly.position if snapshot else 0
        self._decoder = FrameDecoder(audio_format, position)
        self._skip_frames = self._block * self._block_frames - -(-position // audio_format.frame_bytes)
        self._rest = np.empty((0, audio_format.channels), np.int16)
        self._before = self._rest
        self._channels = [
            _Channel(StreamResampler(rate_hz), self._detector(number, silero, snapshot), self._keeps_from * self._block_samples)
            for number in range(audio_format.channels)
        ]

    def _detector(self, number: int, silero: SileroVad, snapshot: CallSnapshot | None) -> VoiceActivityDetector:
        if snapshot is None:
            return VoiceActivityDetector(self.rate_hz, silero)
        return VoiceActivityDetector.restore(_DETECTORS.decode(snapshot.detectors[number]), silero)

    def feed(self, audio: bytes) -> list[Heard]:
        """Take the call's next bytes; give the utterances that have ended, in order of their end, then of channel."""
        return self._hear(self._decoder.feed(audio))

    def finish(self) -> list[Heard]:
        """End the call; give the last utterances."""
        heard = self._hear(self._decoder.finish())
        return heard + self._hear_block(self._rest, end=True)

    def pausing(self) -> list[HeardUtterance]:
        """The utterances that pause, as they will be if no more speech comes: what `feed` will give, unless speech goes on."""
        paused = ((index, channel.pausing()) for index, channel in enumerate(self._channels))
        return [HeardUtterance(index, *one) for index, one in paused if one is not None]

    def _hear(self, frames: Int16) -> list[Heard]:
        skipped = min(self._skip_frames, len(frames))
        self._skip_frames -= skipped
        self._rest = np.concatenate([self._rest, frames[skipped:]])
        whole = len(self._rest) - len(self._rest) % self._block_frames
        blocks, self._rest = self._rest[:whole], self._rest[whole:].copy()
        heard: list[Heard] = []
        for start in range(0, whole, self._block_frames):
            heard += self._hear_block(blocks[start : start + self._block_frames], end=False)
        return heard

    def _hear_block(self, block: Int16, *, end: bool) -> list[Heard]:
        number, before = self._block, self._before
        self._block, self._before = number + 1, block
        if number < self._keeps_from:
            return []
        if number > 0 and number % GRID_BLOCKS == 0:
            for index, channel in enumerate(self._channels):
                channel.restart(np.ascontiguousarray(before[:, index]))
        last = number % GRID_BLOCKS == GRID_BLOCKS - 1
        if number < self._hears_from:
            for index, channel in enumerate(self._channels):
                channel.keep(np.ascontiguousarray(block[:, index]), last=last)
            return []
        self.blocks_heard += 1
        heard: list[Heard] = [
            HeardUtterance(index, span, audio)
            for index, channel in enumerate(self._channels)
            for span, audio in channel.feed(np.ascontiguousarray(block[:, index]), last=last, end=end)
        ]
        heard.sort(key=lambda one: (one.span.end_sample, one.channel))  # type: ignore[union-attr]
        point = self._grid_point(number // GRID_BLOCKS * GRID_BLOCKS)
        return [point, *heard] if point is not None else heard

    def _grid_point(self, block: int) -> GridPoint | None:
        """The state before this block, as the detectors saved it when they took it; a resampler may give it late. Once each."""
        if block <= self._grid_block:
            return None
        snapshots = [channel.detector.snapshot() for channel in self._channels]
        saved = [one for one in snapshots if one is not None and one.position_sample == block * self._block_samples]
        if len(saved) < len(snapshots):
            return None
        self._grid_block = block
        kept_block = min(one.keep_from_sample for one in saved) // self._block_samples
        first = max(0, kept_block // GRID_BLOCKS * GRID_BLOCKS - 1)
        position = first * self._block_frames * self.format.frame_bytes
        return GridPoint(block, first, position, [msgspec.msgpack.encode(one) for one in saved])
