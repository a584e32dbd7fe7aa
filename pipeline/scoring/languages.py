"""Language identification: from utterances' posteriors to a channel's probabilities, five decimals that sum to one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.results import IdentifierType, LanguageOrGroupScore

Float64 = NDArray[np.float64]

MIN_SPEECH_S = 0.3125  # less speech gives no scores (the reference platform's minimum)
_UNITS = 100_000  # five decimals


class LanguageEvidence:
    """Evidence of one channel: log posteriors (labels,), weighted by speech length."""

    def __init__(self) -> None:
        self._sum: Float64 | None = None
        self._weight_s = 0.0
        self.speech_s = 0.0

    def add(self, log_posteriors: NDArray[np.float32], speech_s: float) -> None:
        """Add an utterance; an empty array counts its speech only."""
        self.speech_s += speech_s
        if not log_posteriors.size:
            return
        weighted = log_posteriors.astype(np.float64) * speech_s
        self._sum = weighted if self._sum is None else self._sum + weighted
        self._weight_s += speech_s

    def scores(self, labels: Sequence[str], allowed: Sequence[str]) -> list[LanguageOrGroupScore]:
        """Scores among the allowed labels, most probable first; none when there was too little speech."""
        if self._sum is None or self.speech_s < MIN_SPEECH_S:
            return []
        log_mean = self._sum[[labels.index(label) for label in allowed]] / self._weight_s
        probabilities = np.exp(log_mean - log_mean.max())
        units = _to_units(probabilities / probabilities.sum())
        order = sorted(range(len(allowed)), key=lambda index: (-units[index], allowed[index]))
        return [
            LanguageOrGroupScore(allowed[index], IdentifierType.LANGUAGE, units[index] / _UNITS)
            for index in order
            if units[index]
        ]


def _to_units(probabilities: Float64) -> list[int]:
    """Round to whole units that sum to exactly one (largest remainders first)."""
    scaled = probabilities * _UNITS
    units = np.floor(scaled).astype(np.int64)
    for index in np.argsort(units - scaled, kind="stable")[: _UNITS - int(units.sum())]:
        units[index] += 1
    return [int(unit) for unit in units]
