"""Calibrated scores: orientation, zeros, invariants; and the training's own pieces against what is known of them."""

import math
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models import registry
from pipeline.models.models import ModelSet
from pipeline.scoring.calibration import comparison_llr, gender_llr, load_backend
from pipeline.scoring.voiceprint import unit
from pipeline.settings import default_cache_dir
from training.backend_data import mulaw_round_trip
from training.logistic import balanced_weights, cllr, equal_error_rate, fit, measure, optimal_llr

FloatArray = npt.NDArray[np.float32]

SPEECH_DIR = Path(__file__).resolve().parents[3] / "shared" / "speech"


@pytest.fixture(scope="module")
def models() -> ModelSet:
    folder = Path(os.environ.get("CALLSTREAM_TEST_MODELS") or default_cache_dir())
    registry.fetch(folder)
    return ModelSet.load(folder)


def _units(count: int, seed: int, width: int = 192) -> FloatArray:
    vectors = np.random.default_rng(seed).standard_normal((count, width))
    units: FloatArray = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return units


def test_rows_are_b_and_columns_are_a() -> None:
    a, b = _units(5, 1), _units(3, 2)
    b[2] = a[4]
    llr = comparison_llr(a, b)
    assert llr.shape == (3, 5)
    assert llr.dtype == np.float32
    assert divmod(int(llr.argmax()), 5) == (2, 4)


@settings(max_examples=30)
@given(columns=st.integers(1, 9), rows=st.integers(1, 9), seed=st.integers(0, 1000))
def test_comparison_is_symmetric_and_rises_with_the_cosine(columns: int, rows: int, seed: int) -> None:
    a, b = _units(columns, seed), _units(rows, seed + 1)
    llr = comparison_llr(a, b)
    np.testing.assert_allclose(llr, comparison_llr(b, a).T, rtol=0, atol=1e-4)
    order = np.argsort((b @ a.T).ravel(), kind="stable")
    assert (np.diff(llr.ravel()[order]) >= -1e-4).all()


def test_the_same_voice_is_for_and_the_opposite_against() -> None:
    a = _units(1, 3)
    assert comparison_llr(a, a)[0, 0] > 3.0
    assert comparison_llr(a, -a)[0, 0] < -3.0
    assert comparison_llr(a, _units(1, 4))[0, 0] < 0.0


def test_the_threshold_lies_where_the_two_kinds_of_pairs_part() -> None:
    backend = load_backend("comparison")
    assert 0.25 < -backend.bias / backend.weights[0] < 0.55


def test_no_speech_decides_nothing() -> None:
    a, b = _units(3, 5), _units(2, 6)
    a[1], b[0] = 0.0, 0.0
    llr = comparison_llr(a, b)
    assert (llr[0] == 0).all()
    assert (llr[:, 1] == 0).all()
    assert (llr[1, [0, 2]] != 0).all()
    matrix = np.concatenate([_units(2, 7), _units(2, 8, 256)], axis=1)
    matrix[0] = 0.0
    assert gender_llr(matrix)[0] == 0.0
    assert gender_llr(matrix)[1] != 0.0


def test_gender_of_one_does_not_depend_on_the_others() -> None:
    matrix = np.concatenate([_units(50, 9), _units(50, 10, 256)], axis=1)
    together = gender_llr(matrix)
    assert together.dtype == np.float64
    assert [gender_llr(row[np.newaxis])[0] for row in matrix] == together.tolist()


@pytest.mark.parametrize("shape", [(192,), (2, 191), (2, 448)])
def test_another_width_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="is needed"):
        comparison_llr(np.zeros(shape, np.float32), np.zeros((1, 192), np.float32))
    with pytest.raises(ValueError, match="is needed"):
        gender_llr(np.zeros((1, 192), np.float32))


@pytest.mark.parametrize(("name", "width"), [("gender", 448), ("comparison", 1)])
def test_weights_say_where_they_come_from(name: str, width: int) -> None:
    backend = load_backend(name)
    assert len(backend.weights) == width
    assert np.isfinite([*backend.weights, backend.bias]).all()
    assert set(backend.provenance.data) <= {"librispeech_mini", "speechocean762", "dspspeech_zh", "arabic_commands"}
    assert all(backend.provenance.counts.values())


@pytest.mark.parametrize(
    ("speaker", "male"), [("asterisk_multi/ast_core-sounds-fr-wav_fr_00", False), ("fsdd/fsdd_jackson_en_00", True)]
)
def test_gender_of_held_out_voices(models: ModelSet, speaker: str, male: bool) -> None:
    path = SPEECH_DIR / "clips" / f"{speaker}.opus"
    if not path.is_file():
        pytest.skip(f"no speech at {path}")
    samples = np.asarray(soundfile.read(path, dtype="float32")[0], np.float32)
    vector = np.concatenate([unit(models.speaker.embed(samples)), unit(models.voice.embed(samples))])
    assert (gender_llr(vector[np.newaxis])[0] > 0) == male


def test_logistic_regression_recovers_a_known_ratio() -> None:
    """Two Gaussians of unit variance at +1 and -1 have the log-likelihood ratio 2x, whatever the share of each."""
    generator = np.random.default_rng(11)
    x = np.concatenate([generator.normal(1, 1, 60_000), generator.normal(-1, 1, 20_000)])
    target = np.arange(80_000) < 60_000
    weights, bias = fit(x[:, np.newaxis], target, balanced_weights(target, np.zeros(80_000, np.int64)), 1e-9)
    assert weights[0] == pytest.approx(2.0, abs=0.05)
    assert bias == pytest.approx(0.0, abs=0.05)
    found = measure(weights[0] * x + bias, target)
    assert found.eer == pytest.approx(0.5 * math.erfc(1 / math.sqrt(2)), abs=0.005)
    assert found.min_cllr <= found.cllr <= found.min_cllr + 0.005


@given(
    count=st.integers(2, 60),
    seed=st.integers(0, 10_000),
)
def test_no_calibration_beats_the_isotonic_one(count: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    target = np.concatenate([[True, False], generator.random(count - 2) < 0.4])
    score = np.round(generator.normal(target * 1.5, 1), 1)
    best = cllr(optimal_llr(score, target), target)
    assert best <= min(cllr(scale * score + shift, target) for scale in (0.5, 1.5) for shift in (-1.0, -0.5, 0.0)) + 1e-9
    assert 0 <= best <= 1 + 1e-9


def test_measures_at_their_ends() -> None:
    target = np.array([True, True, False, False])
    assert measure(np.array([50.0, 60.0, -50.0, -60.0]), target) == pytest.approx((0, 0, 0), abs=1e-9)
    assert cllr(np.zeros(4), target) == pytest.approx(1.0)
    assert equal_error_rate(np.array([-1.0, -2.0, 1.0, 2.0]), target) == pytest.approx(1.0)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
def test_mulaw_errs_by_no_more_than_half_a_step(values: list[float]) -> None:
    samples = np.array(values, np.float32)
    decoded = mulaw_round_trip(samples)
    # G.711: the step is at most a sixteenth of the segment's begin; beyond 8158/8192 it clips
    assert (
        np.abs(decoded - samples) <= np.abs(samples) / 32 + 33 / 8192 / 32 + 1 / 8192 + 0.02 * (np.abs(samples) > 0.99)
    ).all()
