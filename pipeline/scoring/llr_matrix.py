"""Log-likelihood ratios of many pairs of voiceprints: little more than the matrix product of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.scoring.calibration import BandMeans, ComparisonBackend, Side, built_in_comparison, shortness, side
from pipeline.scoring.voiceprint import SPEAKER_DIMENSION, VOICE_DIMENSION, Voiceprint

Float32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_BLOCK: Final = 1 << 18  # scores at once, so that they are still in the processor's cache when they are touched again
_MAX_BLOCK_ROWS: Final = 1024  # so are their voiceprints


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
    voice, scratch = (np.empty((step, count), np.float32) for _ in range(2))
    for begin in range(0, len(matrix), step):
        part = slice(begin, begin + step)
        size = len(matrix[part])
        scorer.score(matrix[part], short[part], llr[part], voice[:size], scratch[:size])
    llr[:, columns.silent] = 0.0
    return llr


class _Embedding(NamedTuple):
    """One embedding of the short list, with what subtracting a mean from the long list's takes.

    `columns` (d, m) are of unit length and without means; `probes` (d, 3) are the means of both bands and the direction of
    narrowness; `of_means` (2, m) and `squares` (2, 2) products of the means with the columns and with each other. A cosine is
    multiplied by `weight`, and by `on_short` times the sum of both shortnesses, those of columns being in `by_short` (2, m).
    """

    columns: Float32
    probes: Float32
    of_means: Float32
    squares: Float32
    weight: np.float32
    on_short: np.float32
    by_short: Float32


def _embedding(
    columns: Float32, short: Float32, means: BandMeans[list[float]], direction: Sequence[float], weight: float, on_short: float
) -> _Embedding:
    both = np.array([means.wide, means.telephone], np.float32)
    probes = np.array([means.wide, means.telephone, direction], np.float32)
    by_short = np.stack([np.ones_like(short), np.float32(on_short) * short])
    of_columns = np.ascontiguousarray(columns.T), np.ascontiguousarray(probes.T), both @ columns.T
    return _Embedding(*of_columns, both @ both.T, np.float32(weight), np.float32(on_short), by_short)


class _Scorer:
    """Scores blocks of the long list against the whole short one."""

    def __init__(self, columns: Side, backend: ComparisonBackend) -> None:
        speaker, voice, on_short, speaker_short, voice_short, on_narrow, on_both = backend.weights
        direction, none = backend.narrow_direction, [0.0] * VOICE_DIMENSION
        self._speaker = _embedding(columns.speaker, columns.short, backend.speaker_means, direction, speaker, speaker_short)
        self._voice = _embedding(columns.voice, columns.short, backend.voice_means, none, voice, voice_short)
        self._narrow_bias = np.float32(backend.narrow_bias)
        self._on_short, self._on_narrow, self._on_both = (np.float32(one) for one in (on_short, on_narrow, on_both))
        of_column = self._on_short * columns.short + self._on_narrow * columns.narrow + np.float32(backend.bias)
        self._rest = np.stack([np.ones_like(of_column), of_column, columns.narrow])

    def score(self, matrix: Float32, short: Float32, llr: Float32, voice: Float32, scratch: Float32) -> None:
        """Into `llr`; what is in `voice` and `scratch`, of its shape, is overwritten."""
        halves = matrix[:, :SPEAKER_DIMENSION], matrix[:, SPEAKER_DIMENSION:]
        probed = halves[0] @ self._speaker.probes, halves[1] @ self._voice.probes
        narrow = (1 / (1 + np.exp(-(probed[0][:, -1] + self._narrow_bias)))).astype(np.float32)
        share = np.stack([1 - narrow, narrow], axis=1)
        _weighted(halves[0], self._speaker, probed[0][:, :2], share, short, llr, scratch)
        _weighted(halves[1], self._voice, probed[1][:, :2], share, short, voice, scratch)
        llr += voice
        # what does not depend on how alike they are
        of_row = np.stack(
            [self._on_short * short + self._on_narrow * narrow, np.ones_like(short), self._on_both * narrow], axis=1
        )
        np.dot(of_row, self._rest, out=scratch)
        llr += scratch
        llr[_zeros(halves[0], probed[0]) | _zeros(halves[1], probed[1])] = 0.0


def _zeros(rows: Float32, probed: Float32) -> Bools:
    """Which rows hold nothing but zeros (n,); what their products with the probes are says which to look at."""
    found: Bools = np.logical_not(probed.any(axis=1))
    found[found] = np.logical_not(rows[found].any(axis=1))
    return found


def _weighted(
    rows: Float32, one: _Embedding, of_means: Float32, share: Float32, short: Float32, out: Float32, scratch: Float32
) -> None:
    """Into `out` (n, m): cosines of rows less the mean of their band, times their weight."""
    squares = 1 - 2 * (share * of_means).sum(axis=1) + np.einsum("ij,jk,ik->i", share, one.squares, share)
    lengths = 1 / np.sqrt(np.maximum(squares, 1e-9))
    np.dot(rows, one.columns, out=out)
    np.dot(share, one.of_means, out=scratch)
    out -= scratch
    np.dot(np.stack([(one.weight + one.on_short * short) * lengths, lengths], axis=1), one.by_short, out=scratch)
    out *= scratch
