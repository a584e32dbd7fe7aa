"""ITU-T G.711: µ-law and A-law, decoded by the C code of audioop, encoded by table to the nearest level.

audioop is Python's own until 3.12, and audioop-lts from then on.
"""

import audioop
import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Int16 = NDArray[np.int16]

MULAW_SILENCE = 0xFF  # +0
ALAW_SILENCE = 0xD5  # the smallest positive level: A-law has no zero


def decode_mulaw(audio: bytes) -> Int16:
    """µ-law bytes to int16 samples, shape (n,)."""
    return np.frombuffer(audioop.ulaw2lin(audio, 2), np.int16)


def decode_alaw(audio: bytes) -> Int16:
    """A-law bytes to int16 samples, shape (n,)."""
    return np.frombuffer(audioop.alaw2lin(audio, 2), np.int16)


@functools.cache
def _encode_table(decode: Callable[[bytes], Int16]) -> NDArray[np.uint8]:
    """The code of the nearest level for each of the 65,536 int16 values, indexed by value + 32768."""
    decoded = decode(bytes(range(256)))
    order = np.argsort(decoded, kind="stable")
    levels = decoded[order].astype(np.int32)
    values = np.arange(-32768, 32768, dtype=np.int32)
    upper = np.clip(np.searchsorted(levels, values), 1, 255)
    nearest = np.where(values - levels[upper - 1] <= levels[upper] - values, upper - 1, upper)
    return order[nearest].astype(np.uint8)


def encode_mulaw(samples: Int16) -> bytes:
    """Int16 samples (n,) to µ-law bytes."""
    return bytes(_encode_table(decode_mulaw)[samples.astype(np.int32) + 32768])


def encode_alaw(samples: Int16) -> bytes:
    """Int16 samples (n,) to A-law bytes."""
    return bytes(_encode_table(decode_alaw)[samples.astype(np.int32) + 32768])
