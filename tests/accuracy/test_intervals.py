"""Intervals hold what they promise, and speakers are what is drawn."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.accuracy.evaluation import Measured
from pipeline.accuracy.intervals import measured

Float64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def coverage(speaker: Ints, numbered: Ints, experiments: int = 200) -> float:
    """How often the interval of a mean holds the true mean, 0, where recordings of a speaker are alike."""
    generator = np.random.default_rng(5)
    hits = 0
    for _ in range(experiments):
        value = generator.normal(size=speaker.max() + 1)[speaker] + 0.3 * generator.normal(size=len(speaker))
        figure = measured(lambda weight, value=value: float(np.average(value, weights=weight)), numbered)  # type: ignore[misc]
        assert figure.low is not None
        assert figure.high is not None
        hits += figure.low <= 0 <= figure.high
    return hits / experiments


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    speaker = np.repeat(np.arange(40), 5)
    assert 0.90 <= coverage(speaker, speaker) <= 0.98


def test_recordings_drawn_one_by_one_would_promise_too_much() -> None:
    speaker = np.repeat(np.arange(40), 5)
    assert coverage(speaker, np.arange(200), 50) < 0.8


def test_intervals_of_trials_hold_the_truth_at_least_as_often_as_they_say() -> None:
    generator = np.random.default_rng(6)
    first, second = np.triu_indices(25, 1)
    hits = 0
    for _ in range(100):
        of_speaker = generator.normal(size=25)
        value = of_speaker[first] + of_speaker[second]
        figure = measured(lambda weight, value=value: float(np.average(value, weights=weight)), first, second)  # type: ignore[misc]
        assert figure.low is not None
        assert figure.high is not None
        hits += figure.low <= 0 <= figure.high
    assert hits >= 88


def drawn_weights(speaker: Ints, other: Ints | None = None) -> list[Float64]:
    """The weights of every resample."""
    seen: list[Float64] = []

    def statistic(weight: Float64) -> float:
        seen.append(weight.copy())
        return 1.0

    measured(statistic, speaker, other, resamples=50)
    assert np.array_equal(seen[0], np.ones(len(speaker)))
    return seen[1:]


def test_a_resample_draws_speakers_with_all_their_recordings() -> None:
    speaker = np.array([3, 3, 3, 7, 8, 8, 20, 21, 1000])  # gaps between numbers mean nothing
    names = np.unique(speaker)
    resamples = drawn_weights(speaker)
    assert len(resamples) == 50
    for weight in resamples:
        of_speaker = [set(weight[speaker == name].tolist()) for name in names]
        assert all(len(values) == 1 for values in of_speaker)
        assert sum(values.pop() for values in of_speaker) == len(names)
    assert len({weight.tobytes() for weight in resamples}) > 40


def test_a_trial_weighs_the_product_of_its_speakers_and_once_within_one() -> None:
    speaker, other = np.array([0, 1, 2, 3, 4, 5, 0, 2]), np.array([0, 1, 2, 3, 4, 5, 1, 5])
    for weight in drawn_weights(speaker, other):
        assert weight[:6].sum() == 6
        assert weight[6] == weight[0] * weight[1]
        assert weight[7] == weight[2] * weight[5]


def mean_weight(weight: Float64) -> float:
    return float(weight[0])


def test_without_speakers_enough_there_is_no_interval() -> None:
    assert measured(mean_weight, np.array([0, 0, 1, 2, 3])) == Measured(1.0)
    assert measured(mean_weight, np.array([0, 1, 2, 3]), np.array([9, 9, 9, 9])).low is not None  # five, on both sides


def test_without_resamples_there_is_no_interval() -> None:
    assert measured(mean_weight, np.arange(10), resamples=0) == Measured(1.0)


def test_without_examples_there_is_no_figure() -> None:
    assert math.isnan(measured(mean_weight, np.zeros(0, np.int64)).value)


def test_a_statistic_that_is_not_defined_has_no_interval() -> None:
    figure = measured(lambda _: math.nan, np.arange(10))
    assert math.isnan(figure.value)
    assert figure.low is None


def test_resamples_on_which_it_is_not_defined_are_left_out() -> None:
    figure = measured(lambda weight: float(weight.max()) if weight[0] else math.nan, np.arange(10))
    assert figure.low is not None
    assert figure.low >= 1
    mostly_not = measured(lambda weight: 1.0 if (weight == 1).sum() > 5 else math.nan, np.arange(10))
    assert mostly_not == Measured(1.0)


def test_the_scale_is_that_of_all_three() -> None:
    speaker = np.repeat(np.arange(20), 2)
    value = np.arange(40.0)
    plain, percent = (measured(lambda w: float(np.average(value, weights=w)), speaker, scale=scale) for scale in (1.0, 100.0))
    assert None not in (plain.low, plain.high, percent.low, percent.high)
    assert percent.value == pytest.approx(100 * plain.value)
    assert (percent.low, percent.high) == pytest.approx((100 * (plain.low or 0), 100 * (plain.high or 0)))


def test_the_same_seed_gives_the_same_interval() -> None:
    value = np.arange(12.0)
    first, again, otherwise = (
        measured(lambda w: float(np.average(value, weights=w)), np.arange(12), seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != otherwise
