"""The measures of scores and decisions; every one takes weights, so that a bootstrap is another set of weights.

Arrays are (n,) by example. A measure is NaN where the weights leave it nothing to measure: no target, or no other.

Cllr and its minimum: Brümmer and du Preez 2006, "Application-independent evaluation of speaker detection". minDCF: NIST speaker
recognition evaluation plans. Cavg: NIST language recognition evaluation plan 2017, at equal priors of target and others.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Measure = Callable[[Float64, Bools, Float64], float]  # of scores, whether each is of a target, and weights

TARGET_PRIOR = 0.01


def error_curve(score: Float64, target: Bools, weight: Float64) -> tuple[Float64, Float64]:
    """Miss and false alarm rates (k,), as fractions, at every threshold from below all scores to above them.

    NaN without weight on targets or on others. Examples of weight 0 do not count.
    """
    order = np.argsort(score, kind="stable")
    sorted_score, sorted_target, sorted_weight = score[order], target[order], weight[order]
    last = np.append(sorted_score[1:] != sorted_score[:-1], True)[: len(score)]  # equal scores fall on one side together
    misses = _shares(np.where(sorted_target, sorted_weight, 0.0), last)
    return misses, 1.0 - _shares(np.where(sorted_target, 0.0, sorted_weight), last)


def _shares(weight: Float64, last: Bools) -> Float64:
    """What lies at or below each score, of all; 0 first."""
    sums = np.concatenate([[0.0], np.cumsum(weight)[last]])
    return sums / sums[-1] if sums[-1] > 0 else np.full(len(sums), math.nan)


def equal_error_rate(score: Float64, target: Bools, weight: Float64) -> float:
    """Where the lines between the curve's points cross misses = false alarms, as a fraction."""
    misses, false_alarms = error_curve(score, target, weight)
    gap = false_alarms - misses  # falls from 1 to -1
    if np.isnan(gap[0]):
        return math.nan
    after = int(np.argmax(gap <= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(misses[after - 1] + share * (misses[after] - misses[after - 1]))


def min_dcf(score: Float64, target: Bools, weight: Float64, prior: float = TARGET_PRIOR) -> float:
    """The least detection cost at this prior of targets, both errors costing 1; 1 is as good as saying always the same."""
    misses, false_alarms = error_curve(score, target, weight)
    return float((prior * misses + (1 - prior) * false_alarms).min() / min(prior, 1 - prior))


def cllr(llr: Float64, target: Bools, weight: Float64) -> float:
    """The cost of log-likelihood ratios (natural log), in bits: 0 is perfect, 1 as good as knowing nothing."""
    of_targets = _mean(np.logaddexp(0, -llr[target]), weight[target])
    of_others = _mean(np.logaddexp(0, llr[~target]), weight[~target])
    return (of_targets + of_others) / 2 / math.log(2)


def min_cllr(score: Float64, target: Bools, weight: Float64) -> float:
    """The least Cllr that any rising function of the scores has (pool adjacent violators)."""
    seen = weight > 0
    score, target, weight = score[seen], target[seen], weight[seen]
    if target.all() or not target.any():
        return math.nan
    values, place = np.unique(score, return_inverse=True)
    wanted, total = np.bincount(place, weight * target, len(values)), np.bincount(place, weight, len(values))
    share = np.clip(isotonic_regression(wanted / total, weights=total).x, 0, 1)
    with np.errstate(divide="ignore"):  # a share of 0 or 1 is a certainty
        llr = np.log(share) - np.log1p(-share) - np.log(wanted.sum() / (total - wanted).sum())
    return cllr(llr[place], target, weight)


def calibration_error(confidence: Float64, right: Bools, weight: Float64, bins: int = 10) -> float:
    """Expected calibration error: the mean distance of confidence from the share of right answers, over bins of confidence.

    Confidence is in [0, 1]; so is the error (Naeini et al. 2015).
    """
    if weight.sum() <= 0:
        return math.nan
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    said = np.bincount(place, weight * confidence, bins)
    true = np.bincount(place, weight * right, bins)
    return float(np.abs(said - true).sum() / weight.sum())


def cavg(llr: Float64, language: Ints, weight: Float64) -> float:
    """Mean detection cost over the languages that occur (with a weight above 0), deciding at 0.

    `llr` is (n, languages), `language` (n,) each example's true column.
    """
    present = [one for one in np.unique(language).tolist() if weight[language == one].sum() > 0]
    said = {one: _means(llr[language == one] > 0, weight[language == one]) for one in present}
    costs = []
    for wanted in present:
        alarms = [said[other][wanted] for other in present if other != wanted]
        costs.append((1 - said[wanted][wanted] + (sum(alarms) / len(alarms) if alarms else 0.0)) / 2)
    return float(np.mean(costs)) if costs else math.nan


def share(right: Bools, weight: Float64) -> float:
    """The share of right answers."""
    return _mean(right.astype(np.float64), weight)


def _mean(value: Float64, weight: Float64) -> float:
    """The weighted mean; what weighs nothing does not count, be it infinite."""
    seen = weight > 0
    return float(np.average(value[seen], weights=weight[seen])) if seen.any() else math.nan


def _means(value: Bools, weight: Float64) -> Float64:
    means: Float64 = weight @ value / weight.sum()
    return means
