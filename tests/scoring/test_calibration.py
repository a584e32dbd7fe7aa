"""Calibrated scores: orientation, zeros, invariants, what they take into account; and profiles of one's own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models import products, registry
from pipeline.models.models import ModelSet
from pipeline.scoring import llr_matrix
from pipeline.scoring.calibration import (
    COMPARISON_INPUTS,
    BandMeans,
    ComparisonBackend,
    GenderBackend,
    Provenance,
    built_in_comparison,
    built_in_gender,
    gender_llr,
    side,
)
from pipeline.scoring.extraction import voiceprint_of
from pipeline.scoring.gender import gender_scores
from pipeline.scoring.llr_matrix import comparison_llr
from pipeline.scoring.profile import Profile, ProfileError, load_profile
from pipeline.scoring.voiceprint import EMPTY, MODEL, SPEAKER_DIMENSION, VOICE_DIMENSION, Voiceprint, from_embeddings
from pipeline.settings import default_cache_dir

SPEECH_DIR = Path(__file__).resolve().parents[3] / "shared" / "speech"
PROVENANCE = Provenance("test", "2026-01-01", 0, {}, {}, 0.0)


@pytest.fixture(scope="module")
def models() -> ModelSet:
    folder = Path(os.environ.get("CALLSTREAM_TEST_MODELS") or default_cache_dir())
    registry.fetch(folder)
    return ModelSet.load(folder)


def voices(count: int, seed: int, speech_s: float = 5.0) -> list[Voiceprint]:
    generator = np.random.default_rng(seed)
    speaker = generator.standard_normal((count, SPEAKER_DIMENSION)).astype(np.float32)
    voice = generator.standard_normal((count, VOICE_DIMENSION)).astype(np.float32)
    return [from_embeddings(*each, speech_s) for each in zip(speaker, voice, strict=True)]


def plain(weights: list[float], bias: float = 0.0, speaker_mean: float = 0.0) -> ComparisonBackend:
    """A back-end without means and bands, of which each weight can be looked at alone."""
    return ComparisonBackend(
        narrow_direction=[0.0] * SPEAKER_DIMENSION,
        narrow_bias=0.0,
        speaker_means=BandMeans([speaker_mean] * SPEAKER_DIMENSION, [speaker_mean] * SPEAKER_DIMENSION),
        voice_means=BandMeans([0.0] * VOICE_DIMENSION, [0.0] * VOICE_DIMENSION),
        weights=weights,
        bias=bias,
        provenance=PROVENANCE,
    )


def test_rows_are_b_and_columns_are_a() -> None:
    a, b = voices(5, 1), voices(3, 2)
    b[2] = a[4]
    llr = comparison_llr(a, b)
    assert llr.shape == (3, 5)
    assert llr.dtype == np.float32
    assert divmod(int(llr.argmax()), 5) == (2, 4)


@settings(max_examples=30)
@given(columns=st.integers(1, 9), rows=st.integers(1, 9), seed=st.integers(0, 1000))
def test_comparison_is_symmetric_and_of_each_pair_alone(columns: int, rows: int, seed: int) -> None:
    a, b = voices(columns, seed, 1.5), voices(rows, seed + 1, 8.0)
    llr = comparison_llr(a, b)
    np.testing.assert_allclose(llr, comparison_llr(b, a).T, rtol=0, atol=1e-4)
    np.testing.assert_allclose(llr[rows - 1, columns - 1], comparison_llr(a[-1:], b[-1:])[0, 0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("wide", [1, 1000])
@pytest.mark.parametrize(("block", "part"), [(2, 7), (7, 2), (5, 2), (4, 3)])
def test_every_block_of_a_long_list_is_scored(monkeypatch: pytest.MonkeyPatch, block: int, part: int, wide: int) -> None:
    """Lengths of speech differ, and one in the last block, which is not a whole one, says nothing."""
    a = voices(3, 1, 2.0)
    b = [one for number in range(7) for one in voices(1, 10 + number, 1.0 + number)]
    b[6] = EMPTY
    expected = [[comparison_llr([left], [right])[0, 0] for left in a] for right in b]
    monkeypatch.setattr(llr_matrix, "_BLOCK", block * len(a))
    monkeypatch.setattr(llr_matrix, "_PART", part * len(a))
    monkeypatch.setattr(products, "_WIDE", wide)
    monkeypatch.setattr(llr_matrix, "_READ_ROWS", 2)
    np.testing.assert_allclose(comparison_llr(a, b), expected, rtol=0, atol=1e-4)
    assert not comparison_llr(a, b)[6].any()


def test_the_back_end_is_the_formula_that_it_states() -> None:
    a, b = voices(4, 3, 1.0), voices(3, 4, 4.0)
    weights = [10.0, 3.0, 1.0, -2.0, 0.5, 0.7, -0.9]
    llr = comparison_llr(a, b, plain(weights, bias=-1.0))
    halves = [(one.embedding[:SPEAKER_DIMENSION], one.embedding[SPEAKER_DIMENSION:]) for one in (*a, *b)]
    for row in range(3):
        for column in range(4):
            s, v = (float(x @ y) for x, y in zip(halves[column], halves[4 + row], strict=True))
            u, narrow = 1.0 + 0.5, 0.5  # 1/sqrt(1 s) + 1/sqrt(4 s); without a direction nothing says which band
            inputs = [s, v, u, u * s, u * v, 2 * narrow, narrow * narrow]
            assert llr[row, column] == pytest.approx(np.dot(weights, inputs) - 1.0, abs=1e-4)


def test_means_are_subtracted_before_vectors_are_compared() -> None:
    (one,) = voices(1, 5)
    mean = float(one.embedding[0])
    found = side([one], plain([0.0] * COMPARISON_INPUTS, speaker_mean=mean)).speaker[0]
    wanted = one.embedding[:SPEAKER_DIMENSION] - mean
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted), atol=1e-6)


def test_the_mean_of_the_band_is_subtracted_that_a_voice_came_through() -> None:
    one, other = voices(2, 6)
    towards = 50.0 * (one.embedding - other.embedding)[:SPEAKER_DIMENSION]
    backend = msgspec.structs.replace(
        plain([0.0] * COMPARISON_INPUTS),
        narrow_direction=towards.tolist(),
        speaker_means=BandMeans([0.0] * SPEAKER_DIMENSION, [0.1] * SPEAKER_DIMENSION),
    )
    found = side([one, other], backend)
    assert found.narrow[0] > 0.99 > 0.01 > found.narrow[1]
    np.testing.assert_allclose(found.speaker[1], other.embedding[:SPEAKER_DIMENSION], atol=1e-3)
    moved = one.embedding[:SPEAKER_DIMENSION] - 0.1
    np.testing.assert_allclose(found.speaker[0], moved / np.linalg.norm(moved), atol=1e-3)


@given(seed=st.integers(0, 1000))
def test_the_less_speech_the_less_two_strangers_are_told_apart(seed: int) -> None:
    llrs = [comparison_llr(voices(1, seed, speech_s), voices(1, seed + 1, speech_s))[0, 0] for speech_s in (1.0, 3.0, 10.0)]
    assert llrs == sorted(llrs, reverse=True)
    assert llrs[-1] < 0


def test_speech_beyond_what_was_trained_on_counts_as_its_end() -> None:
    a, b = voices(1, 8, 0.05), voices(1, 9, 500.0)
    ends = [Voiceprint(a[0].embedding, 0.3)], [Voiceprint(b[0].embedding, 60.0)]
    assert comparison_llr(a, b)[0, 0] == comparison_llr(*ends)[0, 0]


def test_no_speech_decides_nothing() -> None:
    a, b = voices(3, 5), voices(2, 6)
    a[1], b[0] = EMPTY, EMPTY
    llr = comparison_llr(a, b)
    assert (llr[0] == 0).all()
    assert (llr[:, 1] == 0).all()
    assert (llr[1, [0, 2]] != 0).all()
    genders = gender_llr([EMPTY, *voices(1, 7)])
    assert genders[0] == 0.0
    assert genders[1] != 0.0


@pytest.mark.parametrize("half", [slice(None, SPEAKER_DIMENSION), slice(SPEAKER_DIMENSION, None)], ids=["speaker", "voice"])
def test_a_voiceprint_without_one_of_its_embeddings_decides_nothing(half: slice) -> None:
    (whole,) = voices(1, 7)
    lame = whole.embedding.copy()
    lame[half] = 0.0
    strangers = [Voiceprint(lame, 5.0), Voiceprint(lame, 3.0), whole, Voiceprint(whole.embedding, 0.0)]
    llr = comparison_llr(strangers, strangers)
    assert llr[2, 2] > 0
    llr[2, 2] = 0.0
    assert not llr.any()
    assert gender_llr(strangers)[[0, 1, 3]].tolist() == [0.0, 0.0, 0.0]
    assert [scores is None for scores in gender_scores(strangers)] == [True, True, False, True]


@pytest.mark.parametrize("model", ["", "another"])
@pytest.mark.parametrize(
    "part", [{"comparison": built_in_comparison()}, {"gender": built_in_gender()}], ids=["comparison", "gender"]
)
def test_a_profile_for_other_voiceprints_is_refused(tmp_path: Path, part: dict[str, Any], model: str) -> None:
    (tmp_path / "profile.json").write_bytes(msgspec.json.encode(Profile(**part, voiceprint_model=model)))
    with pytest.raises(ProfileError, match=f"is for voiceprints of {model or 'no model that it says'}, not of {MODEL}"):
        load_profile(str(tmp_path / "profile.json"))


@pytest.mark.parametrize("changed", [{"bias": 1e9}, {"weights": [float("inf")] * COMPARISON_INPUTS}, {"weights": [1.0]}])
def test_a_profile_of_which_scores_are_not_finite_is_refused(tmp_path: Path, changed: dict[str, object]) -> None:
    fields = {**msgspec.to_builtins(plain([0.0] * COMPARISON_INPUTS)), **changed}
    (tmp_path / "profile.json").write_text(json.dumps({"comparison": fields}))
    with pytest.raises(ProfileError, match="is no calibration profile"):
        load_profile(str(tmp_path / "profile.json"))


def test_gender_of_one_does_not_depend_on_the_others() -> None:
    every = voices(50, 9)
    together = gender_llr(every)
    assert together.dtype == np.float64
    assert [gender_llr([one])[0] for one in every] == together.tolist()


def test_gender_is_the_formula_that_it_states() -> None:
    (one,) = voices(1, 10, 4.0)
    backend = GenderBackend([1.0] * one.embedding.size, [2.0, -0.5, 0.25], 0.125, PROVENANCE)
    x, u = float(one.embedding.sum(dtype=np.float64)), 0.5
    assert gender_llr([one], backend)[0] == pytest.approx(2 * x - 0.5 * u * x + 0.25 * u + 0.125, abs=1e-9)


@pytest.mark.parametrize("backend", [built_in_comparison(), built_in_gender()], ids=["comparison", "gender"])
def test_weights_say_where_they_come_from(backend: ComparisonBackend | GenderBackend) -> None:
    assert np.isfinite([*backend.weights, backend.bias]).all()
    assert set(backend.provenance.data) <= {"librispeech_mini", "speechocean762", "dspspeech_zh", "arabic_commands"}
    assert all(backend.provenance.counts.values())
    assert backend.provenance.script == "training/train_backends.py"


@pytest.mark.parametrize(
    ("speaker", "male"), [("asterisk_multi/ast_core-sounds-fr-wav_fr_00", False), ("fsdd/fsdd_jackson_en_00", True)]
)
def test_gender_of_held_out_voices(models: ModelSet, speaker: str, male: bool) -> None:
    path = SPEECH_DIR / "clips" / f"{speaker}.opus"
    if not path.is_file():
        pytest.skip(f"no speech at {path}")
    samples = np.asarray(soundfile.read(path, dtype="float32")[0], np.float32)
    assert (gender_llr([voiceprint_of(models, samples, len(samples) / 16_000)])[0] > 0) == male


def test_without_a_path_nothing_is_changed() -> None:
    assert load_profile("") == Profile()


def test_a_profile_is_what_scores(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(
        msgspec.json.encode(Profile(comparison=plain([0.0] * COMPARISON_INPUTS, bias=1.25), voiceprint_model=MODEL))
    )
    found = load_profile(str(path))
    assert found.gender is None
    assert comparison_llr(voices(1, 1), voices(1, 2), found.comparison)[0, 0] == 1.25


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is no calibration profile"),
        ("[]", "is no calibration profile"),
        ('{"comparision": null}', "comparision"),
        ('{"gender": {"direction": [1.0], "weights": [1, 1, 1], "bias": 0, "provenance": {}}}', "gender"),
        ("\xff", "is no calibration profile"),
        ('{"language": {"scale": -1.0, "exponent": 0.0}}', "scale"),
        ('{"language": {"scale": 1.0, "exponent": 0.0, "longest_s": -3}}', "longest_s"),
        ('{"language": {"scal": 1.0, "exponent": 0.0}}', "scal"),
        ('{"language": {"scale": 1.0}}', "exponent"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ProfileError, match=fault):
        load_profile(str(path))


def test_a_profile_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="No such file"):
        load_profile(str(tmp_path / "none.json"))
