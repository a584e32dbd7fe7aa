"""Voiceprint comparison: every voiceprint of list a (columns) against every one of list b (rows)."""

from collections.abc import Sequence

import numpy as np

from pipeline.scoring.calibration import ComparisonBackend
from pipeline.scoring.llr_matrix import comparison_llr
from pipeline.scoring.voiceprint import Voiceprint
from schemas.results import ScoreMatrix

_DECIMALS = 10_000.0


def compare(columns: Sequence[Voiceprint], rows: Sequence[Voiceprint], backend: ComparisonBackend | None = None) -> ScoreMatrix:
    """Calibrated log-likelihood ratios (natural log), row-major; 0 where a voiceprint holds no speech."""
    if not columns or not rows:
        return ScoreMatrix(len(columns), len(rows), [])
    scores = comparison_llr(columns, rows, backend).astype(np.float64)
    rounded = np.rint(scores * _DECIMALS) / _DECIMALS + 0.0  # a zero without a sign
    return ScoreMatrix(len(columns), len(rows), rounded.ravel().tolist())
