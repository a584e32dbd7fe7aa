"""From a call's sample rate to the rate that its speech is heard at: 8000 Hz stays, all others become 16000 Hz."""

import numpy as np
import soxr
from numpy.typing import NDArray

Int16 = NDArray[np.int16]

WIDE_HZ = 16000
NARROW_HZ = 8000


def analysis_rate_hz(sample_rate_hz: int) -> int:
    """The rate at which a call of this rate is heard."""
    return NARROW_HZ if sample_rate_hz == NARROW_HZ else WIDE_HZ


class Int16Stream:
    """One channel (n,) int16 from one rate to another, block by block; the same samples give the same samples every time.

    soxr works in float32 here: to int16 it dithers from a random seed (https://github.com/chirlu/soxr/issues/8).
    """

    def __init__(self, from_hz: int, to_hz: int) -> None:
        self._stream = soxr.ResampleStream(from_hz, to_hz, 1, dtype="float32", quality="HQ")

    def feed(self, samples: Int16, *, last: bool = False) -> Int16:
        """Samples in, what is ready by now out; after `last` nothing may come."""
        resampled: NDArray[np.float32] = self._stream.resample_chunk(samples.astype(np.float32), last=last)
        whole: Int16 = np.clip(np.rint(resampled), -32768, 32767).astype(np.int16)
        return whole


class StreamResampler:
    """One channel to its analysis rate. Feed it equal blocks: its output then depends on the audio alone.

    soxr's state cannot be saved. `restart` begins a new stream behind a block that it is given to warm up with; what follows
    is then the same wherever the stream before it began.
    """

    def __init__(self, sample_rate_hz: int) -> None:
        self._from_hz, self._to_hz = sample_rate_hz, analysis_rate_hz(sample_rate_hz)
        self._drop = 0
        self._stream = self._new_stream()

    def _new_stream(self) -> Int16Stream | None:
        return None if self._from_hz == self._to_hz else Int16Stream(self._from_hz, self._to_hz)

    def restart(self, block_before: Int16) -> None:
        """Begin anew behind this block (n,); the stream before must have been told its last samples."""
        self._stream = self._new_stream()
        if self._stream is not None:
            self._drop = len(block_before) * self._to_hz // self._from_hz
            self._warm_up(self._stream.feed(block_before))

    def _warm_up(self, resampled: Int16) -> Int16:
        dropped = min(self._drop, len(resampled))
        self._drop -= dropped
        return resampled[dropped:]

    def feed(self, samples: Int16, *, last: bool = False) -> Int16:
        """Samples (n,) in, what is ready at the analysis rate out, shape (m,)."""
        if self._stream is None:
            return samples
        return self._warm_up(self._stream.feed(samples, last=last))


def to_wide(samples: Int16, sample_rate_hz: int) -> NDArray[np.float32]:
    """A whole utterance (n,) as float32 in [-1, 1] at 16000 Hz, for the models."""
    scaled = samples.astype(np.float32)
    scaled *= np.float32(1 / 32768)  # where it lies: a power of two, so the same bits as divided
    if sample_rate_hz == WIDE_HZ:
        return scaled
    resampled: NDArray[np.float32] = soxr.resample(scaled, sample_rate_hz, WIDE_HZ, quality="HQ")
    return resampled
