"""Back-ends fitted to labelled sessions: logistic regressions at equal priors, each corpus and each class weighing the same."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from pipeline.accuracy.audio import Band
from pipeline.accuracy.sessions import LONG_S, SHORT_S, Sample, Session, long_samples, short_samples, whole_samples
from pipeline.scoring.calibration import (
    COMPARISON_INPUTS,
    BandMeans,
    ComparisonBackend,
    GenderBackend,
    Provenance,
    Side,
    shortness,
    side,
)
from pipeline.scoring.voiceprint import SPEAKER_DIMENSION, Voiceprint

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

NEXT_TO_NONE = 1e-9
RIDGE = 1e-3  # of the gender direction; 3e-4 to 3e-3 are as good on recordings that were not trained on
MEAN_SHARE = (
    0.5  # of the mean CAM++ embedding that is subtracted: all of it costs as much on clean speech as it gains on the telephone
)
_OTHERS = 15_000  # trials of two speakers of each corpus and kind
_FOLDS = 10
_DECIMALS = 6

Describe = Callable[[dict[str, int], dict[str, int], float], Provenance]  # recordings by corpus, counts by class, ridge


class Regression(NamedTuple):
    """A logistic regression: log-odds = x @ weights + bias."""

    weights: Float64
    bias: float

    def log_odds(self, x: Float64) -> Float64:
        """Of examples (n, d): (n,)."""
        odds: Float64 = x @ self.weights + self.bias
        return odds


def regress(x: Float64, target: Bools, weight: Float64, ridge: float = NEXT_TO_NONE) -> Regression:
    """Fit x (n, d) with ridge/2 · |weights|² as penalty; the weights of examples sum to 1.

    Below `RIDGE` the penalty is on the weights of x scaled to a standard deviation of 1 in each dimension.
    """
    scale = np.maximum(x.std(axis=0), 1e-12) if ridge < RIDGE else np.ones(x.shape[1])
    model = LogisticRegression(C=1.0 / ridge, max_iter=5000, tol=1e-8).fit(x / scale, target, sample_weight=weight)
    return Regression(model.coef_[0] / scale, float(model.intercept_[0]))


def balanced(target: Bools, group: Ints) -> Float64:
    """A half of the weight for each class, shared equally by its groups (a speaker, a corpus), and by a group's examples."""
    weight = np.zeros(len(target))
    for value in (True, False):
        members = np.flatnonzero(target == value)
        _, place, counts = np.unique(group[members], return_inverse=True, return_counts=True)
        weight[members] = 0.5 / len(counts) / counts[place]
    return weight


class _Trials(NamedTuple):
    """Inputs (n, 7) of the comparison back-end, whether it is one speaker, and the corpus's number."""

    x: Float64
    target: Bools
    corpus: Ints


Heard = Mapping[Band, Sequence[Session]]  # the same recordings, in the same order, in each band


def fit_comparison(heard: Heard, describe: Describe) -> ComparisonBackend:
    """All of the back-end, from sessions of several corpora."""
    blank = _without_weights(heard, describe)
    names = list(dict.fromkeys(one.corpus for one in heard[Band.WIDE]))
    parts = [trials for number, name in enumerate(names) for trials in _corpus_trials(heard, name, number, blank)]
    x, target, corpus = (np.concatenate(each) for each in zip(*parts, strict=True))
    found = _carried_over(x, target, corpus)
    counts = {"target": int(target.sum()), "nontarget": int((~target).sum())}
    return msgspec.structs.replace(
        blank,
        weights=rounded(found.weights),
        bias=round(found.bias, _DECIMALS),
        provenance=describe(recordings(heard[Band.WIDE]), counts, NEXT_TO_NONE),
    )


def _carried_over(x: Float64, target: Bools, corpus: Ints) -> Regression:
    """Fitted to all corpora; scale and offset to the scores of each corpus by a regression that has not met it.

    Corpora differ, so scores on one that is new are less sure than those on what was trained on.
    """
    unseen = np.zeros(len(target))
    for number in np.unique(corpus).tolist():
        new = corpus == number
        others = regress(x[~new], target[~new], balanced(target[~new], corpus[~new]))
        unseen[new] = others.log_odds(x[new])
    weight = balanced(target, corpus)
    every, scaling = regress(x, target, weight), regress(unseen[:, np.newaxis], target, weight)
    scale = float(scaling.weights[0])
    return Regression(scale * every.weights, scale * every.bias + scaling.bias)


def _without_weights(heard: Heard, describe: Describe) -> ComparisonBackend:
    """What tells the bands apart, and their means."""
    samples = {band: [one for part in (*_short(heard[band]), whole_samples(heard[band])) for one in part] for band in Band}
    x = np.concatenate([_embeddings(samples[band])[:, :SPEAKER_DIMENSION] for band in Band])
    narrow = np.concatenate([np.full(len(samples[band]), band is Band.TELEPHONE) for band in Band])
    _, corpus = np.unique([one.corpus for band in Band for one in samples[band]], return_inverse=True)
    found = regress(x, narrow, balanced(narrow, corpus), RIDGE)
    means = {band: _embeddings(whole_samples(heard[band])).mean(axis=0) for band in Band}
    return ComparisonBackend(
        rounded(found.weights),
        round(found.bias, _DECIMALS),
        BandMeans(*(rounded(MEAN_SHARE * means[band][:SPEAKER_DIMENSION]) for band in (Band.WIDE, Band.TELEPHONE))),
        BandMeans(*(rounded(means[band][SPEAKER_DIMENSION:]) for band in (Band.WIDE, Band.TELEPHONE))),
        [0.0] * COMPARISON_INPUTS,
        0.0,
        describe({}, {}, 0.0),
    )


