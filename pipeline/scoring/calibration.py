"""From voiceprints to calibrated log-likelihood ratios (natural log): 0 is undecided.

Both back-ends are logistic regressions at equal priors, so that their log-odds are log-likelihood ratios (Brümmer and du Preez
2006, "Application-independent evaluation of speaker detection"). How much speech there was is among their inputs as a quality
measure (Mandasari et al. 2013, "Quality measure functions for calibration of speaker recognition systems in various duration
conditions"): short speech makes voices of one speaker less alike, and a telephone those of two speakers more.
`training/train_backends.py` makes their weights, `callstream calibrate` a profile of one's own.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from typing import Annotated, Final, Generic, NamedTuple, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from pipeline.scoring.voiceprint import DIMENSION, SPEAKER_DIMENSION, VOICE_DIMENSION, Voiceprint

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

COMPARISON_INPUTS: Final = 7
GENDER_INPUTS: Final = 3
_SPEECH_S: Final = (0.3, 60.0)  # what the back-ends have seen; less or more counts as these


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a back-end's weights were made from."""

    script: str
    date: str
    seed: int
    data: dict[str, int]  # recordings of each corpus
    counts: dict[str, int]  # training examples or trials of each class
    regularisation: float


Number = Annotated[float, Meta(ge=-1e6, le=1e6)]  # so that scores are finite
SpeakerVector = Annotated[list[Number], Meta(min_length=SPEAKER_DIMENSION, max_length=SPEAKER_DIMENSION)]
VoiceVector = Annotated[list[Number], Meta(min_length=VOICE_DIMENSION, max_length=VOICE_DIMENSION)]
Vector = TypeVar("Vector")


class BandMeans(msgspec.Struct, Generic[Vector], frozen=True, forbid_unknown_fields=True):
    """What voiceprints of a band have in common, whoever speaks."""

    wide: Vector
    telephone: Vector


class ComparisonBackend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Same speaker against another.

    Each voiceprint has a narrowness between 0 (wide band) and 1 (telephone): sigmoid(narrow_direction · speaker embedding +
    narrow_bias). The mean of that band, mixed from both, is subtracted from its two embeddings, which are then brought to unit
    length again. With the cosines `s` (speaker, CAM++) and `v` (voice, GE2E) of both sides, the sum `u` of their shortness
    1/sqrt(seconds of speech), the sum `n` and the product `p` of their narrowness:
    LLR = weights · (s, v, u, u·s, u·v, n, p) + bias.
    """

    narrow_direction: SpeakerVector
    narrow_bias: Number
    speaker_means: BandMeans[SpeakerVector]
    voice_means: BandMeans[VoiceVector]
    weights: Annotated[list[Number], Meta(min_length=COMPARISON_INPUTS, max_length=COMPARISON_INPUTS)]
    bias: Number
    provenance: Provenance


class GenderBackend(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Male against female.

    With the score x = direction · embedding and the shortness u: LLR = weights · (x, u·x, u) + bias.
    """

    direction: Annotated[list[Number], Meta(min_length=DIMENSION, max_length=DIMENSION)]
    weights: Annotated[list[Number], Meta(min_length=GENDER_INPUTS, max_length=GENDER_INPUTS)]
    bias: Number
    provenance: Provenance


# Made here, once: msgspec 0.22 crashes when two threads are the first to read a type.
_COMPARISON = msgspec.json.Decoder(ComparisonBackend)
_GENDER = msgspec.json.Decoder(GenderBackend)


@functools.cache
def built_in_comparison() -> ComparisonBackend:
    """The comparison back-end that the package ships."""
    return _COMPARISON.decode(_weights("comparison"))


@functools.cache
def built_in_gender() -> GenderBackend:
    """The gender back-end that the package ships."""
    return _GENDER.decode(_weights("gender"))


def _weights(name: str) -> bytes:
    return resources.files("pipeline.scoring").joinpath("weights", f"{name}.json").read_bytes()


def silent(voiceprints: Sequence[Voiceprint]) -> npt.NDArray[np.bool_]:
    """Which of them say nothing of a voice (n,): no speech, or an embedding that is all zeros."""
    matrix = np.stack([one.embedding for one in voiceprints])
    whole = matrix[:, :SPEAKER_DIMENSION].any(axis=1) & matrix[:, SPEAKER_DIMENSION:].any(axis=1)
    spoken: npt.NDArray[np.bool_] = np.array([one.speech_s > 0 for one in voiceprints]) & whole
    return np.logical_not(spoken)


def shortness(voiceprints: Sequence[Voiceprint]) -> Float64:
    """1/sqrt(seconds of speech) of each: (n,)."""
    speech_s: Float64 = np.clip([one.speech_s for one in voiceprints], *_SPEECH_S)
    short: Float64 = speech_s**-0.5
    return short


class Side(NamedTuple):
    """One side of comparisons: unit embeddings without their means, (n, 192) and (n, 256); the others (n,)."""

    speaker: Float32
    voice: Float32
    short: Float32
    narrow: Float32
    silent: npt.NDArray[np.bool_]


def side(voiceprints: Sequence[Voiceprint], backend: ComparisonBackend) -> Side:
    """What of the voiceprints is compared."""
    matrix = np.stack([one.embedding for one in voiceprints])
    speaker, voice = matrix[:, :SPEAKER_DIMENSION], matrix[:, SPEAKER_DIMENSION:]
    odds = np.einsum("ij,j->i", speaker, np.array(backend.narrow_direction, np.float32)) + np.float32(backend.narrow_bias)
    narrow: Float32 = (1 / (1 + np.exp(-odds))).astype(np.float32)
    return Side(
        _unit_rows(speaker - _mixed(backend.speaker_means, narrow)),
        _unit_rows(voice - _mixed(backend.voice_means, narrow)),
        shortness(voiceprints).astype(np.float32),
        narrow,
        silent(voiceprints),
    )


def _mixed(means: BandMeans[list[float]], narrow: Float32) -> Float32:
    share = narrow[:, np.newaxis]
    mixed: Float32 = (1 - share) * np.array(means.wide, np.float32) + share * np.array(means.telephone, np.float32)
    return mixed


def _unit_rows(matrix: Float32) -> Float32:
    lengths = np.linalg.norm(matrix, axis=1, keepdims=True)
    rows: Float32 = (matrix / np.maximum(lengths, 1e-9)).astype(np.float32)
    return rows


def gender_llr(voiceprints: Sequence[Voiceprint], backend: GenderBackend | None = None) -> Float64:
    """Male against female: n voiceprints -> float64 (n,); positive is male, 0 where there is no speech."""
    backend = backend or built_in_gender()
    matrix = np.stack([one.embedding for one in voiceprints]).astype(np.float64)
    # einsum sums every row in the same order whatever their number, which BLAS does not
    score = np.einsum("ij,j->i", matrix, np.array(backend.direction))
    u = shortness(voiceprints)
    on_score, on_short_score, on_short = backend.weights
    llr = score * (on_score + on_short_score * u) + on_short * u + backend.bias
    return np.where(silent(voiceprints), 0.0, llr)
