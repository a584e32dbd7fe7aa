"""ITU-T G.711: µ-law and A-law, decoded and encoded by table."""

import numpy as np
from numpy.typing import NDArray

Int16 = NDArray[np.int16]

MULAW_SILENCE = 0xFF  # +0
ALAW_SILENCE = 0xD5  # the smallest positive level: A-law has no zero


def _mulaw_table() -> Int16:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = ((((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.int16)


def _alaw_table() -> Int16:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    exponent, mantissa = (code & 0x70) >> 4, (code & 0x0F) << 4
    magnitude = np.where(exponent == 0, mantissa + 8, (mantissa + 0x108) << np.maximum(exponent - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype(np.int16)


def _encode_table(decode: Int16) -> NDArray[np.uint8]:
    """The code of the nearest level for each of the 65,536 int16 values, indexed by value + 32768."""
    order = np.argsort(decode, kind="stable")
    levels = decode[order].astype(np.int32)
    values = np.arange(-32768, 32768, dtype=np.int32)
    upper = np.clip(np.searchsorted(levels, values), 1, 255)
    nearest = np.where(values - levels[upper - 1] <= levels[upper] - values, upper - 1, upper)
    return order[nearest].astype(np.uint8)


_MULAW_DECODE = _mulaw_table()
_ALAW_DECODE = _alaw_table()


def decode_mulaw(audio: bytes) -> Int16:
    """µ-law bytes to int16 samples, shape (n,)."""
    return _MULAW_DECODE[np.frombuffer(audio, np.uint8)]


def decode_alaw(audio: bytes) -> Int16:
    """A-law bytes to int16 samples, shape (n,)."""
    return _ALAW_DECODE[np.frombuffer(audio, np.uint8)]


def encode_mulaw(samples: Int16) -> bytes:
    """Int16 samples (n,) to µ-law bytes."""
    return bytes(_encode_table(_MULAW_DECODE)[samples.astype(np.int32) + 32768])


def encode_alaw(samples: Int16) -> bytes:
    """Int16 samples (n,) to A-law bytes."""
    return bytes(_encode_table(_ALAW_DECODE)[samples.astype(np.int32) + 32768])
