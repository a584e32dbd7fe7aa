"""Speech or not every 10 ms, read from what silero's LSTM remembers: a logistic regression that looks a little ahead.

Silero gives one probability for 32 ms and answers at once, so it is late where speech begins and ends. What its LSTM puts out
one and two windows later still tells of a frame. The log-odds of a frame are a bias and three products of weights with the
LSTM's output: at the frame's middle, 32 ms and 64 ms later, between the middles of two windows interpolated. Trained by
`training/train_vad.py`, whose record is beside the weights.

Everything goes in blocks of five windows, which are 16 frames. The frames lag half a block behind the windows, so that they
need no window of the next block; the arithmetic is the same for every block.
"""

from pathlib import Path
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

WINDOW_MS: Final = 32
FRAME_MS: Final = 10
BLOCK_WINDOWS: Final = 5
BLOCK_FRAMES: Final = 16
LAG_FRAMES: Final = 8
PAST_WINDOWS: Final = 3  # of the block before, which the lagging frames need
OFFSETS_MS: Final = (0, 32, 64)
_WEIGHTS_PATH = Path(__file__).parent / "vad_readout.json"


class Weights(msgspec.Struct, frozen=True):
    """Of one rate: weights (3, 128) of the LSTM's output, the bias, and what the three products are in silence."""

    weights: list[list[float]]
    bias: float
    silence: list[float]


class Training(msgspec.Struct, frozen=True):
    """How the weights came about: made recordings of clips from these corpora, and the frames used of each kind."""

    script: str
    date: str
    seed: int
    recordings: int
    clips: dict[str, int]
    noises: int
    frames: dict[str, int]
    ridge: float


class ReadoutFile(msgspec.Struct, frozen=True):
    """The file of weights, by rate in Hz."""

    rates: dict[int, Weights]
    training: Training


def interpolation(offset_ms: int) -> Float64Array:
    """How each frame of a block mixes the windows, three of them of the block before, at its middle plus an offset: (16, 8)."""
    windows = PAST_WINDOWS + BLOCK_WINDOWS
    middle_ms = (np.arange(BLOCK_FRAMES) - LAG_FRAMES + 0.5) * FRAME_MS + offset_ms
    place = middle_ms / WINDOW_MS - 0.5 + PAST_WINDOWS
    mix: Float64Array = np.maximum(0.0, 1.0 - np.abs(place[:, None] - np.arange(windows)))
    return mix


class Readout:
    """The probabilities of speech of one channel's frames; `state` is all that it remembers."""

    def __init__(self, rate_hz: int, state: Float64Array | None = None) -> None:
        """Begin in silence, or go on from a `state` (3, 3)."""
        found = _FILE.rates[rate_hz]
        self._weights = np.array(found.weights, np.float32).T.copy()
        self._bias = found.bias
        self._silence = np.tile(np.array(found.silence), (BLOCK_WINDOWS, 1))
        self._mix = np.concatenate([interpolation(offset_ms)[:, :, None] for offset_ms in OFFSETS_MS], axis=2).reshape(
            BLOCK_FRAMES, -1
        )
        self.state = self._silence[:PAST_WINDOWS] if state is None else state
        self.is_silent = bool((self.state == self._silence[:PAST_WINDOWS]).all())  # whether it remembers nothing else

    def read(self, hidden: Float32Array) -> list[float]:
        """The next block's 16 probabilities, which lag half a block, from the LSTM's outputs (5, 128)."""
        self.is_silent = False
        return self._push((hidden @ self._weights).astype(np.float64))

    def skip(self) -> list[float]:
        """The next block's probabilities when it is silent."""
        self.is_silent = True
        return self._push(self._silence)

    def last(self) -> list[float]:
        """The probabilities that still lag, with the end taken for going on as it was."""
        return self._push(np.tile(self.state[-1], (BLOCK_WINDOWS, 1)))

    def _push(self, products: Float64Array) -> list[float]:
        seen = np.concatenate((self.state, products))
        self.state = seen[-PAST_WINDOWS:]
        log_odds = self._mix @ seen.ravel() + self._bias
        probabilities: list[float] = (1.0 / (1.0 + np.exp(-log_odds))).tolist()
        return probabilities


_FILE = msgspec.json.decode(_WEIGHTS_PATH.read_bytes(), type=ReadoutFile)
