"""Gender of voiceprints: log-likelihood ratios (natural log) and probabilities at equal priors."""

from collections.abc import Sequence

import numpy as np

from pipeline.scoring.calibration import GenderBackend, gender_llr
from pipeline.scoring.voiceprint import Voiceprint
from schemas.results import GenderScore

_MAX_LLR = 700.0  # exp() of more overflows


def gender_scores(
    voiceprints: Sequence[Voiceprint], backend: GenderBackend | None = None
) -> list[tuple[GenderScore, GenderScore] | None]:
    """Male and female scores of each voiceprint; None where it holds no speech."""
    if not voiceprints:
        return []
    llrs = gender_llr(voiceprints, backend)
    return [_scores(float(llr)) if one.speech_s > 0 else None for one, llr in zip(voiceprints, llrs, strict=True)]


def _scores(llr: float) -> tuple[GenderScore, GenderScore]:
    llr = min(max(llr, -_MAX_LLR), _MAX_LLR)
    male = round(1.0 / (1.0 + float(np.exp(-llr))), 5)
    return GenderScore(male, round(llr, 4) + 0.0), GenderScore(round(1.0 - male, 5), round(-llr, 4) + 0.0)  # never -0.0
