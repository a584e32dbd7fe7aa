"""The voice encoder that gender is told from."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.models.execution import ALONE, Execution
from pipeline.models.features import HOP_SAMPLES, SAMPLE_RATE_HZ, mel_power
from pipeline.models.session import Session

FloatArray = npt.NDArray[np.float32]

WINDOW_FRAMES: Final = 160  # 1.6 s
_WINDOWS_PER_S: Final = 1.3
_STEP_FRAMES: Final = round(SAMPLE_RATE_HZ / _WINDOWS_PER_S / HOP_SAMPLES)
_MIN_COVERAGE: Final = 0.75  # of the last window; less is left out

# The mel energies are not logarithmic, so level matters: 20 dB less cost up to 25 points of accuracy without this.
LEVEL_DBFS: Final = -30.0


class VoiceEncoder:
    """GE2E (https://arxiv.org/abs/1710.10467) with Resemblyzer's weights and windows. Thread-safe."""

    def __init__(
        self,
        path: Path | str,
        bins: int = 40,
        input_name: str = "features",
        output_name: str = "embedding",
        level_dbfs: float | None = LEVEL_DBFS,
        execution: Execution = ALONE,
    ) -> None:
        """Open the converted model. Audio is brought to `level_dbfs` (None leaves its level). Raises ModelError."""
        self._session = Session(path, [input_name], output_name, execution)
        self._bins = bins
        self._level_dbfs = level_dbfs

    def embed(self, samples: FloatArray) -> FloatArray:
        """float32 (n,) in [-1, 1] at 16 kHz, n >= 1 -> float32 (256,), of unit length and not negative.

        The mean over windows of 1.6 s, as Resemblyzer's `embed_utterance`, behind its `normalize_volume`. Raises ValueError
        when there are no samples.
        """
        if samples.ndim != 1 or not samples.size:
            raise ValueError(f"samples of shape {samples.shape} where (n,) with n >= 1 is needed")
        starts = window_starts(samples.size)
        end = (starts[-1] + WINDOW_FRAMES) * HOP_SAMPLES
        padded = np.pad(self._at_level(samples), (0, max(0, end - samples.size)))
        mel = mel_power(padded, self._bins, "constant")
        partials = self._session.run(np.stack([mel[start : start + WINDOW_FRAMES] for start in starts]))
        mean = partials.mean(axis=0)
        unit: FloatArray = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return unit

    def _at_level(self, samples: FloatArray) -> FloatArray:
        if self._level_dbfs is None:
            return samples
        rms = float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))
        return samples * np.float32(10 ** (self._level_dbfs / 20) / max(rms, 1e-6))


def window_starts(sample_count: int) -> list[int]:
    """The first frame of each window: every 77 frames, the last one only when three quarters of it hold samples."""
    frames = -(-(sample_count + 1) // HOP_SAMPLES)
    starts = list(range(0, max(1, frames - WINDOW_FRAMES + _STEP_FRAMES + 1), _STEP_FRAMES))
    coverage = (sample_count - starts[-1] * HOP_SAMPLES) / (WINDOW_FRAMES * HOP_SAMPLES)
    if coverage < _MIN_COVERAGE and len(starts) > 1:
        starts.pop()
    return starts
