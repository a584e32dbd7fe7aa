"""Comparisons of samples, and how well their scores tell one speaker from two."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.accuracy import measures
from pipeline.accuracy.evaluation import Cell, Options
from pipeline.accuracy.intervals import measured
from pipeline.accuracy.sessions import Sample
from pipeline.scoring.calibration import ComparisonBackend, comparison_llr

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

MIN_TARGETS = 20  # with fewer an error rate says nothing
_MAX_OTHERS = 30_000  # trials of two speakers; drawn when there are more, so that intervals take seconds
NOTE = f"Figures are of all targets and of {_MAX_OTHERS:,} non-targets, drawn where there are more."
COLUMNS = ["targets", "non-targets", "EER %", "minDCF(0.01)", "Cllr bits", "min Cllr bits"]


class Trials(NamedTuple):
    """Trials (n,): the log-likelihood ratio, whether it is one speaker, and the number of each side's speaker."""

    llr: Float64
    target: Bools
    speaker_a: Ints
    speaker_b: Ints

    def drawn(self, limit: int, seed: int) -> Trials:
        """All targets, and at most so many others."""
        others = np.flatnonzero(~self.target)
        if len(others) <= limit:
            return self
        kept = np.random.default_rng(seed).choice(others, limit, replace=False)
        index = np.sort(np.concatenate([np.flatnonzero(self.target), kept]))
        return Trials(*(part[index] for part in self))


def within(samples: Sequence[Sample], options: Options) -> Trials:
    """Every two samples of a corpus once."""
    return _joined([_pairs(part, part, options.profile.comparison) for part in _by_corpus(samples)])


def across(samples_a: Sequence[Sample], samples_b: Sequence[Sample], options: Options) -> Trials:
    """Every sample of the one list with every one of the other that is of the same corpus and of another session."""
    other = {part[0].corpus: part for part in _by_corpus(samples_b)}
    backend = options.profile.comparison
    return _joined([_pairs(part, other[part[0].corpus], backend) for part in _by_corpus(samples_a) if part[0].corpus in other])


def _by_corpus(samples: Sequence[Sample]) -> list[list[Sample]]:
    return [[one for one in samples if one.corpus == name] for name in dict.fromkeys(one.corpus for one in samples)]


def _pairs(a: list[Sample], b: list[Sample], backend: ComparisonBackend | None) -> Trials:
    prints_a, prints_b = ([one.voiceprint for one in side] for side in (a, b))
    llr = comparison_llr(prints_a, prints_b, backend).T.astype(np.float64)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(one.speaker for one in [*a, *b]))}
    speaker_a, speaker_b = (np.array([numbers[one.speaker] for one in side], np.int64) for side in (a, b))
    session_a, session_b = (np.array([one.session for one in side], np.int64) for side in (a, b))
    rows, columns = np.triu_indices(len(a), 1) if a is b else np.nonzero(session_a[:, np.newaxis] != session_b)
    left, right = speaker_a[rows], speaker_b[columns]
    return Trials(llr[rows, columns], left == right, left, right)


def _joined(parts: list[Trials]) -> Trials:
    """One after the other; speakers of different corpora are different ones."""
    if not parts:
        return Trials(np.zeros(0), np.zeros(0, np.bool_), np.zeros(0, np.int64), np.zeros(0, np.int64))
    sizes = [int(max(part.speaker_a.max(initial=-1), part.speaker_b.max(initial=-1))) + 1 for part in parts]
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    moved = [
        part._replace(speaker_a=part.speaker_a + begin, speaker_b=part.speaker_b + begin)
        for part, begin in zip(parts, begins.tolist(), strict=True)
    ]
    return Trials(*(np.concatenate(each) for each in zip(*moved, strict=True)))


def figures(trials: Trials, options: Options) -> list[Cell]:
    """The cells of `COLUMNS`; without figures where there are too few trials of either kind."""
    targets, others = int(trials.target.sum()), int((~trials.target).sum())
    if min(targets, others) < MIN_TARGETS:
        return [targets, others, None, None, None, None]
    drawn = trials.drawn(_MAX_OTHERS, options.seed)

    def figure(measure: measures.Measure, scale: float = 1.0) -> Cell:
        def of(weight: Float64) -> float:
            seen = weight > 0
            if not (seen & drawn.target).any() or not (seen & ~drawn.target).any():
                return math.nan
            return measure(drawn.llr, drawn.target, weight)

        return measured(of, drawn.speaker_a, drawn.speaker_b, scale=scale, resamples=options.resamples, seed=options.seed)

    return [
        targets,
        others,
        figure(measures.equal_error_rate, 100.0),
        figure(measures.min_dcf),
        figure(measures.cllr),
        figure(measures.min_cllr),
    ]
