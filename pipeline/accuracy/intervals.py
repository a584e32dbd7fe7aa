"""Confidence intervals by bootstrap over speakers: recordings of one speaker are not independent of each other.

A resample draws as many speakers as there are, with replacement; an example weighs as often as its speaker was drawn (Bolle,
Ratha and Pankanti 2004, the subsets bootstrap), a trial of two speakers as the product of both (Owen 2007, the pigeonhole
bootstrap, which errs to the wide side). Intervals are percentiles; they cover the choice of speakers, not that of corpora.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.accuracy.defaults import RESAMPLES, SEED
from pipeline.accuracy.evaluation import Measured

Float64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_MIN_SPEAKERS = 5  # with fewer an interval says nothing
_MIN_KNOWN = 0.5  # nor with more resamples than this left out


def measured(
    statistic: Callable[[Float64], float],
    speaker: Ints,
    other: Ints | None = None,
    *,
    scale: float = 1.0,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> Measured:
    """A statistic of weights (n,) with its 95 % interval; both times `scale`.

    `speaker` numbers each example's speaker (n,), `other` the second speaker of each trial; the numbers are names, gaps between
    them mean nothing. Resamples without any example of some class, on which the statistic is not defined (NaN), are left out.
    Without examples, or where the statistic is not defined on all of them, the value is NaN.
    """
    if not len(speaker):
        return Measured(math.nan)
    value = float(statistic(np.ones(len(speaker))) * scale)
    numbers = np.unique(np.concatenate([speaker, speaker if other is None else other]))
    if len(numbers) < _MIN_SPEAKERS or resamples == 0 or not math.isfinite(value):
        return Measured(value)
    speaker = np.searchsorted(numbers, speaker)
    other = None if other is None else np.searchsorted(numbers, other)
    generator = np.random.default_rng(seed)
    values = np.array([statistic(_weights(generator, len(numbers), speaker, other)) for _ in range(resamples)])
    known = values[np.isfinite(values)] * scale
    if len(known) < _MIN_KNOWN * resamples:
        return Measured(value)
    low, high = np.quantile(known, [0.025, 0.975])
    return Measured(value, float(low), float(high))


def _weights(generator: np.random.Generator, count: int, speaker: Ints, other: Ints | None) -> Float64:
    drawn = np.bincount(generator.integers(0, count, count), minlength=count).astype(np.float64)
    if other is None:
        return drawn[speaker]
    weight: Float64 = np.where(speaker == other, drawn[speaker], drawn[speaker] * drawn[other])
    return weight
