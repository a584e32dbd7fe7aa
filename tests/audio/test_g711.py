from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.audio import g711

Encode = Callable[[NDArray[np.int16]], bytes]
Decode = Callable[[bytes], NDArray[np.int16]]


def test_mulaw_levels_of_the_recommendation() -> None:
    # ITU-T G.711 table 2a: the extreme levels, and both zeros.
    decoded = g711.decode_mulaw(bytes([0x00, 0x80, 0xFF, 0x7F, 0xFE]))
    assert decoded.tolist() == [-32124, 32124, 0, 0, 8]


def test_alaw_levels_of_the_recommendation() -> None:
    # ITU-T G.711 table 1a, even bits inverted: the extremes and the two smallest levels.
    decoded = g711.decode_alaw(bytes([0xAA, 0x2A, 0xD5, 0x55]))
    assert decoded.tolist() == [32256, -32256, 8, -8]


@given(st.binary(min_size=1, max_size=200))
def test_decoded_levels_survive_another_round(audio: bytes) -> None:
    for decode, encode in ((g711.decode_mulaw, g711.encode_mulaw), (g711.decode_alaw, g711.encode_alaw)):
        assert np.array_equal(decode(encode(decode(audio))), decode(audio))


@pytest.mark.parametrize(("encode", "decode"), [(g711.encode_mulaw, g711.decode_mulaw), (g711.encode_alaw, g711.decode_alaw)])
def test_every_sample_goes_to_a_near_level(encode: Encode, decode: Decode) -> None:
    samples = np.arange(-32768, 32768, dtype=np.int16)
    error = np.abs(decode(encode(samples)).astype(int) - samples.astype(int))
    assert (error <= np.maximum(16, np.abs(samples.astype(int)) // 28)).all()
