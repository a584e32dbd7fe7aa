"""Voice activity detection: webrtcvad as a cheap gate, silero's LSTM behind it, and a readout of that every 10 ms.

Everything happens in blocks of 160 ms from the call's first sample (8 webrtc frames of 20 ms, 5 silero windows of 32 ms, 16
frames of 10 ms), so that the result does not depend on how the audio was cut. A block reaches silero when webrtc takes it, the
block before it or the block after it for speech, or while a span is open; a block under -70 dBFS, which is the last step of a
telephone's quantiser, reaches neither. Silero's state is kept over the blocks that it does not see: to begin anew there cost
1 % more misses.

Parameters: webrtc mode 2 with 3 of 8 frames costs 0.3 % more misses at most than no gate, and keeps noise from silero; modes 0
and 1 pass three quarters of the pauses. Thresholds, gap and burst were chosen on made recordings of held-out speakers (see
`training/vad_data.py`): fewer misses and fewer false alarms than silero alone, and utterances that stay whole.

webrtcvad's inner state cannot be saved, so it is made anew every 16 s of the call, warmed up on the block before (without that
block it costs 0.1 % more misses); there a snapshot is taken. A span is emitted within 0.5 s of its end: 220 ms
of gap, 80 ms that the frames lag, and the rest of a block; but one that is cut because it reaches 15 s is cut up to 5 s back.
"""

from collections.abc import Callable
from typing import Final, Protocol, Self, cast

import msgspec
import numpy as np
import numpy.typing as npt
import webrtcvad

from pipeline.audio.vad_readout import BLOCK_FRAMES, BLOCK_WINDOWS, FRAME_MS, PAST_WINDOWS, Readout
from pipeline.audio.vad_spans import Frames, SpanBuilder, SpanState, VadParameters
from pipeline.models.silero import SileroVad

Int16Array = npt.NDArray[np.int16]

SAMPLE_RATES_HZ: Final = (8000, 16000)
MIN_AUDIO_MS: Final = 800  # shorter audio has no speech, by contract with the reference platform
_BLOCK_MS: Final = 160
_GATE_FRAMES: Final = 8  # of 20 ms, webrtc's cheapest length that divides a block
_FULL_SCALE: Final = np.float32(32768)
_DEFAULT: Final = VadParameters()


class _Gate(Protocol):
    """What is used of webrtcvad.Vad, which has no types."""

    def is_speech(self, frame: bytes, sample_rate_hz: int, /) -> bool: ...


_new_gate = cast(Callable[[int], _Gate], webrtcvad.Vad)


class SpeechSpan(msgspec.Struct, frozen=True):
    """A stretch of speech in samples from the call's begin, its end excluded; both are multiples of 10 ms."""

    start_sample: int
    end_sample: int


class VadSnapshot(msgspec.Struct, frozen=True):
    """A detector at a grid point, some kilobytes; MessagePack carries it.

    `position_sample` is the next sample to feed, `keep_from_sample` the first that a span of the future may hold.
    `previous` is the block before (int16, little-endian), `held` whether it still waits for its verdict; `silero` is the
    model's state (float32, little-endian), `readout` that of the readout (float64, little-endian).
    """

    sample_rate_hz: int
    position_sample: int
    keep_from_sample: int
    spans: SpanState
    gate_open: bool
    previous: bytes
    held: bool
    silero: bytes
    readout: bytes


