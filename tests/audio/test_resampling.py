"""Resampling says the same of the same audio, every time and however it is cut."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.resampling import Int16Stream

RATES = [(48_000, 16_000), (44_100, 16_000), (32_000, 16_000), (22_050, 16_000)]


def resampled(samples: np.ndarray, from_hz: int, to_hz: int, block: int) -> bytes:
    stream = Int16Stream(from_hz, to_hz)
    starts = range(0, len(samples), block)
    return b"".join(stream.feed(samples[at : at + block], last=at == starts[-1]).tobytes() for at in starts)


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
@given(seed=st.integers(0, 1000), length=st.integers(1, 20_000))
def test_the_same_every_time_and_however_it_is_cut(from_hz: int, to_hz: int, seed: int, length: int) -> None:
    samples = np.random.default_rng(seed).integers(-32768, 32768, length).astype(np.int16)
    whole = resampled(samples, from_hz, to_hz, length)
    block = from_hz * 160 // 1000
    assert {resampled(samples, from_hz, to_hz, block) for _ in range(4)} == {whole}


def test_loud_audio_does_not_wrap_around() -> None:
    square = np.tile(np.repeat(np.array([32767, -32768], np.int16), 50), 100)
    out = np.frombuffer(resampled(square, 48_000, 16_000, len(square)), np.int16)
    assert out.min() == -32768
    assert out.max() == 32767
    middle = out[1000 : 1000 + 33]  # one period: half of it is high, half low
    assert np.count_nonzero(middle > 16_000) >= 12
    assert np.count_nonzero(middle < -16_000) >= 12
