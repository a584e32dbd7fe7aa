"""From probabilities of speech to spans: hysteresis, bridged gaps, dropped bursts, padding, and the cut of long speech.

Time is counted in windows of 32 ms, on which silero judges, and in frames of 10 ms, on which spans begin and end.
"""

import copy
from typing import Final

import msgspec

WINDOW_MS: Final = 32
FRAME_MS: Final = 10
MAX_SPAN_FRAMES: Final = 1500
_CUT_FROM_WINDOWS: Final = 157  # look for a cut in the last 5 s of a span that is too long ...
_CUT_TO_WINDOWS: Final = 31  # ... but for the last second, so that what remains is no crumb


class VadParameters(msgspec.Struct, frozen=True):
    """What decides between speech and silence; see the module `pipeline.audio.vad` for why these."""

    webrtc_mode: int = 2  # 0 lets most through, 3 least
    gate_frames: int = 3  # 20 ms frames of a 160 ms block that webrtc must take for speech
    onset: float = 0.5  # probability at which speech begins
    offset: float = 0.35  # probability under which it may end
    gap_windows: int = 7  # as much silence ends a span
    burst_windows: int = 5  # shorter speech is dropped
    padding_frames: int = 2  # added at both ends
    restart_blocks: int = 100  # blocks of 160 ms after which webrtc begins anew and a snapshot is taken


class Frames(msgspec.Struct, frozen=True):
    """A span in frames of 10 ms, its end excluded."""

    start: int
    end: int


class SpanState(msgspec.Struct):
    """Where the builder stands. `recent` are the probabilities of the open span's last 5 s, the newest last."""

    window: int = 0  # the next to be judged
    closed: int = 0  # end of the last span, in frames
    start: int | None = None  # of the open span, in frames
    onset: int = 0  # first window of the open span
    speech: int = 0  # last window of the open span that was speech
    cut: bool = False  # the open span goes on from a cut, so it is no burst
    recent: list[float] = msgspec.field(default_factory=list)


class SpanBuilder:
    """Takes one probability a window, gives a span as soon as it is sure of its end."""

    def __init__(self, parameters: VadParameters, state: SpanState | None = None) -> None:
        self._parameters = parameters
        self.state = copy.deepcopy(state) if state else SpanState()

    def copy_state(self) -> SpanState:
        """The state as it is now; another builder goes on from it."""
        return copy.deepcopy(self.state)

    @property
    def keep_from_frame(self) -> int:
        """The first frame that a span of the future may hold."""
        if self.state.start is not None:
            return self.state.start
        return self._padded_start(self.state.window)

    def skip(self, windows: int) -> list[Frames]:
        """Take so many windows for silence."""
        if self.state.start is None:
            self.state.window += windows
            return []
        return [span for _ in range(windows) for span in self.push(0.0)]

    def push(self, probability: float) -> list[Frames]:
        """Judge the next window."""
        state, window = self.state, self.state.window
        state.window += 1
        if state.start is None:
            if probability >= self._parameters.onset:
                self._open(window)
                state.recent = [probability]
            return []
        state.recent = [*state.recent[1 - _CUT_FROM_WINDOWS :], probability]
        if probability >= self._parameters.offset:
            state.speech = window
            return self._split() if self._padded_end() - state.start > MAX_SPAN_FRAMES else []
        return self.close() if window - state.speech >= self._parameters.gap_windows else []

    def close(self, last_frame: int | None = None) -> list[Frames]:
        """End the open span, at the audio's end at the latest when that is given."""
        state = self.state
        if state.start is None:
            return []
        end = self._padded_end() if last_frame is None else min(self._padded_end(), last_frame)
        span = Frames(state.start, end)
        is_burst = not state.cut and state.speech + 1 - state.onset < self._parameters.burst_windows
        state.start, state.cut, state.recent = None, False, []
        if is_burst or span.end <= span.start:
            return []
        state.closed = span.end
        return [span]

    def _open(self, window: int) -> None:
        self.state.start = self._padded_start(window)
        self.state.onset = self.state.speech = window

    def _padded_start(self, window: int) -> int:
        return max(self.state.closed, window * WINDOW_MS // FRAME_MS - self._parameters.padding_frames)

    def _padded_end(self) -> int:
        return -(-(self.state.speech + 1) * WINDOW_MS // FRAME_MS) + self._parameters.padding_frames

    def _split(self) -> list[Frames]:
        """Cut the open span in the middle of its least speech-like window, as its neighbours see it too."""
        state = self.state
        first = state.window - len(state.recent)
        candidates = range(1, len(state.recent) - _CUT_TO_WINDOWS)
        index = min(candidates, key=lambda i: state.recent[i - 1] + 2 * state.recent[i] + state.recent[i + 1])
        frame = ((first + index) * WINDOW_MS + WINDOW_MS // 2) // FRAME_MS
        span = Frames(state.start or 0, frame)
        state.start, state.closed, state.onset, state.cut = frame, frame, first + index, True
        state.recent = state.recent[index:]
        return [span]
