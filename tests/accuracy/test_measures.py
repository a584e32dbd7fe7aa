"""Measures against references of other origin, and the laws that they obey."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.metrics import log_loss, roc_curve

from pipeline.accuracy import measures

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Trials = tuple[Float64, Bools, Float64]
PROFILE = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@st.composite
def trials(draw: st.DrawFn, least_weight: int = 0) -> Trials:
    """Scores with many ties, of both kinds, each with weight."""
    example = st.tuples(st.integers(-8, 8), st.booleans(), st.integers(least_weight, 3))
    rows = [*draw(st.lists(example, max_size=30)), (draw(st.integers(-8, 8)), True, 1), (draw(st.integers(-8, 8)), False, 2)]
    score, target, weight = zip(*draw(st.permutations(rows)), strict=True)
    return np.array(score, np.float64) / 2, np.array(target), np.array(weight, np.float64)


def normal_trials(separation: float, size: int = 4000) -> Trials:
    generator = np.random.default_rng(7)
    target = np.arange(size) % 4 == 0
    return generator.normal(0, 1, size) + separation * target, target, generator.integers(0, 4, size).astype(np.float64)


def rates_by_hand(score: Float64, target: Bools, weight: Float64) -> list[tuple[float, float]]:
    """Misses and false alarms at every threshold, each counted anew."""
    found = []
    for threshold in [*sorted(set(score.tolist())), math.inf]:
        refused = score < threshold
        missed = weight[refused & target].sum() / weight[target].sum()
        found.append((missed, weight[~refused & ~target].sum() / weight[~target].sum()))
    return found


@PROFILE
@given(trials())
def test_the_curve_has_the_rates_of_every_threshold(given_trials: Trials) -> None:
    misses, false_alarms = measures.error_curve(*given_trials)
    assert np.allclose(list(zip(misses, false_alarms, strict=True)), rates_by_hand(*given_trials))


def test_the_curve_is_that_of_scikit_learn() -> None:
    score, target, weight = normal_trials(1.5)
    misses, false_alarms = measures.error_curve(score, target, weight)
    alarms, hits, _ = roc_curve(target, score, sample_weight=weight, drop_intermediate=False)
    grid = np.linspace(0, 1, 101)
    assert np.allclose(np.interp(grid, false_alarms[::-1], 1 - misses[::-1]), np.interp(grid, alarms, hits), atol=2e-3)
    assert np.allclose(np.trapezoid((1 - misses)[::-1], false_alarms[::-1]), np.trapezoid(hits, alarms))


@PROFILE
@given(trials())
def test_the_equal_error_rate_lies_where_the_curve_crosses_the_diagonal(given_trials: Trials) -> None:
    points = np.array(rates_by_hand(*given_trials))
    places = np.arange(len(points))
    crossing = brentq(lambda at: np.interp(at, places, points[:, 0] - points[:, 1]), 0, len(points) - 1, xtol=1e-13)
    assert measures.equal_error_rate(*given_trials) == pytest.approx(np.interp(crossing, places, points[:, 0]), abs=1e-9)


def test_the_equal_error_rate_of_normal_scores_is_known() -> None:
    score, target, _ = normal_trials(2.0, 200_000)
    expected = 0.5 * math.erfc(1 / math.sqrt(2))
    assert measures.equal_error_rate(score, target, np.ones(len(score))) == pytest.approx(expected, abs=0.004)


@PROFILE
@given(trials(), st.sampled_from([0.01, 0.1, 0.5, 0.9]))
def test_the_least_detection_cost_is_that_of_the_best_threshold(given_trials: Trials, prior: float) -> None:
    costs = [prior * misses + (1 - prior) * alarms for misses, alarms in rates_by_hand(*given_trials)]
    assert measures.min_dcf(*given_trials, prior) == pytest.approx(min(costs) / min(prior, 1 - prior))
    assert measures.min_dcf(*given_trials, prior) <= 1 + 1e-12


@PROFILE
@given(trials())
def test_cllr_is_the_log_loss_at_equal_priors_in_bits(given_trials: Trials) -> None:
    llr, target, weight = given_trials
    balanced = weight / np.where(target, weight[target].sum(), weight[~target].sum())
    expected = log_loss(target, 1 / (1 + np.exp(-llr)), sample_weight=balanced, labels=[False, True]) / math.log(2)
    assert measures.cllr(llr, target, weight) == pytest.approx(expected)


@PROFILE
@given(trials())
def test_cllr_of_zeros_is_1(given_trials: Trials) -> None:
    score, target, weight = given_trials
    for cost in (measures.cllr, measures.min_cllr):
        assert cost(np.zeros(len(score)), target, weight) == pytest.approx(1)


def test_sure_answers_cost_nothing_when_right_and_everything_when_wrong() -> None:
    llr, target = np.array([-math.inf, -50.0, 50.0, math.inf]), np.array([False, False, True, True])
    assert measures.cllr(llr, target, np.ones(4)) == pytest.approx(0, abs=1e-12)
    assert measures.cllr(-llr, target, np.ones(4)) == math.inf
    assert measures.cllr(-llr, target, np.array([0.0, 1, 1, 0])) == pytest.approx(50 / math.log(2))


def isotonic_by_hand(wanted: Float64, total: Float64) -> list[float]:
    """The rising fit as the greatest of the least means (Robertson, Wright and Dykstra 1988)."""
    size = len(total)
    return [
        max(min(wanted[a : b + 1].sum() / total[a : b + 1].sum() for b in range(i, size)) for a in range(i + 1))
        for i in range(size)
    ]


@PROFILE
@given(trials(least_weight=1))
def test_the_least_cllr_is_that_of_the_best_rising_function(given_trials: Trials) -> None:
    score, target, weight = given_trials
    values = sorted(set(score.tolist()))
    wanted = np.array([weight[(score == value) & target].sum() for value in values])
    total = np.array([weight[score == value].sum() for value in values])
    cost = 0.0
    for value, share in zip(values, isotonic_by_hand(wanted, total), strict=True):
        odds = (share / wanted.sum()) / ((1 - share) / (total - wanted).sum()) if share < 1 else math.inf
        for truth, of_all in ((True, wanted.sum()), (False, (total - wanted).sum())):
            here = weight[(score == value) & (target == truth)].sum()
            if here:
                cost += here / of_all * math.log2(1 + (1 / odds if truth else odds)) / 2
    assert measures.min_cllr(score, target, weight) == pytest.approx(cost, abs=1e-9)


@PROFILE
@given(trials(), st.floats(0.1, 3), st.floats(-3, 3))
def test_no_rising_function_of_the_scores_has_a_smaller_cllr(given_trials: Trials, scale: float, offset: float) -> None:
    score, target, weight = given_trials
    llrs: list[Float64] = [scale * score + offset, scale * np.sinh(score), np.tanh(score - offset)]
    for llr in llrs:
        assert measures.min_cllr(score, target, weight) <= measures.cllr(llr, target, weight) + 1e-9


@pytest.mark.parametrize("measure", [measures.equal_error_rate, measures.min_dcf, measures.min_cllr])
@PROFILE
@given(given_trials=trials())
def test_only_the_order_of_scores_matters(measure: measures.Measure, given_trials: Trials) -> None:
    score, target, weight = given_trials
    rising: tuple[Callable[[Float64], Float64], ...] = (np.exp, np.arctan, lambda x: 5 * x - 7)
    for function in rising:
        assert measure(function(score), target, weight) == pytest.approx(measure(score, target, weight), abs=1e-9)


ALL_MEASURES: list[measures.Measure] = [
    measures.equal_error_rate,
    measures.min_dcf,
    measures.cllr,
    measures.min_cllr,
    lambda score, target, weight: measures.share(target, weight),
    lambda score, target, weight: measures.calibration_error(1 / (1 + np.exp(-score)), target, weight),
    lambda score, target, weight: measures.cavg(np.stack([score, -score], 1), target.astype(np.int64), weight),
]


@pytest.mark.parametrize("measure", ALL_MEASURES)
@PROFILE
@given(given_trials=trials())
def test_a_weight_is_so_many_of_the_same(measure: measures.Measure, given_trials: Trials) -> None:
    score, target, weight = given_trials
    index = np.repeat(np.arange(len(score)), weight.astype(int))
    expected = measure(score[index], target[index], np.ones(len(index)))
    assert measure(score, target, weight) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("measure", ALL_MEASURES[:4])
@pytest.mark.parametrize("present", [True, False])
def test_without_targets_or_without_others_there_is_no_figure(measure: measures.Measure, present: bool) -> None:
    score, target = np.array([0.0, 1, 2, 3]), np.array([True, False, True, False])
    assert math.isnan(measure(score, target, (target == present).astype(np.float64)))
    assert math.isnan(measure(score[target == present], target[target == present], np.ones(2)))


@pytest.mark.parametrize("measure", ALL_MEASURES)
def test_without_any_weight_there_is_no_figure(measure: Callable[[Float64, Bools, Float64], float]) -> None:
    assert math.isnan(measure(np.array([0.0, 1]), np.array([True, False]), np.zeros(2)))


def test_equal_scores_tell_nothing() -> None:
    score, target, weight = np.full(6, 2.5), np.array([True, False] * 3), np.ones(6)
    assert measures.equal_error_rate(score, target, weight) == pytest.approx(0.5)
    assert measures.min_dcf(score, target, weight) == pytest.approx(1)


def test_separate_scores_have_no_errors() -> None:
    score, target, weight = np.array([-2.0, -1, 1, 2]), np.array([False, False, True, True]), np.ones(4)
    for measure in (measures.equal_error_rate, measures.min_dcf, measures.min_cllr):
        assert measure(score, target, weight) == 0


def test_calibration_error_by_hand() -> None:
    confidence, right = np.array([0.95, 1.0, 0.62, 0.68, 0.05]), np.array([True, False, False, True, False])
    by_bin = [abs(1.95 - 1), abs(1.30 - 1), 0.05]
    assert measures.calibration_error(confidence, right, np.ones(5)) == pytest.approx(sum(by_bin) / 5)


def test_cavg_by_hand() -> None:
    language = np.array([0, 0, 0, 0, 1, 1, 2])
    said = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]])
    of_first = (1 / 4 + (1 / 2 + 0) / 2) / 2
    of_second = (1 / 2 + (2 / 4 + 0) / 2) / 2
    assert measures.cavg(said - 0.5, language, np.ones(7)) == pytest.approx((of_first + of_second + 0) / 3)
    without_third = np.array([1.0] * 6 + [0])
    assert measures.cavg(said - 0.5, language, without_third) == pytest.approx(((1 / 4 + 1 / 2) / 2 + (1 / 2 + 2 / 4) / 2) / 2)
