"""One call from bytes to utterances: decoding, resampling and voice activity detection on a fixed grid of blocks.

What is heard is a function of the call's bytes; the pieces in which they come change nothing.
"""

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.audio.decoding import FrameDecoder
from pipeline.audio.resampling import StreamResampler, analysis_rate_hz
from pipeline.audio.vad import SpeechSpan, VoiceActivityDetector
from schemas.media import AudioFormat

Int16 = NDArray[np.int16]

BLOCK_MS = 160  # whole windows of silero (32 ms) and of webrtcvad (10 ms), whole frames at every sample rate


class HeardUtterance(msgspec.Struct, frozen=True):
    """An utterance as it was cut from the call; `audio` is int16 (n,) at the analysis rate."""

    channel: int
    span: SpeechSpan
    audio: Int16


class _Channel:
    """One channel: its resampler, its detector, and the audio that a coming utterance may still need."""

    def __init__(self, resampler: StreamResampler, detector: VoiceActivityDetector) -> None:
        self._resampler = resampler
        self._detector = detector
        self._kept = np.empty(0, np.int16)
        self._kept_from = 0

    def feed(self, block: Int16, *, last: bool) -> list[tuple[SpeechSpan, Int16]]:
        samples = self._resampler.feed(block, last=last)
        self._kept = np.concatenate([self._kept, samples])
        spans = self._detector.feed(samples)
        if last:
            spans += self._detector.finish()
        cut = [(span, self._cut(span)) for span in spans]
        self._forget(self._detector.keep_from_sample)
        return cut

    def _cut(self, span: SpeechSpan) -> Int16:
        return self._kept[span.start_sample - self._kept_from : span.end_sample - self._kept_from]

    def _forget(self, before: int) -> None:
        if before > self._kept_from:
            self._kept = self._kept[before - self._kept_from :].copy()
            self._kept_from = before


class CallListener:
    """The channels of one call. `new_detector` makes a detector for a rate in Hz."""

    def __init__(self, audio_format: AudioFormat, new_detector: Callable[[int], VoiceActivityDetector]) -> None:
        rate_hz = audio_format.sample_rate_hz
        self.rate_hz = analysis_rate_hz(rate_hz)
        self._decoder = FrameDecoder(audio_format)
        self._block_frames = rate_hz * BLOCK_MS // 1000
        self._rest = np.empty((0, audio_format.channels), np.int16)
        self._channels = [_Channel(StreamResampler(rate_hz), new_detector(self.rate_hz)) for _ in range(audio_format.channels)]

    def feed(self, audio: bytes) -> list[HeardUtterance]:
        """Take the call's next bytes; give the utterances that have ended, in order of their end, then of channel."""
        return self._hear(self._decoder.feed(audio))

    def finish(self) -> list[HeardUtterance]:
        """End the call; give the last utterances."""
        heard = self._hear(self._decoder.finish())
        return heard + self._hear_block(self._rest, last=True)

    def _hear(self, frames: Int16) -> list[HeardUtterance]:
        self._rest = np.concatenate([self._rest, frames])
        whole = len(self._rest) - len(self._rest) % self._block_frames
        blocks, self._rest = self._rest[:whole], self._rest[whole:].copy()
        heard = []
        for start in range(0, whole, self._block_frames):
            heard += self._hear_block(blocks[start : start + self._block_frames], last=False)
        return heard

    def _hear_block(self, block: Int16, *, last: bool) -> list[HeardUtterance]:
        heard = [
            HeardUtterance(number, span, audio)
            for number, channel in enumerate(self._channels)
            for span, audio in channel.feed(np.ascontiguousarray(block[:, number]), last=last)
        ]
        return sorted(heard, key=lambda one: (one.span.end_sample, one.channel))
