"""Log-likelihood ratios of many pairs of voiceprints: little more than the matrix product of their embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.models.products import product
from pipeline.scoring.calibration import BandMeans, ComparisonBackend, Side, built_in_comparison, shortness, side
from pipeline.scoring.voiceprint import DIMENSION, SPEAKER_DIMENSION, VOICE_DIMENSION, Voiceprint

Float32 = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_BLOCK: Final = 1 << 19  # scores of one product: with fewer the calls themselves cost, more leave the processor's cache
_PART: Final = 1 << 17  # of these what is weighed at once: that is read and written several times
_READ_ROWS: Final = 256  # voiceprints put into matrices at once, so that they are read from the cache the second time


class Rows(NamedTuple):
    """Voiceprints of the longer list as they are: embeddings (n, 192) and (n, 256) without gaps in memory, shortness (n,)."""

    speaker: Float32
    voice: Float32
    short: Float32

    def part(self, which: slice) -> Rows:
        """Some of them."""
        return Rows(self.speaker[which], self.voice[which], self.short[which])


def comparison_llr(a: Sequence[Voiceprint], b: Sequence[Voiceprint], backend: ComparisonBackend | None = None) -> Float32:
    """Same speaker against another: m voiceprints and n -> float32 (n, m), rows are b; 0 where one says nothing of a voice.

    The same pair may differ by 1e-4 in lists of other lengths: the order in which a matrix product sums depends on its shape.
    """
    backend = backend or built_in_comparison()
    if len(a) > len(b):
        return np.ascontiguousarray(_long_by_short(a, side(b, backend), backend).T)
    return _long_by_short(b, side(a, backend), backend)


def _long_by_short(voiceprints: Sequence[Voiceprint], columns: Side, backend: ComparisonBackend) -> Float32:
    llr = matrix_llr(rows_of(voiceprints), columns, backend)
    llr[[one.speech_s <= 0 for one in voiceprints]] = 0.0
    return llr


def rows_of(voiceprints: Sequence[Voiceprint]) -> Rows:
    """What of the voiceprints is scored."""
    speaker = np.empty((len(voiceprints), SPEAKER_DIMENSION), np.float32)
    voice = np.empty((len(voiceprints), VOICE_DIMENSION), np.float32)
    for begin in range(0, len(voiceprints), _READ_ROWS):  # a second copy of a part, not of all of them
        part = slice(begin, begin + _READ_ROWS)
        embeddings = np.concatenate([one.embedding for one in voiceprints[part]]).reshape(-1, DIMENSION)
        speaker[part], voice[part] = np.hsplit(embeddings, [SPEAKER_DIMENSION])
    return Rows(speaker, voice, shortness(voiceprints).astype(np.float32))


def matrix_llr(rows: Rows, columns: Side, backend: ComparisonBackend) -> Float32:
    """Rows (n) against columns (m): float32 (n, m), little more than the products of their embeddings.

    The bands' means are subtracted from the products and not from the rows, which would take longer when there are few columns:
    of a row x of unit length with mean m, (x - m)·y = x·y - m·y, and |x - m|² = 1 - 2 x·m + |m|².
    """
    scorer, shape = _Scorer(columns, backend), (len(rows.short), len(columns.short))
    step = max(1, _BLOCK // max(1, shape[1]))
    llr, room = np.empty(shape, np.float32), scorer.room(min(step, shape[0]))
    for begin in range(0, len(llr), step):
        part = slice(begin, begin + step)
        scorer.score(rows.part(part), llr[part], room)
    llr[:, columns.silent] = 0.0
    return llr


class _Embedding(NamedTuple):
    """One embedding of the short list, with what subtracting a mean from the long list's takes.

    `columns` (d, m + k) are of unit length and without means, behind them the means of both bands, and what else rows are
    multiplied with; `of_means` (2, m) and `squares` (2, 2) are products of the means with the columns and with each other. A
    cosine is multiplied by `weight`, and by `on_short` times the sum of both shortnesses, those of columns being in `by_short`
    (2, m).
    """

    columns: Float32
    of_means: Float32
    squares: Float32
    weight: np.float32
    on_short: np.float32
    by_short: Float32


def _embedding(
    columns: Float32, short: Float32, means: BandMeans[list[float]], weight: float, on_short: float, *behind: list[float]
) -> _Embedding:
    both = np.array([means.wide, means.telephone], np.float32)
    by_short = np.stack([np.ones_like(short), np.float32(on_short) * short])
    parts = np.column_stack([columns.T, both.T, *np.array(behind, np.float32)]), both @ columns.T, both @ both.T
    return _Embedding(*parts, np.float32(weight), np.float32(on_short), by_short)


class _Room(NamedTuple):
    """Memory that every block is computed in: two products (n, m + k), and weights of as many rows as make a part."""

    speakers: Float32
    voices: Float32
    weights: Float32


class _Scorer:
    """Scores blocks of the long list against the whole short one."""

    def __init__(self, columns: Side, backend: ComparisonBackend) -> None:
        speaker, voice, on_short, speaker_short, voice_short, on_narrow, on_both = backend.weights
        probe = backend.narrow_direction
        self._speaker = _embedding(columns.speaker, columns.short, backend.speaker_means, speaker, speaker_short, probe)
        self._voice = _embedding(columns.voice, columns.short, backend.voice_means, voice, voice_short)
        self._narrow_bias = np.float32(backend.narrow_bias)
        self._on_short, self._on_narrow, self._on_both = (np.float32(one) for one in (on_short, on_narrow, on_both))
        of_column = self._on_short * columns.short + self._on_narrow * columns.narrow + np.float32(backend.bias)
        rest = np.stack([np.ones_like(of_column), of_column, columns.narrow])
        self._beside = np.concatenate([_beside_columns(self._speaker), _beside_columns(self._voice), rest])

    def room(self, count: int) -> _Room:
        """For blocks of up to so many rows."""
        speakers, voices = (np.empty((count, one.columns.shape[1]), np.float32) for one in (self._speaker, self._voice))
        columns = self._beside.shape[1]
        return _Room(speakers, voices, np.empty((min(count, max(1, _PART // max(1, columns))), columns), np.float32))

    def score(self, rows: Rows, llr: Float32, room: _Room) -> None:
        """Into `llr` (n, m)."""
        count, columns = llr.shape
        speakers = product(rows.speaker, self._speaker.columns, room.speakers[:count])
        voices = product(rows.voice, self._voice.columns, room.voices[:count])
        # without gaps: all of them are read several times
        of_speakers, of_voices = speakers[:, columns:].T.copy(), voices[:, columns:].T.copy()
        speaker, voice, beside = self._of_rows(rows.short, of_speakers, of_voices)
        cosines = (self._speaker, speaker, speakers), (self._voice, voice, voices)
        for begin in range(0, count, len(room.weights)):
            part = slice(begin, begin + len(room.weights))
            scores = np.dot(beside.T[part], self._beside, out=llr[part])
            for one, factors, products in cosines:
                weights = np.dot(factors.T[part], one.by_short, out=room.weights[: len(scores)])
                weights *= products[part, :columns]
                scores += weights
        llr[_zeros(rows.speaker, of_speakers) | _zeros(rows.voice, of_voices)] = 0.0

    def _of_rows(self, short: Float32, of_speakers: Float32, of_voices: Float32) -> tuple[Float32, Float32, Float32]:
        """Factors of both cosines (2, n), and (11, n) what all that is no cosine takes of the rows.

        That is what the means take off, and what does not depend on how alike they are. `of_speakers` (3, n) and `of_voices`
        (2, n) are products of the rows with the means, behind them with what tells the band.
        """
        *of_means, odds = of_speakers
        narrow = (1 / (1 + np.exp(-(odds + self._narrow_bias)))).astype(np.float32)
        share = np.stack([1 - narrow, narrow])
        speaker = _factors(self._speaker, np.stack(of_means), share, short)
        voice = _factors(self._voice, of_voices, share, short)
        alone = self._on_short * short + self._on_narrow * narrow
        of_row = np.stack([alone, np.ones_like(narrow), self._on_both * narrow])
        return speaker, voice, np.concatenate([_beside_rows(speaker, share), _beside_rows(voice, share), of_row])


def _factors(one: _Embedding, of_means: Float32, share: Float32, short: Float32) -> Float32:
    """What the cosines of each row are multiplied with, (2, n): alone, and for each column's shortness.

    `of_means` (2, n) are the products of the rows with the means.
    """
    squares = 1 + (share * (one.squares @ share - 2 * of_means)).sum(axis=0)
    lengths = 1 / np.sqrt(np.maximum(squares, 1e-9))
    return np.stack([(one.weight + one.on_short * short) * lengths, lengths])


def _beside_rows(factors: Float32, share: Float32) -> Float32:
    """Factors (2, n) by shares of means (2, n), each with each: (4, n)."""
    return np.concatenate([factors[0] * share, factors[1] * share])


def _beside_columns(one: _Embedding) -> Float32:
    """What these are multiplied with: (4, m), to be taken off."""
    return np.concatenate([-one.by_short[0] * one.of_means, -one.by_short[1] * one.of_means])


def _zeros(rows: Float32, of_means: Float32) -> Bools:
    """Which rows hold nothing but zeros (n,); their products with the means, (2 or more, n), say which to look at."""
    found: Bools = (of_means[0] == 0) & (of_means[1] == 0)
    found[found] = np.logical_not(rows[found].any(axis=1))
    return found