class VoiceActivityDetector:
    """Finds the speech of one channel as its audio comes in. Not thread-safe; one detector a channel."""

    def __init__(self, sample_rate_hz: int, silero: SileroVad, parameters: VadParameters = _DEFAULT) -> None:
        """Start at the call's first sample. Raises ValueError when the rate is neither 8000 nor 16000 Hz."""
        if sample_rate_hz not in SAMPLE_RATES_HZ:
            raise ValueError(f"voice activity detection works at 8000 or 16000 Hz, not {sample_rate_hz}: resample the audio")
        self.sample_rate_hz = sample_rate_hz
        self.position_sample = 0  # the next sample to feed
        self.windows_judged = 0  # how many reached silero
        self._silero = silero
        self._parameters = parameters
        self._spans = SpanBuilder(parameters)
        self._readout = Readout(sample_rate_hz)
        self._least_energy = parameters.least_level**2 * sample_rate_hz * _BLOCK_MS / 1000
        self._block_samples = sample_rate_hz * _BLOCK_MS // 1000
        self._frame_samples = sample_rate_hz * FRAME_MS // 1000
        self._blocks = 0
        self._pending: Int16Array = np.zeros(0, np.int16)  # less than a block
        self._gate = _new_gate(parameters.webrtc_mode)
        self._gate_open = False
        self._previous = np.zeros(self._block_samples, np.int16)
        self._held = False  # whether the previous block, which webrtc refused, waits: the next one may still call for it
        self._state = silero.initial_state(sample_rate_hz)  # kept over blocks that silero does not see
        self._early: list[SpeechSpan] = []  # found before there is audio enough for any speech
        self._snapshot: VadSnapshot | None = None
        self._finished = False

    @property
    def keep_from_sample(self) -> int:
        """The earliest sample that a future span may still hold; audio before it can be dropped."""
        if self._finished:
            return self.position_sample
        if self._early:
            return self._early[0].start_sample
        return min(self._spans.keep_from_frame * self._frame_samples, self.position_sample)

    def feed(self, samples: Int16Array) -> list[SpeechSpan]:
        """Take the next samples, any number of them, and return the spans that have become sure.

        Args:
            samples: (n,) int16 at the detector's rate; not to be changed afterwards, a block of them is kept.

        Raises:
            ValueError: the array is not one-dimensional int16, or the detector was finished.
        """
        if self._finished:
            raise ValueError("the detector was finished: make a new one for more audio")
        if samples.dtype != np.int16 or samples.ndim != 1:
            raise ValueError(f"expected one-dimensional int16 samples, got {samples.dtype} of shape {samples.shape}")
        self.position_sample += len(samples)
        if len(samples) == self._block_samples and not len(self._pending):  # as a call's channel does, block by block
            return self._release(self._take(samples))
        audio = np.concatenate((self._pending, samples)) if len(self._pending) else samples
        whole = len(audio) // self._block_samples * self._block_samples
        frames: list[Frames] = []
        for block in audio[:whole].reshape(-1, self._block_samples):
            frames += self._take(block.copy())
        self._pending = audio[whole:].copy()
        return self._release(frames)

    def finish(self) -> list[SpeechSpan]:
        """End the audio, its tail padded with zeros, and return the remaining spans. Raises ValueError the second time."""
        if self._finished:
            raise ValueError("the detector was finished already")
        frames: list[Frames] = []
        window = self._block_samples // BLOCK_WINDOWS
        if windows := (len(self._pending) + window * 2 // 3) // window:  # one that is nearly empty would pass for silence
            frames = self._take(np.pad(self._pending, (0, self._block_samples - len(self._pending))), windows)
        if self._held:
            frames += self._skip()
        last_frame = self.position_sample // self._frame_samples
        frames += self._spans.push(self._readout.last()[: max(0, last_frame - self._spans.state.frame)])
        frames += self._spans.close(last_frame)
        spans = self._release(frames)
        self._finished = True
        return spans

    def pausing(self) -> SpeechSpan | None:
        """The open span as it will be if no more speech comes, once it pauses: mostly what `feed` will return."""
        span = self._spans.pausing()
        if span is None or self.position_sample * 1000 < MIN_AUDIO_MS * self.sample_rate_hz:
            return None
        return SpeechSpan(span.start * self._frame_samples, span.end * self._frame_samples)

    def snapshot(self) -> VadSnapshot | None:
        """The detector as it was at the last grid point (every 16 s), or None before the first one."""
        return self._snapshot

    @classmethod
    def restore(cls, snapshot: VadSnapshot, silero: SileroVad, parameters: VadParameters = _DEFAULT) -> Self:
        """Go on from a snapshot: feed the audio from `snapshot.position_sample` on. `parameters` must be the same."""
        detector = cls(snapshot.sample_rate_hz, silero, parameters)
        detector.position_sample = snapshot.position_sample
        detector._blocks = snapshot.position_sample // detector._block_samples
        detector._spans = SpanBuilder(parameters, snapshot.spans)
        detector._gate_open = snapshot.gate_open
        detector._previous = np.frombuffer(snapshot.previous, "<i2").astype(np.int16)
        detector._held = snapshot.held
        detector._readout = Readout(snapshot.sample_rate_hz, np.frombuffer(snapshot.readout, "<f8").reshape(PAST_WINDOWS, -1))
        detector._state = np.frombuffer(snapshot.silero, "<f4").astype(np.float32)
        detector._snapshot = snapshot
        return detector

    def _take(self, block: Int16Array, windows: int = BLOCK_WINDOWS) -> list[Frames]:
        """Decide about the next block, of which so many windows hold audio."""
        if self._blocks and self._blocks % self._parameters.restart_blocks == 0:
            self._restart()
        previous, self._previous = self._previous, block
        is_loud = self._is_loud(block)
        opened, self._gate_open = self._gate_open, is_loud and self._passes_gate(block)
        self._blocks += 1
        frames: list[Frames] = []
        if self._held:
            frames += self._judge(previous, BLOCK_WINDOWS) if self._gate_open else self._skip()
        is_wanted = self._gate_open or (is_loud and (opened or self._spans.is_open))
        self._held = is_loud and not is_wanted
        if self._held:
            return frames
        return frames + (self._judge(block, windows) if is_wanted else self._skip())

    def _is_loud(self, block: Int16Array) -> bool:
        """Whether there is anything to hear; the sum is of whole numbers under 2^53, so it is exact in any order."""
        wide = block.astype(np.float64)
        return bool(wide.dot(wide) >= self._least_energy)

    def _passes_gate(self, block: Int16Array) -> bool:
        """Whether webrtc takes enough of the block for speech; it is asked until that is sure."""
        data, size = block.astype("<i2").tobytes(), 2 * len(block) // _GATE_FRAMES
        wanted = self._parameters.gate_frames
        for left in range(_GATE_FRAMES, 0, -1):
            if not 0 < wanted <= left:
                break
            start = (_GATE_FRAMES - left) * size
            wanted -= self._gate.is_speech(data[start : start + size], self.sample_rate_hz)
        return wanted <= 0

    def _judge(self, block: Int16Array, windows: int) -> list[Frames]:
        """Let silero hear a block; always five windows in a call, so that the arithmetic is always the same."""
        samples = block.reshape(BLOCK_WINDOWS, -1).astype(np.float32) / _FULL_SCALE
        heard = self._silero.listen(samples, self._state)
        self._state = heard.state
        self.windows_judged += windows
        hidden = heard.hidden
        hidden[windows:] = hidden[windows - 1]  # behind the audio's end as before it
        return self._spans.push(self._readout.read(hidden))

    def _skip(self) -> list[Frames]:
        """Take a block for silence."""
        if self._readout.is_silent and not self._spans.is_open:
            self._spans.skip(BLOCK_FRAMES)
            return []
        return self._spans.push(self._readout.skip())

    def _release(self, frames: list[Frames]) -> list[SpeechSpan]:
        """Frames to samples; nothing before there is audio enough for any speech."""
        if not (frames or self._early):
            return []
        scale = self._frame_samples
        spans = self._early + [SpeechSpan(span.start * scale, span.end * scale) for span in frames]
        is_early = self.position_sample * 1000 < MIN_AUDIO_MS * self.sample_rate_hz
        self._early = spans if is_early else []
        return [] if is_early else spans

    def _restart(self) -> None:
        """Renew what cannot be saved, and save the rest."""
        self._gate = _new_gate(self._parameters.webrtc_mode)
        if self._is_loud(self._previous):
            self._passes_gate(self._previous)
        self._snapshot = VadSnapshot(
            sample_rate_hz=self.sample_rate_hz,
            position_sample=self._blocks * self._block_samples,
            keep_from_sample=self._spans.keep_from_frame * self._frame_samples,
            spans=self._spans.copy_state(),
            gate_open=self._gate_open,
            previous=self._previous.astype("<i2").tobytes(),
            held=self._held,
            silero=self._state.astype("<f4").tobytes(),
            readout=self._readout.state.astype("<f8").tobytes(),
        )
