"""Comparisons of samples, and how well their scores tell one speaker from two."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.accuracy import measures
from pipeline.accuracy.evaluation import Cell, Options
from pipeline.accuracy.intervals import measured
from pipeline.accuracy.sessions import Sample
from pipeline.scoring.llr_matrix import comparison_llr

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


Numbers = Mapping[tuple[str, str], int]  # of speakers, by corpus and name


def numbered(samples: Iterable[Sample]) -> Numbers:
    """A number for each speaker, for trials that are put together."""
    names = dict.fromkeys((one.corpus, one.speaker) for one in samples)
    return {name: number for number, name in enumerate(names)}


def within(samples: Sequence[Sample], options: Options, numbers: Numbers | None = None) -> Trials:
    """Every two samples of a corpus once."""
    numbers = numbered(samples) if numbers is None else numbers
    return joined([_pairs(part, part, options, numbers) for part in _by_corpus(samples).values()])


def across(
    samples_a: Sequence[Sample], samples_b: Sequence[Sample], options: Options, numbers: Numbers | None = None
) -> Trials:
    """Every sample of the one list with every one of the other that is of the same corpus and of another session."""
    numbers = numbered([*samples_a, *samples_b]) if numbers is None else numbers
    other = _by_corpus(samples_b)
    parts = [(part, other[name]) for name, part in _by_corpus(samples_a).items() if name in other]
    return joined([_pairs(*sides, options, numbers) for sides in parts])


def _by_corpus(samples: Sequence[Sample]) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    for one in samples:
        found.setdefault(one.corpus, []).append(one)
    return found


def _pairs(a: list[Sample], b: list[Sample], options: Options, numbers: Numbers) -> Trials:
    prints_a, prints_b = ([one.voiceprint for one in side] for side in (a, b))
    llr = comparison_llr(prints_a, prints_b, options.profile.comparison).T.astype(np.float64)
    speaker_a, speaker_b = (np.array([numbers[one.corpus, one.speaker] for one in side], np.int64) for side in (a, b))
    session_a, session_b = (np.array([one.session for one in side], np.int64) for side in (a, b))
    rows, columns = np.triu_indices(len(a), 1) if a is b else np.nonzero(session_a[:, np.newaxis] != session_b)
    left, right = speaker_a[rows], speaker_b[columns]
    return Trials(llr[rows, columns], left == right, left, right)


def joined(parts: Sequence[Trials]) -> Trials:
    """One after the other; their speakers have common numbers."""
    if not parts:
        return Trials(np.zeros(0), np.zeros(0, np.bool_), np.zeros(0, np.int64), np.zeros(0, np.int64))
    return Trials(*(np.concatenate(each) for each in zip(*parts, strict=True)))


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
