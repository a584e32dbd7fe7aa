"""How far language posteriors are to be believed, fitted to recordings whose languages are known."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from pipeline.accuracy.language_trials import Heard, Posteriors, evidence_of
from pipeline.models.language import LABELS, MASKED_BY_DEFAULT
from pipeline.scoring.language_calibration import LanguageCalibration

Float64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_ALLOWED = np.array([label not in MASKED_BY_DEFAULT for label in LABELS])
_DECIMALS = 4
_SCALES = (0.1, 10.0)
_EXPONENTS = (0.0, 1.0)  # more speech is never less evidence, nor more than if every second were independent of the others


class Examples:
    """Channels (n,): mean log posteriors (n, 99), seconds of speech that these are of, the true label's place, and weight.

    Every corpus and language weighs the same. Channels without evidence, and of languages that are not allowed by default, are
    left out.
    """

    def __init__(self, heard: Sequence[Heard]) -> None:
        usable = [one for one in heard if one.clip.language not in MASKED_BY_DEFAULT]
        channels = [(one.clip, said) for one in usable for said in (*one.first.values(), one.whole) if _says(said)]
        evidence = [evidence_of(said) for _, said in channels]
        scores = [mean for one in evidence if (mean := one.log_scores()) is not None]
        self.mean: Float64 = np.array(scores).reshape(len(scores), len(LABELS))
        self.speech_s: Float64 = np.array([one.weight_s for one in evidence])
        self.truth: Ints = np.array([LABELS.index(clip.language) for clip, _ in channels], np.int64)
        _, group, counts = np.unique(
            [f"{clip.corpus}/{clip.language}" for clip, _ in channels], return_inverse=True, return_counts=True
        )
        self.weight: Float64 = 1.0 / counts[group] / max(len(counts), 1)

    def __len__(self) -> int:
        return len(self.truth)

    def cross_entropy_bits(self, calibration: LanguageCalibration) -> float:
        """Among the languages that are allowed by default."""
        sharpness = np.array([calibration.sharpness(float(one)) for one in self.speech_s])
        scores = np.where(_ALLOWED, self.mean * sharpness[:, np.newaxis], -np.inf)
        top = scores.max(axis=1)
        total = top + np.log(np.exp(scores - top[:, np.newaxis]).sum(axis=1))
        return float(self.weight @ (total - scores[np.arange(len(self.truth)), self.truth]) / np.log(2))


def _says(posteriors: Posteriors) -> bool:
    return evidence_of(posteriors).log_scores() is not None


def fitted(examples: Examples) -> LanguageCalibration:
    """Scale and exponent of least cross entropy."""

    def cost(theta: Float64) -> float:
        return examples.cross_entropy_bits(LanguageCalibration(float(theta[0]), float(theta[1])))

    begin, bounds = np.array([1.0, 0.1]), (_SCALES, _EXPONENTS)
    scale, exponent = minimize(cost, begin, method="Nelder-Mead", bounds=bounds).x.round(_DECIMALS).tolist()
    return LanguageCalibration(scale, exponent)


def rescaled(examples: Examples, before: LanguageCalibration, penalty: float) -> LanguageCalibration:
    """Another scale, drawn to the one before: a factor of e costs `penalty` bits."""

    def cost(theta: Float64) -> float:
        scale = _bounded(before.scale * math.exp(float(theta[0])))
        return examples.cross_entropy_bits(LanguageCalibration(scale, before.exponent)) + penalty * float(theta[0]) ** 2

    factor = math.exp(float(minimize(cost, np.zeros(1), method="Nelder-Mead").x[0]))
    return LanguageCalibration(round(_bounded(before.scale * factor), _DECIMALS), before.exponent, before.longest_s)


def _bounded(scale: float) -> float:
    return min(max(scale, _SCALES[0]), _SCALES[1])
