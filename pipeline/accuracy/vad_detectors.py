"""Detectors of speech that are compared, each with its answer every 10 ms: ours, silero alone, webrtcvad alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol, cast

import numpy as np
import numpy.typing as npt
import webrtcvad

from pipeline.accuracy.audio import Band, read
from pipeline.accuracy.manifest import LabelledRecording
from pipeline.accuracy.speech import as_call
from pipeline.audio.vad import VoiceActivityDetector
from pipeline.audio.vad_readout import BLOCK_WINDOWS, LAG_FRAMES, Float32Array, Readout
from pipeline.audio.vad_spans import VadParameters
from pipeline.models.silero import WINDOW_SAMPLES, SileroVad

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]
Int16 = npt.NDArray[np.int16]

FRAMES_PER_S = 100
FEED_MS = 200
_WEBRTC_FRAME_MS = 20
_FULL_SCALE = np.float32(32_768)


class Labelled(NamedTuple):
    """A recording as a call carries it, and for each 10 ms whether it is labelled speech."""

    corpus: str
    samples: Int16
    rate_hz: int
    speech: Bools


class Said(NamedTuple):
    """A detector's answer for each 10 ms, its score there if it has one, and how many windows of 32 ms silero heard."""

    speech: Bools
    score: Float64 | None = None
    windows: int = 0


Detector = Callable[[Int16, int], Said]


class _Gate(Protocol):
    """What is used of webrtcvad.Vad, which has no types."""

    def is_speech(self, frame: bytes, sample_rate_hz: int, /) -> bool: ...


def frames_of(samples: Int16, rate_hz: int) -> int:
    """The whole frames of 10 ms."""
    return len(samples) * FRAMES_PER_S // rate_hz


def carried(recording: LabelledRecording, band: Band) -> Labelled:
    """A recording of a list, in a band. Raises RecordingError."""
    return labelled(read(recording.path), recording, band)


def labelled(samples: Float32Array, recording: LabelledRecording, band: Band) -> Labelled:
    """Samples (float32 at 16 kHz) with a recording's labels, in a band."""
    sent, rate_hz = as_call(samples, band)
    speech = np.zeros(frames_of(sent, rate_hz), np.bool_)
    for start_s, end_s in recording.speech_s:
        speech[round(start_s * FRAMES_PER_S) : round(end_s * FRAMES_PER_S)] = True
    return Labelled(recording.corpus, sent, rate_hz, speech)


def webrtc_alone(samples: Int16, rate_hz: int, *, mode: int = 2) -> Said:
    """What webrtcvad says of every frame of 20 ms."""
    vad = cast(Callable[[int], _Gate], webrtcvad.Vad)(mode)
    size = rate_hz * _WEBRTC_FRAME_MS // 1000
    parts = samples[: len(samples) // size * size].astype("<i2").reshape(-1, size)
    speech = np.repeat([vad.is_speech(part.tobytes(), rate_hz) for part in parts], _WEBRTC_FRAME_MS // 10)
    return Said(_fitted(np.asarray(speech, np.float64), frames_of(samples, rate_hz)) > 0)


def silero_alone(samples: Int16, rate_hz: int, *, silero: SileroVad, threshold: float = 0.5) -> Said:
    """Every window whose probability reaches the threshold; five windows in a call, as the detector does."""
    state, parts = silero.initial_state(rate_hz), [np.zeros(0, np.float32)]
    for windows in _blocks(samples, rate_hz):
        values, state = silero.probabilities(windows, state)
        parts.append(values)
    return by_window(np.concatenate(parts).astype(np.float64), frames_of(samples, rate_hz), threshold)


def by_window(probabilities: Float64, frames: int, threshold: float = 0.5) -> Said:
    """Probabilities of windows of 32 ms (n,) as answers for frames: those of the window in which a frame's middle lies."""
    window = (np.arange(frames) * 10 + 5) // 32
    score = _fitted(probabilities, int(window.max(initial=0)) + 1)[window]
    return Said(score >= threshold, score, len(probabilities))


def detector(samples: Int16, rate_hz: int, *, silero: SileroVad, parameters: VadParameters | None = None) -> Said:
    """The spans of our detector, fed with 200 ms at a time."""
    ours = VoiceActivityDetector(rate_hz, silero, parameters or VadParameters())
    step = rate_hz * FEED_MS // 1000
    spans = [span for start in range(0, len(samples), step) for span in ours.feed(samples[start : start + step])]
    speech = np.zeros(frames_of(samples, rate_hz), np.bool_)
    for span in spans + ours.finish():
        speech[span.start_sample * FRAMES_PER_S // rate_hz : span.end_sample * FRAMES_PER_S // rate_hz] = True
    return Said(speech, None, ours.windows_judged)


def readout_scores(samples: Int16, rate_hz: int, silero: SileroVad) -> Float64:
    """The probability of speech that our detector reads from silero for each 10 ms, without its gate and rules for spans."""
    state, readout, parts = silero.initial_state(rate_hz), Readout(rate_hz), list[float]()
    for windows in _blocks(samples, rate_hz):
        heard = silero.listen(windows, state)
        state = heard.state
        parts += readout.read(heard.hidden)
    return _fitted(np.array(parts + readout.last())[LAG_FRAMES:], frames_of(samples, rate_hz))


def _blocks(samples: Int16, rate_hz: int) -> list[Float32Array]:
    """Windows by fives, the last ones padded with zeros."""
    size = WINDOW_SAMPLES[rate_hz] * BLOCK_WINDOWS
    padded = np.pad(samples, (0, -len(samples) % size)).astype(np.float32) / _FULL_SCALE
    return list(padded.reshape(-1, BLOCK_WINDOWS, WINDOW_SAMPLES[rate_hz]))


def _fitted(values: Float64, size: int) -> Float64:
    """As many values, the last one repeated where some are wanting; zeros when there is none."""
    if not len(values):
        return np.zeros(size)
    return np.pad(values[:size], (0, max(0, size - len(values))), "edge")


def corpora_of(recordings: list[LabelledRecording]) -> list[str]:
    """The corpora in the order of the list."""
    return list(dict.fromkeys(one.corpus for one in recordings))
