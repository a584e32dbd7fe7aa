"""Back-ends and profiles fitted to speakers that are made up, tried on others."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.accuracy import calibrate, measures
from pipeline.accuracy.audio import Band
from pipeline.accuracy.evaluation import Options
from pipeline.accuracy.fitting import MEAN_SHARE, balanced, fit_comparison, fit_gender, regress
from pipeline.accuracy.sessions import Session, whole_samples
from pipeline.accuracy.trials import within
from pipeline.scoring.calibration import Provenance, built_in_comparison, gender_llr
from pipeline.scoring.profile import Profile
from pipeline.scoring.voiceprint import SPEAKER_DIMENSION
from tests.accuracy.voices import sessions

OPTIONS = Options(cache_dir="", resamples=0)


def provenance(data: dict[str, int], counts: dict[str, int], ridge: float) -> Provenance:
    return Provenance("test", "2026-01-01", 0, data, counts, ridge)


def bands(seed: int, speakers: int = 20) -> dict[Band, list[Session]]:
    """Two corpora in both bands; what a telephone does is move every voice."""
    return {
        Band.WIDE: sessions("a", speakers, 3, seed) + sessions("b", speakers, 3, seed + 1),
        Band.TELEPHONE: sessions("a", speakers, 3, seed, moved=1.0) + sessions("b", speakers, 3, seed + 1, moved=1.0),
    }


def test_regression_recovers_a_known_ratio() -> None:
    """Two Gaussians of unit variance at +1 and -1 have the log-likelihood ratio 2x, whatever the share of each."""
    generator = np.random.default_rng(11)
    x = np.concatenate([generator.normal(1, 1, 60_000), generator.normal(-1, 1, 20_000)])
    target = np.arange(80_000) < 60_000
    weight = balanced(target, np.zeros(80_000, np.int64))
    found = regress(x[:, np.newaxis], target, weight)
    assert found.weights[0] == pytest.approx(2.0, abs=0.05)
    assert found.bias == pytest.approx(0.0, abs=0.05)
    llr = found.log_odds(x[:, np.newaxis])
    assert measures.equal_error_rate(llr, target, weight) == pytest.approx(0.5 * math.erfc(1 / math.sqrt(2)), abs=0.005)
    assert measures.cllr(llr, target, weight) <= measures.min_cllr(llr, target, weight) + 0.005


def test_weights_are_a_half_for_each_class_and_equal_for_its_groups() -> None:
    target = np.array([True, True, True, False, False])
    weight = balanced(target, np.array([0, 0, 1, 0, 1]))
    assert weight.tolist() == [0.125, 0.125, 0.25, 0.25, 0.25]


@pytest.fixture(scope="module")
def fitted() -> Profile:
    trained = bands(1)
    return Profile(comparison=fit_comparison(trained, provenance), gender=fit_gender(trained, provenance))


@pytest.mark.parametrize("band", list(Band))
def test_a_fitted_comparison_is_calibrated_on_other_speakers(fitted: Profile, band: Band) -> None:
    options = Options(cache_dir="", profile=fitted)
    trials = within(whole_samples(bands(101)[band]), options)
    weight = np.ones(len(trials.llr))
    assert measures.equal_error_rate(trials.llr, trials.target, weight) < 0.02
    assert measures.cllr(trials.llr, trials.target, weight) < 0.1
    assert fitted.comparison is not None
    assert fitted.comparison.provenance.data == {"a": 60, "b": 60}


def test_a_fitted_gender_is_right_about_other_speakers(fitted: Profile) -> None:
    samples = whole_samples(bands(101)[Band.WIDE])
    llr = gender_llr([one.voiceprint for one in samples], fitted.gender)
    male = np.array([one.gender == "m" for one in samples])
    assert ((llr > 0) == male).mean() > 0.95
    assert measures.cllr(llr, male, np.ones(len(llr))) < 0.3


def test_a_profile_of_a_source_is_better_on_its_other_speakers() -> None:
    """The source moves every voice the same way, which the built-in back-end takes for likeness."""
    seen, unseen = ({Band.WIDE: sessions("source", 30, 3, seed, moved=1.5, spread=2.0)} for seed in (1, 2))
    backend, moved = calibrate.comparison_of(seen, OPTIONS)
    assert moved is not None
    assert moved.least <= moved.after < moved.before
    costs = []
    for profile in (Profile(), Profile(comparison=backend)):
        trials = within(whole_samples(unseen[Band.WIDE]), Options(cache_dir="", profile=profile))
        costs.append(measures.cllr(trials.llr, trials.target, np.ones(len(trials.llr))))
    assert costs[1] < 0.8 * costs[0]


def test_speakers_recorded_once_move_the_means_only() -> None:
    once = sessions("source", 10, 1, 1)
    backend, moved = calibrate.comparison_of({Band.WIDE: once}, OPTIONS)
    built_in = built_in_comparison()
    assert moved is None
    assert backend.weights == built_in.weights
    assert backend.speaker_means.wide != built_in.speaker_means.wide
    assert backend.speaker_means.telephone == built_in.speaker_means.telephone
    # the weights were trained with a half of the mean subtracted, and nothing here can scale them to the whole
    mean = np.mean([one.voiceprint.embedding for one in whole_samples(once)], axis=0)[:SPEAKER_DIMENSION]
    wanted = 0.5 * MEAN_SHARE * mean + 0.5 * np.array(built_in.speaker_means.wide)  # ten speakers move it half the way
    np.testing.assert_allclose(backend.speaker_means.wide, wanted, atol=1e-5)


def test_one_gender_or_none_leaves_gender_as_built_in() -> None:
    assert calibrate.gender_of({Band.WIDE: sessions("source", 10, 1, 1, gender=False)}) == (None, None)


def test_gender_of_a_source_is_scaled_to_it() -> None:
    backend, moved = calibrate.gender_of({Band.WIDE: sessions("source", 40, 2, 1)})
    assert backend is not None
    assert moved is not None
    assert moved.least <= moved.after < moved.before
    assert backend.provenance.counts.keys() == {"male", "female"}


def test_a_single_speaker_scales_next_to_nothing() -> None:
    llr, target = np.array([5.0, 4.0, -1.0, -2.0]), np.array([True, True, False, False])
    weight = balanced(target, np.zeros(4, np.int64))
    free = calibrate.scaling(llr, target, weight, 10_000)
    drawn = calibrate.scaling(llr, target, weight, 1)
    assert abs(np.log(drawn.scale)) < 0.3 < abs(np.log(free.scale))
