"""Voiceprints: who speaks, as a vector."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from pipeline.models.execution import ALONE, Execution
from pipeline.models.features import KaldiFbank
from pipeline.models.manifest import FeatureKind, Features
from pipeline.models.session import Rewrite, Session

FloatArray = npt.NDArray[np.float32]

CAMPPLUS_FEATURES: Final = Features(kind=FeatureKind.KALDI_FBANK, bins=80, window="povey", mean_subtracted=True)
_MIN_FRAMES: Final = 10  # the standard deviation over time needs more than one frame, at half the rate


class SpeakerEncoder:
    """CAM++ (https://arxiv.org/abs/2303.00332), or another model on Kaldi filter banks. Thread-safe."""

    def __init__(
        self,
        path: Path | str,
        features: Features = CAMPPLUS_FEATURES,
        input_name: str = "features",
        output_name: str = "embedding",
        execution: Execution = ALONE,
        add_lengths: Rewrite | None = None,
    ) -> None:
        """Open the converted model. It makes batches only with an input `lengths` added to it. Raises ModelError."""
        self._takes_lengths = execution.is_batched and add_lengths is not None
        self._execution = execution if self._takes_lengths else execution.alone()
        inputs = (input_name, "lengths") if self._takes_lengths else (input_name,)
        self._session = Session(path, inputs, output_name, self._execution, add_lengths if self._takes_lengths else None)
        self._features = features
        self._fbank = KaldiFbank(
            features.bins, features.window, features.frame_length_ms, features.frame_shift_ms, features.sample_rate_hz
        )
        per_ms = features.sample_rate_hz / 1000
        self._min_samples = round((features.frame_length_ms + (_MIN_FRAMES - 1) * features.frame_shift_ms) * per_ms)

    def embed(self, samples: FloatArray) -> FloatArray:
        """float32 (n,) in [-1, 1] at 16 kHz, n >= 1 -> float32 (192,), not of unit length.

        It is the output of the last batch normalisation. Less than 115 ms is repeated up to that length. Raises ValueError when
        there are no samples.
        """
        fbank = self._fbank(self._long_enough(samples) * np.float32(self._features.sample_scale))
        if self._features.mean_subtracted:
            fbank = fbank - fbank.mean(axis=0)
        embedding: FloatArray = self._session.run(*self._rows(fbank))[0]
        return embedding

    def _rows(self, fbank: FloatArray) -> tuple[FloatArray, ...]:
        """One row of a batch: made as long as others of about its length, with what counts of it."""
        if not self._takes_lengths:
            return (fbank[np.newaxis],)
        behind = self._execution.length(len(fbank)) - len(fbank)
        return np.pad(fbank, ((0, behind), (0, 0)))[np.newaxis], np.array([len(fbank)], np.float32)

    def _long_enough(self, samples: FloatArray) -> FloatArray:
        if samples.ndim != 1 or not samples.size:
            raise ValueError(f"samples of shape {samples.shape} where (n,) with n >= 1 is needed")
        # repeated rather than padded with zeros: the mean over time is subtracted, and silence would dominate it
        return samples if samples.size >= self._min_samples else np.resize(samples, self._min_samples)
