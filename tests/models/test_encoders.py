"""The encoders at their bounds: one sample, short, long, silent, loud; and from several threads."""

import concurrent.futures
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxruntime.capi.onnxruntime_pybind11_state import get_available_providers

from pipeline.models.errors import ModelError
from pipeline.models.execution import Execution, Provider
from pipeline.models.gender_encoder import WINDOW_FRAMES, window_starts
from pipeline.models.models import ModelSet
from pipeline.models.session import Session
from pipeline.models.verification import reference_signal

FloatArray = npt.NDArray[np.float32]
Embed = Callable[[FloatArray], FloatArray]

LENGTHS = {"one sample": 1, "one frame less a sample": 399, "50 ms": 800, "one frame more": 1999, "15 s": 240_000}


def _embedders(models: ModelSet) -> dict[str, tuple[Embed, int]]:
    return {
        "speaker": (models.speaker.embed, 192),
        "voice": (models.voice.embed, 256),
        "language": (models.language.log_posteriors, 99),
    }


def _sounds(length: int) -> dict[str, FloatArray]:
    voice = np.resize(reference_signal(), length)
    square = np.where(np.arange(length) % 40 < 20, 1.0, -1.0)
    return {"voice": voice, "silence": np.zeros(length, np.float32), "clipped": square.astype(np.float32)}


@pytest.mark.parametrize("role", ["speaker", "voice", "language"])
@pytest.mark.parametrize("length", LENGTHS.values(), ids=LENGTHS.keys())
def test_any_length_and_sound_gives_numbers(models: ModelSet, role: str, length: int) -> None:
    embed, size = _embedders(models)[role]
    for name, sound in _sounds(length).items():
        output = embed(sound)
        assert output.shape == (size,), name
        assert output.dtype == np.float32, name
        assert np.isfinite(output).all(), name


@pytest.mark.parametrize("role", ["speaker", "voice", "language"])
@pytest.mark.parametrize("shape", [(0,), (1, 16_000)])
def test_what_is_no_row_of_samples_is_refused(models: ModelSet, role: str, shape: tuple[int, ...]) -> None:
    embed, _ = _embedders(models)[role]
    with pytest.raises(ValueError, match="samples of shape"):
        embed(np.zeros(shape, np.float32))


@pytest.mark.parametrize("role", ["speaker", "voice", "language"])
def test_threads_and_repeats_give_the_same_bytes(models: ModelSet, role: str) -> None:
    embed, _ = _embedders(models)[role]
    pieces = [reference_signal()[: 16_000 + 3000 * index] for index in range(8)]
    alone = [embed(piece).tobytes() for piece in pieces]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert [output.tobytes() for output in pool.map(embed, pieces)] == alone


def test_posteriors_sum_to_one(models: ModelSet) -> None:
    for sound in _sounds(32_000).values():
        assert np.exp(models.language.log_posteriors(sound).astype(np.float64)).sum() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("gain", [0.05, 1.5])
def test_voice_embedding_does_not_depend_on_the_level(models: ModelSet, gain: float) -> None:
    signal = reference_signal()
    louder = models.voice.embed(signal * np.float32(gain))
    np.testing.assert_allclose(louder, models.voice.embed(signal), rtol=0, atol=1e-4)


def test_voice_embedding_has_unit_length(models: ModelSet) -> None:
    assert np.linalg.norm(models.voice.embed(reference_signal())) == pytest.approx(1.0, abs=1e-5)


def test_beyond_30_s_nothing_is_heard(models: ModelSet) -> None:
    thirty = np.resize(reference_signal(), 480_000)
    longer = np.concatenate([thirty, np.ones(16_000, np.float32)])
    np.testing.assert_array_equal(models.language.log_posteriors(longer), models.language.log_posteriors(thirty))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(1, 40_000), seed=st.integers(0, 2**32 - 1), level=st.floats(1e-5, 1.0))
def test_no_noise_gives_nan(models: ModelSet, length: int, seed: int, level: float) -> None:
    noise = np.random.default_rng(seed).uniform(-level, level, length).astype(np.float32)
    for embed, size in _embedders(models).values():
        output = embed(noise)
        assert output.shape == (size,)
        assert np.isfinite(output).all()


@given(count=st.integers(1, 16_000 * 60))
def test_windows_cover_the_utterance_but_for_a_short_tail(count: int) -> None:
    starts = window_starts(count)
    assert starts == list(range(0, starts[-1] + 1, 77))
    heard_frames = starts[-1] + WINDOW_FRAMES
    assert count / 160 - heard_frames <= 77 + 1
    if len(starts) > 1:
        assert (count - starts[-1] * 160) / (WINDOW_FRAMES * 160) >= 0.75


def test_a_missing_or_broken_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is missing") as missing:
        Session(tmp_path / "none.onnx", ["a"], "b")
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(ModelError, match="cannot be opened") as broken:
        Session(tmp_path / "broken.onnx", ["a"], "b")
    assert all("\n" not in str(error.value) for error in (missing, broken))


def test_wrong_names_say_which_there_are(models: ModelSet, cache_dir: Path) -> None:
    with pytest.raises(ModelError, match="has no 'fbank' but features"):
        Session(cache_dir / "models" / "campplus.onnx", ["fbank"], "embedding")


def test_a_provider_that_is_not_there_is_said(cache_dir: Path) -> None:
    if "CUDAExecutionProvider" in get_available_providers():
        pytest.skip("onnxruntime has CUDA here")
    with pytest.raises(ModelError, match="onnxruntime has no CUDAExecutionProvider here: install onnxruntime-gpu"):
        ModelSet.load(cache_dir, "tiny", execution=Execution(Provider.CUDA))
