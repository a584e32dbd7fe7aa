"""Log-likelihood ratios of many pairs of voiceprints: little more than the matrix product of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.scoring.calibration import BandMeans, ComparisonBackend, Side, built_in_comparison, shortness, side, silent
from pipeline.scoring.voiceprint import SPEAKER_DIMENSION, Voiceprint

Float32 = npt.NDArray[np.float32]

_BLOCK: Final = 1 << 18  # scores at once, so that they are still in the processor's cache when they are touched again


def comparison_llr(a: Sequence[Voiceprint], b: Sequence[Voiceprint], backend: ComparisonBackend | None = None) -> Float32:
    """Same speaker against another: m voiceprints and n -> float32 (n, m), rows are b; 0 where one says nothing of a voice.

    The same pair may differ by 1e-4 in lists of other lengths: the order in which a matrix product sums depends on its shape.
    """
    backend = backend or built_in_comparison()
    if len(a) > len(b):
        return np.ascontiguousarray(_long_by_short(a, side(b, backend), backend).T)
    return _long_by_short(b, side(a, backend), backend)


class _Embedding(NamedTuple):
    """One embedding of the short list, with what subtracting a mean from the long list's takes.

    `factors` (d, m + 2) holds the short list without means, of unit length, and the means of both bands; `of_means` (2, m) and
    `means` (2, 2) their products with the means; `weight` and `short` what the cosine is multiplied by.
    """

    factors: Float32
    of_means: Float32
    means: Float32
    weight: np.float32
    short: np.float32


def _embedding(columns: Float32, means: BandMeans[list[float]], weight: float, short: float) -> _Embedding:
    both = np.array([means.wide, means.telephone], np.float32)
    factors = np.ascontiguousarray(np.concatenate([columns, both]).T)
    return _Embedding(factors, both @ columns.T, both @ both.T, np.float32(weight), np.float32(short))


def _long_by_short(rows: Sequence[Voiceprint], columns: Side, backend: ComparisonBackend) -> Float32:
    """The means are subtracted from the products, not from the long list: that would take longer than the product."""
    speaker_weight, voice_weight, _, speaker_short, voice_short, *_ = backend.weights
    speaker = _embedding(columns.speaker, backend.speaker_means, speaker_weight, speaker_short)
    voice = _embedding(columns.voice, backend.voice_means, voice_weight, voice_short)
    matrix, short = np.stack([one.embedding for one in rows]), shortness(rows).astype(np.float32)
    llr = np.empty((len(rows), len(columns.short)), np.float32)
    step = max(1, _BLOCK // len(columns.short))
    for begin in range(0, len(rows), step):
        part = slice(begin, begin + step)
        halves = matrix[part, :SPEAKER_DIMENSION], matrix[part, SPEAKER_DIMENSION:]
        narrow = _narrow(halves[0], backend)
        share = np.stack([1 - narrow, narrow], axis=1)
        llr[part] = _weighted(halves[0], speaker, share, short[part], columns.short)
        llr[part] += _weighted(halves[1], voice, share, short[part], columns.short)
        _add_rest(llr[part], narrow, short[part], columns, backend)
    llr[silent(rows, matrix)] = 0.0
    llr[:, columns.silent] = 0.0
    return llr


def _narrow(speaker: Float32, backend: ComparisonBackend) -> Float32:
    odds = speaker @ np.array(backend.narrow_direction, np.float32) + np.float32(backend.narrow_bias)
    narrow: Float32 = (1 / (1 + np.exp(-odds))).astype(np.float32)
    return narrow


def _weighted(rows: Float32, one: _Embedding, share: Float32, short: Float32, column_short: Float32) -> Float32:
    """Cosines (n, m) of rows of unit length less the mean of their band, times their weight.

    Of a row x with mean m: (x - m)·y = x·y - m·y, and |x - m|² = 1 - 2 x·m + |m|².
    """
    products = rows @ one.factors
    of_means = products[:, -2:]
    squares = 1 - 2 * (share * of_means).sum(axis=1) + np.einsum("ij,jk,ik->i", share, one.means, share)
    cosines = products[:, :-2]
    cosines -= share @ one.of_means
    weights = np.add.outer(one.weight + one.short * short, one.short * column_short)
    weights /= np.sqrt(np.maximum(squares, 1e-9))[:, np.newaxis]
    cosines *= weights
    return cosines


def _add_rest(llr: Float32, narrow: Float32, short: Float32, columns: Side, backend: ComparisonBackend) -> None:
    """What does not depend on how alike they are."""
    _, _, on_short, _, _, on_narrow, on_both = (np.float32(weight) for weight in backend.weights)
    of_row = on_short * short + on_narrow * narrow
    of_column = on_short * columns.short + on_narrow * columns.narrow + np.float32(backend.bias)
    llr += np.stack([of_row, np.ones_like(short), on_both * narrow], axis=1) @ np.stack(
        [np.ones_like(of_column), of_column, columns.narrow]
    )
