"""From probabilities of speech to spans: hysteresis, bridged gaps, dropped bursts, and the cut of long speech.

Time is counted in frames of 10 ms. The first frames may lie before the audio, where the probabilities lag behind it.
"""

import copy
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from pipeline.audio.vad_readout import LAG_FRAMES

MAX_SPAN_FRAMES: Final = 1500
_CUT_FROM_FRAMES: Final = 500  # look for a cut in the last 5 s of a span that is too long ...
_CUT_TO_FRAMES: Final = 100  # ... but for the last second, so that what remains is no crumb
_PAUSE_FRAMES: Final = 11  # over which a cut's place is to be unlike speech
_PAUSING_FRAMES: Final = 3  # without speech, after which an open span may be over; of 100 such pauses 74 are its end


class VadParameters(msgspec.Struct, frozen=True):
    """What decides between speech and silence; see the module `pipeline.audio.vad` for why these."""

    webrtc_mode: int = 2  # 0 lets most through, 3 least
    gate_frames: int = 3  # 20 ms frames of a 160 ms block that webrtc must take for speech
    least_level: float = 10.0  # root mean square under which a block is silence, of 32768: -70 dBFS
    onset: float = 0.55  # probability at which speech begins
    offset: float = 0.5  # probability under which it may end
    gap_frames: int = 22  # as much silence ends a span
    burst_frames: int = 25  # shorter speech is dropped
    restart_blocks: int = 100  # blocks of 160 ms after which webrtc begins anew and a snapshot is taken


class Frames(msgspec.Struct, frozen=True):
    """A span in frames of 10 ms, its end excluded."""

    start: int
    end: int


class SpanState(msgspec.Struct):
    """Where the builder stands. `recent` are the probabilities of the open span's last 5 s, the newest last."""

    frame: int = -LAG_FRAMES  # the next to be judged
    start: int | None = None  # of the open span
    speech: int = 0  # last frame of the open span that was speech
    cut: bool = False  # the open span goes on from a cut, so it is no burst
    recent: list[float] = msgspec.field(default_factory=list)


class SpanBuilder:
    """Takes the probabilities of consecutive frames, gives a span as soon as it is sure of its end."""

    def __init__(self, parameters: VadParameters, state: SpanState | None = None) -> None:
        self._parameters = parameters
        self.state = copy.deepcopy(state) if state else SpanState()

    def copy_state(self) -> SpanState:
        """The state as it is now; another builder goes on from it."""
        recent = self.state.recent[-_CUT_FROM_FRAMES:]
        return msgspec.structs.replace(self.state, recent=recent)

    @property
    def is_open(self) -> bool:
        """Whether a span has begun and not ended."""
        return self.state.start is not None

    @property
    def keep_from_frame(self) -> int:
        """The first frame that a span of the future may hold."""
        return max(0, self.state.frame) if self.state.start is None else self.state.start

    def pausing(self) -> Frames | None:
        """The open span as it will be if no more speech comes within the gap, once it pauses; None for what may be a burst."""
        state = self.state
        if state.start is None or state.frame - 1 - state.speech < _PAUSING_FRAMES:
            return None
        span = Frames(state.start, state.speech + 1)
        return None if self._is_burst(span) else span

    def skip(self, frames: int) -> None:
        """Take so many frames for silence. Raises ValueError while a span is open, which they might end."""
        if self.is_open:
            raise ValueError("frames are skipped only between spans")
        self.state.frame += frames

    def push(self, probabilities: Sequence[float]) -> list[Frames]:
        """Judge the next frames."""
        if not self.is_open and max(probabilities, default=0.0) < self._parameters.onset:
            self.state.frame += len(probabilities)
            return []
        if self._goes_on(probabilities):
            self._remember(probabilities)
            self.state.frame += len(probabilities)
            self.state.speech = self.state.frame - 1
            return []
        return [span for probability in probabilities for span in self._judge(probability)]

    def close(self, last_frame: int | None = None) -> list[Frames]:
        """End the open span, at the audio's end at the latest when that is given."""
        state = self.state
        if state.start is None:
            return []
        end = state.speech + 1 if last_frame is None else min(state.speech + 1, last_frame)
        span = Frames(state.start, end)
        is_burst = self._is_burst(span)
        state.start, state.cut, state.recent = None, False, []
        return [] if is_burst or span.end <= span.start else [span]

    def _is_burst(self, span: Frames) -> bool:
        return not self.state.cut and span.end - span.start < self._parameters.burst_frames

    def _goes_on(self, probabilities: Sequence[float]) -> bool:
        """Whether all of these frames are speech of the open span, which may be so long: the usual case, taken at once."""
        state = self.state
        if state.start is None or state.frame + len(probabilities) - state.start > MAX_SPAN_FRAMES:
            return False
        return min(probabilities, default=0.0) >= self._parameters.offset

    def _judge(self, probability: float) -> list[Frames]:
        state, frame = self.state, self.state.frame
        state.frame += 1
        if state.start is None:
            if probability >= self._parameters.onset and frame >= 0:
                state.start, state.speech, state.recent = frame, frame, [probability]
            return []
        self._remember([probability])
        if probability >= self._parameters.offset:
            state.speech = frame
            return self._split() if frame + 1 - state.start > MAX_SPAN_FRAMES else []
        return self.close() if frame - state.speech >= self._parameters.gap_frames else []

    def _remember(self, probabilities: Sequence[float]) -> None:
        self.state.recent.extend(probabilities)
        if len(self.state.recent) > 2 * _CUT_FROM_FRAMES:  # seldom, since it costs a copy
            del self.state.recent[:-_CUT_FROM_FRAMES]

    def _split(self) -> list[Frames]:
        """Cut the open span in the middle of the 110 ms that are least like speech."""
        state = self.state
        recent = state.recent[-_CUT_FROM_FRAMES:]
        likeness = np.convolve(recent[:-_CUT_TO_FRAMES], np.ones(_PAUSE_FRAMES), "valid")
        frame = state.frame - len(recent) + int(likeness.argmin()) + _PAUSE_FRAMES // 2
        span = Frames(state.start or 0, frame)
        state.start, state.cut = frame, True
        return [span]