def _embeddings(samples: Sequence[Sample]) -> Float64:
    return np.stack([one.voiceprint.embedding for one in samples]).astype(np.float64)


def _corpus_trials(heard: Heard, name: str, number: int, backend: ComparisonBackend) -> list[_Trials]:
    """Each band at each length, all speech against each length, and the bands against each other."""
    bands = {band: [one for one in sessions if one.corpus == name] for band, sessions in heard.items()}
    found = []
    for band in bands.values():
        found += [_trials(samples, samples, number, backend) for samples in (*_short(band), *_long(band))]
    for one, other in itertools.combinations_with_replacement(bands, 2):
        whole = whole_samples(bands[one])
        tested = [*_short(bands[other]), whole if one is other else whole_samples(bands[other])]
        found += [_trials(whole, samples, number, backend) for samples in tested]
    return [trials for trials in found if len(trials.target)]


def _short(sessions: Sequence[Session]) -> list[list[Sample]]:
    return [short_samples(sessions, duration_s) for duration_s in SHORT_S]


def _long(sessions: Sequence[Session]) -> list[list[Sample]]:
    return [long_samples(sessions, duration_s) for duration_s in LONG_S]


def _trials(a: list[Sample], b: list[Sample], corpus: int, backend: ComparisonBackend) -> _Trials:
    """Pairs of different sessions; of those of two speakers at most so many, drawn with the corpus's number as seed."""
    if not a or not b:
        return _Trials(np.zeros((0, COMPARISON_INPUTS)), np.zeros(0, np.bool_), np.zeros(0, np.int64))
    session_a, session_b = (np.array([one.session for one in each]) for each in (a, b))
    rows, columns = np.triu_indices(len(a), 1) if a is b else np.nonzero(session_a[:, np.newaxis] != session_b)
    names_a, names_b = (np.array([one.speaker for one in each]) for each in (a, b))
    target = names_a[rows] == names_b[columns]
    kept = _drawn(target, corpus)
    side_a, side_b = (side([one.voiceprint for one in each], backend) for each in (a, b))
    inputs = comparison_inputs(side_a, side_b, rows[kept], columns[kept])
    return _Trials(inputs, target[kept], np.full(len(kept), corpus))


def _drawn(target: Bools, seed: int) -> Ints:
    others = np.flatnonzero(~target)
    if len(others) > _OTHERS:
        others = np.random.default_rng(seed).choice(others, _OTHERS, replace=False)
    return np.sort(np.concatenate([np.flatnonzero(target), others]))


def comparison_inputs(a: Side, b: Side, rows: Ints, columns: Ints) -> Float64:
    """What the comparison back-end weighs, for the pairs (a[rows], b[columns]): float64 (n, 7)."""
    speaker = np.einsum("ij,ij->i", a.speaker[rows], b.speaker[columns])
    voice = np.einsum("ij,ij->i", a.voice[rows], b.voice[columns])
    short = a.short[rows] + b.short[columns]
    narrow_a, narrow_b = a.narrow[rows], b.narrow[columns]
    inputs = [speaker, voice, short, short * speaker, short * voice, narrow_a + narrow_b, narrow_a * narrow_b]
    return np.column_stack(inputs).astype(np.float64)


def fit_gender(heard: Heard, describe: Describe) -> GenderBackend:
    """The direction by ridge regression, then its scale by scores of speakers that it was not fitted to."""
    labelled = {band: [one for one in sessions if one.gender] for band, sessions in heard.items()}
    samples = [one for band in labelled.values() for part in (*_short(band), whole_samples(band)) for one in part]
    x = _embeddings(samples)
    male = np.array([one.gender == "m" for one in samples], np.bool_)
    _, speaker = np.unique([f"{one.corpus}/{one.speaker}" for one in samples], return_inverse=True)
    weight = balanced(male, speaker)
    score = _unseen_scores(x, male, speaker)
    scaling = regress(gender_inputs(score, [one.voiceprint for one in samples]), male, weight)
    direction = regress(x, male, weight, RIDGE)
    counts = {"male": int(male.sum()), "female": int((~male).sum())}
    # the direction's own bias goes into the weights: x + b instead of x
    bias = scaling.bias + scaling.weights[0] * direction.bias
    short_weight = scaling.weights[2] + scaling.weights[1] * direction.bias
    return GenderBackend(
        rounded(direction.weights),
        rounded([scaling.weights[0], scaling.weights[1], short_weight]),
        round(float(bias), _DECIMALS),
        describe(recordings(labelled[Band.WIDE]), counts, RIDGE),
    )


def _unseen_scores(x: Float64, male: Bools, speaker: Ints) -> Float64:
    """The log-odds of each example by a regression that has not met its speaker."""
    score = np.zeros(len(male))
    for seen, unseen in GroupKFold(_FOLDS, shuffle=True, random_state=0).split(x, male, speaker):
        fold = regress(x[seen], male[seen], balanced(male[seen], speaker[seen]), RIDGE)
        score[unseen] = fold.log_odds(x[unseen])
    return score


def gender_inputs(score: Float64, voiceprints: Sequence[Voiceprint]) -> Float64:
    """What the gender back-end weighs: float64 (n, 3)."""
    short = shortness(voiceprints)
    return np.column_stack([score, score * short, short])


def recordings(sessions: Iterable[Session]) -> dict[str, int]:
    """Sessions with speech, by corpus."""
    return dict(collections.Counter(one.corpus for one in sessions if one.utterances))


def rounded(values: Iterable[float]) -> list[float]:
    """As many decimals as the files of weights have."""
    return [round(float(value), _DECIMALS) for value in values]
