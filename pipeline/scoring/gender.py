"""Gender of voiceprints: log-likelihood ratios (natural log) and probabilities at equal priors."""

from collections.abc import Sequence

import numpy as np

from pipeline.scoring.calibration import GenderBackend, gender_llr, silent
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
    nothing = silent(voiceprints).tolist()
    return [None if no_voice else _scores(float(llr)) for no_voice, llr in zip(nothing, llrs, strict=True)]


def _scores(llr: float) -> tuple[GenderScore, GenderScore]:
    llr = min(max(llr, -_MAX_LLR), _MAX_LLR)
    male = round(1.0 / (1.0 + float(np.exp(-llr))), 5)
    return GenderScore(male, round(llr, 4) + 0.0), GenderScore(round(1.0 - male, 5), round(-llr, 4) + 0.0)  # never -0.0
