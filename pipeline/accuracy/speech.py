"""The speech of a recording as a worker hears it: carried by a band, found by voice activity detection, cut into utterances."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.accuracy.audio import NARROW_RATE_HZ, SAMPLE_RATE_HZ, Band, Float32, resample
from pipeline.audio.g711 import decode_mulaw, encode_mulaw
from pipeline.audio.resampling import to_wide
from pipeline.audio.vad import VoiceActivityDetector
from pipeline.models.silero import SileroVad

T = TypeVar("T")
Int16 = npt.NDArray[np.int16]

_FULL_SCALE = 32_768


def as_call(samples: Float32, band: Band) -> tuple[Int16, int]:
    """What a call would carry of float32 (n,) at 16 kHz: int16 and its rate, 8 kHz through G.711 for the telephone."""
    rate_hz = NARROW_RATE_HZ if band is Band.TELEPHONE else SAMPLE_RATE_HZ
    sent = resample(samples, SAMPLE_RATE_HZ, rate_hz)
    whole = np.clip(np.round(sent * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)
    return (decode_mulaw(encode_mulaw(whole)) if band is Band.TELEPHONE else whole), rate_hz


def utterances(samples: Float32, band: Band, silero: SileroVad) -> list[Float32]:
    """The utterances of a recording (float32 at 16 kHz) as extraction gets them: float32 (n,) in [-1, 1] at 16 kHz each."""
    sent, rate_hz = as_call(samples, band)
    detector = VoiceActivityDetector(rate_hz, silero)
    spans = [*detector.feed(sent), *detector.finish()]
    return [to_wide(sent[span.start_sample : span.end_sample], rate_hz) for span in spans]


def first_seconds(heard: list[Float32], speech_s: float) -> list[Float32]:
    """The first so many seconds of speech; the last utterance is cut."""
    kept, left = [], round(speech_s * SAMPLE_RATE_HZ)
    for utterance in heard:
        if left <= 0:
            break
        kept.append(utterance[:left])
        left -= len(kept[-1])
    return kept


def enough(heard: Iterable[T], enough_s: float, seconds: Callable[[T], float]) -> list[T]:
    """The utterances that agents take in before a channel has said enough; all of them for 0."""
    kept, before_s = [], 0.0
    for utterance in heard:
        if enough_s and before_s >= enough_s:
            break
        kept.append(utterance)
        before_s += seconds(utterance)
    return kept


def length_s(heard: list[Float32]) -> float:
    """Seconds of speech."""
    return sum(map(len, heard)) / SAMPLE_RATE_HZ
