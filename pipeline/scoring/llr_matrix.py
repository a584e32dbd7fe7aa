"""Log-likelihood ratios of many pairs of voiceprints: little more than the matrix product of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.scoring.calibration import BandMeans, ComparisonBackend, Side, built_in_comparison, shortness, side
from pipeline.scoring.voiceprint import SPEAKER_DIMENSION, Voiceprint

Float32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_BLOCK: Final = 1 << 18  # scores at once, so that they are still in the processor's cache when they are touched again
_MAX_BLOCK_ROWS: Final = 1024  # so are their voiceprints
_MEANS: Final = 2  # of wide band and of telephones


def comparison_llr(a: Sequence[Voiceprint], b: Sequence[Voiceprint], backend: ComparisonBackend | None = None) -> Float32:
    """Same speaker against another: m voiceprints and n -> float32 (n, m), rows are b; 0 where one says nothing of a voice.

    The same pair may differ by 1e-4 in lists of other lengths: the order in which a matrix product sums depends on its shape.
    """
    backend = backend or built_in_comparison()
    if len(a) > len(b):
        return np.ascontiguousarray(_long_by_short(a, side(b, backend), backend).T)
    return _long_by_short(b, side(a, backend), backend)


def _long_by_short(rows: Sequence[Voiceprint], columns: Side, backend: ComparisonBackend) -> Float32:
    matrix = np.concatenate([one.embedding for one in rows]).reshape(len(rows), -1)
    short = shortness(rows).astype(np.float32)
    llr = matrix_llr(matrix, short, columns, backend)
    llr[[one.speech_s <= 0 for one in rows]] = 0.0
    return llr


def matrix_llr(matrix: Float32, short: Float32, columns: Side, backend: ComparisonBackend) -> Float32:
    """Rows (n, 448) with their shortness (n,) against columns: float32 (n, m), little more than one matrix product.

    The bands' means are subtracted from the products and not from the rows, which would take longer when there are few columns:
    of a row x of unit length with mean m, (x - m)·y = x·y - m·y, and |x - m|² = 1 - 2 x·m + |m|².
    """
    scorer, count = _Scorer(columns, backend), len(columns.short)
    step = max(1, min(_MAX_BLOCK_ROWS, _BLOCK // max(1, count), len(matrix)))
    llr = np.empty((len(matrix), count), np.float32)
    room = _Room(*(np.empty((step, count + more), np.float32) for more in (_MEANS + 1, _MEANS, 0)))
    for begin in range(0, len(matrix), step):
        part = slice(begin, begin + step)
        size = len(matrix[part])
        scorer.score(matrix[part], short[part], llr[part], _Room(*(one[:size] for one in room)))
    llr[:, columns.silent] = 0.0
    return llr


class _Room(NamedTuple):
    """Memory for one block, used again: products (n, m + 3) and (n, m + 2), and (n, m)."""

    speaker: Float32
    voice: Float32
    factors: Float32


class _Embedding(NamedTuple):
    """One embedding of the short list, with what subtracting a mean from the long list's takes.

    `columns` (m + 2, d) are of unit length and without means, behind them the means of both bands; `of_means` (2, m) and
    `squares` (2, 2) are products of the means with the columns and with each other. A cosine is multiplied by `weight`, and by
    `on_short` times the sum of both shortnesses, those of columns being in `by_short` (2, m).
    """

    columns: Float32
    of_means: Float32
    squares: Float32
    weight: np.float32
    on_short: np.float32
    by_short: Float32


def _embedding(columns: Float32, short: Float32, means: BandMeans[list[float]], weight: float, on_short: float) -> _Embedding:
    both = np.array([means.wide, means.telephone], np.float32)
    by_short = np.stack([np.ones_like(short), np.float32(on_short) * short])
    parts = np.concatenate([columns, both]), both @ columns.T, both @ both.T
    return _Embedding(*parts, np.float32(weight), np.float32(on_short), by_short)


class _Scorer:
    """Scores blocks of the long list against the whole short one."""

    def __init__(self, columns: Side, backend: ComparisonBackend) -> None:
        speaker, voice, on_short, speaker_short, voice_short, on_narrow, on_both = backend.weights
        self._speaker = _embedding(columns.speaker, columns.short, backend.speaker_means, speaker, speaker_short)
        self._voice = _embedding(columns.voice, columns.short, backend.voice_means, voice, voice_short)
        direction = np.array([backend.narrow_direction], np.float32)
        self._probed = np.concatenate([self._speaker.columns, direction])
        self._narrow_bias = np.float32(backend.narrow_bias)
        self._on_short, self._on_narrow, self._on_both = (np.float32(one) for one in (on_short, on_narrow, on_both))
        of_column = self._on_short * columns.short + self._on_narrow * columns.narrow + np.float32(backend.bias)
        rest = np.stack([np.ones_like(of_column), of_column, columns.narrow])
        self._beside = np.concatenate([_beside_columns(self._speaker), _beside_columns(self._voice), rest])

    def score(self, matrix: Float32, short: Float32, llr: Float32, room: _Room) -> None:
        """Into `llr` (n, m); what is in the room is overwritten."""
        np.dot(matrix[:, :SPEAKER_DIMENSION], self._probed.T, out=room.speaker)
        np.dot(matrix[:, SPEAKER_DIMENSION:], self._voice.columns.T, out=room.voice)
        narrow = (1 / (1 + np.exp(-(room.speaker[:, -1] + self._narrow_bias)))).astype(np.float32)
        share = np.stack([1 - narrow, narrow])
        speaker = _factors(self._speaker, room.speaker, share, short)
        voice = _factors(self._voice, room.voice, share, short)
        of_row = np.stack([self._on_short * short + self._on_narrow * narrow, np.ones_like(short), self._on_both * narrow])
        # all that is no cosine in one product: what the means take off, and what does not depend on how alike they are
        beside = np.concatenate([_beside_rows(speaker, share), _beside_rows(voice, share), of_row])
        np.dot(beside.T, self._beside, out=llr)
        for one, factors, products in ((self._speaker, speaker, room.speaker), (self._voice, voice, room.voice)):
            weights = np.dot(factors.T, one.by_short, out=room.factors)
            weights *= products[:, : llr.shape[1]]
            llr += weights
        llr[_zeros(matrix[:, :SPEAKER_DIMENSION], room.speaker) | _zeros(matrix[:, SPEAKER_DIMENSION:], room.voice)] = 0.0


def _factors(one: _Embedding, products: Float32, share: Float32, short: Float32) -> Float32:
    """What the cosines of each row are multiplied with, (2, n): alone, and for each column's shortness."""
    count = one.of_means.shape[1]
    of_means = products[:, count : count + _MEANS].T
    squares = 1 + (share * (one.squares @ share - 2 * of_means)).sum(axis=0)
    lengths = 1 / np.sqrt(np.maximum(squares, 1e-9))
    return np.stack([(one.weight + one.on_short * short) * lengths, lengths])


def _beside_rows(factors: Float32, share: Float32) -> Float32:
    """Factors (2, n) by shares of means (2, n), each with each: (4, n)."""
    return np.concatenate([factors[0] * share, factors[1] * share])


def _beside_columns(one: _Embedding) -> Float32:
    """What these are multiplied with: (4, m), to be taken off."""
    return np.concatenate([-one.by_short[0] * one.of_means, -one.by_short[1] * one.of_means])


def _zeros(rows: Float32, products: Float32) -> Bools:
    """Which rows hold nothing but zeros (n,); their products with the means say which to look at."""
    found: Bools = (products[:, -1] == 0) & (products[:, -2] == 0)
    found[found] = np.logical_not(rows[found].any(axis=1))
    return found
