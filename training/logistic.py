"""Logistic regression and the measures of calibrated scores, in numpy."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_MAX_STEPS = 100
_TOLERANCE = 1e-9


class Measures(NamedTuple):
    """How good scores are: Cllr and its minimum in bits (1 is useless), and the equal error rate as a fraction."""

    cllr: float
    min_cllr: float
    eer: float


def fit(x: Float64, target: Bools, weight: Float64, ridge: float) -> tuple[Float64, float]:
    """Weights (d,) and bias that minimise the weighted log loss plus ridge/2 · |weights|², by Newton's method (IRLS).

    `x` is (n, d). Weights of examples should sum to 1, a half for each class: the log-odds are then log-likelihood ratios.
    """
    design = np.column_stack([x, np.ones(len(x))])
    penalty: Float64 = np.diag(np.array([ridge] * x.shape[1] + [1e-12]))
    sign: Float64 = np.where(target, 1.0, -1.0)
    theta: Float64 = np.zeros(design.shape[1])
    loss = _loss(design, sign, weight, penalty, theta)
    for _ in range(_MAX_STEPS):
        wrong: Float64 = _sigmoid(-sign * (design @ theta))
        gradient = penalty @ theta - design.T @ (weight * sign * wrong)
        curvature = design.T @ (design * (weight * wrong * (1 - wrong))[:, np.newaxis]) + penalty
        step: Float64 = np.linalg.solve(curvature, gradient).astype(np.float64)
        theta, loss, gain = _line_search(design, sign, weight, penalty, theta, step, loss)
        if gain < _TOLERANCE:
            break
    return theta[:-1], float(theta[-1])


def _line_search(
    design: Float64, sign: Float64, weight: Float64, penalty: Float64, theta: Float64, step: Float64, loss: float
) -> tuple[Float64, float, float]:
    """Halve the step until the loss falls; returns the new point, its loss, and how much was gained."""
    for halving in range(40):
        candidate = theta - step / 2**halving
        lower = _loss(design, sign, weight, penalty, candidate)
        if lower < loss:
            return candidate, lower, loss - lower
    return theta, loss, 0.0


def _loss(design: Float64, sign: Float64, weight: Float64, penalty: Float64, theta: Float64) -> float:
    return float(weight @ np.logaddexp(0, -sign * (design @ theta)) + theta @ penalty @ theta / 2)


def _sigmoid(x: Float64) -> Float64:
    result: Float64 = np.exp(-np.logaddexp(0, -x))
    return result


def balanced_weights(target: Bools, group: npt.NDArray[np.int64]) -> Float64:
    """A half of the weight for each class, shared equally by its groups (a speaker, a corpus), and by a group's examples."""
    weight = np.zeros(len(target))
    for value in (True, False):
        groups, counts = np.unique(group[target == value], return_counts=True)
        share = dict(zip(groups.tolist(), (0.5 / len(groups) / counts).tolist(), strict=True))
        members = np.flatnonzero(target == value)
        weight[members] = [share[one] for one in group[members].tolist()]
    return weight


def measure(llr: Float64, target: Bools) -> Measures:
    """Cllr, minimum Cllr and equal error rate of log-likelihood ratios (n,)."""
    return Measures(cllr(llr, target), cllr(optimal_llr(llr, target), target), equal_error_rate(llr, target))


def cllr(llr: Float64, target: Bools) -> float:
    """Cost of log-likelihood ratios in bits (Brümmer and du Preez 2006)."""
    costs = (np.logaddexp(0, -llr[target]).mean(), np.logaddexp(0, llr[~target]).mean())
    return float(sum(costs) / 2 / np.log(2))


def optimal_llr(score: Float64, target: Bools) -> Float64:
    """The best that any rising function of the scores can do: isotonic regression (pool adjacent violators) to LLRs."""
    order = np.lexsort((~target, score))
    posterior = _isotonic(target[order].astype(np.float64))
    prior_odds = target.sum() / (~target).sum()
    with np.errstate(divide="ignore"):
        llr = np.log(posterior) - np.log1p(-posterior) - np.log(prior_odds)
    result: Float64 = np.empty_like(llr)
    result[order] = llr
    return result


def _isotonic(values: Float64) -> Float64:
    means: list[float] = []
    sizes: list[int] = []
    for value in values.tolist():
        means.append(value)
        sizes.append(1)
        while len(means) > 1 and means[-2] >= means[-1]:
            size = sizes.pop() + sizes[-1]
            mean = means.pop()
            means[-1] = (means[-1] * sizes[-1] + mean * (size - sizes[-1])) / size
            sizes[-1] = size
    steps: Float64 = np.repeat(np.array(means), sizes)
    return steps


def equal_error_rate(score: Float64, target: Bools) -> float:
    """Where misses and false alarms are equally many, as a fraction."""
    order = np.argsort(score, kind="stable")
    sorted_target = target[order]
    misses = np.concatenate([[0], np.cumsum(sorted_target)]) / target.sum()
    false_alarms = 1 - np.concatenate([[0], np.cumsum(~sorted_target)]) / (~target).sum()
    nearest = int(np.argmin(np.abs(misses - false_alarms)))
    return float((misses[nearest] + false_alarms[nearest]) / 2)
