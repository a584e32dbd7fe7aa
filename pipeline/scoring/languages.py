"""Language identification: from utterances' posteriors to a channel's probabilities, five decimals that sum to one."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from pipeline.models.language import LanguageIdentifier
from pipeline.scoring.language_calibration import UNCALIBRATED, LanguageCalibration
from schemas.media import LanguageGroup
from schemas.results import IdentifierType, LanguageOrGroupScore, LanguageScore

Float64 = NDArray[np.float64]
Units = dict[str, int]  # by language

MIN_SPEECH_S = 0.3125  # less speech gives no scores (the reference platform's minimum)
_UNITS = 100_000  # five decimals
_NO_PRIORS: Mapping[str, float] = MappingProxyType({})
_SAMPLE_RATE_HZ = 16_000


def log_posteriors_of(identifier: LanguageIdentifier, samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the model says of an utterance, float32 (n,) in [-1, 1] at 16 kHz: float32 (labels,), empty when it is too short."""
    long_enough = len(samples) / _SAMPLE_RATE_HZ >= MIN_SPEECH_S
    return identifier.log_posteriors(samples) if long_enough else np.zeros(0, np.float32)


class LanguageEvidence:
    """Evidence of one channel: log posteriors (labels,), weighted by speech length; in which order they came is the same."""

    def __init__(self) -> None:
        self._sum: Float64 | None = None
        self.weight_s = 0.0  # of the speech that was identified
        self.speech_s = 0.0  # also of what was too short for that

    def add(self, log_posteriors: NDArray[np.float32], speech_s: float) -> None:
        """Add an utterance; an empty array counts its speech only."""
        self.speech_s += speech_s
        if not log_posteriors.size:
            return
        weighted = log_posteriors.astype(np.float64) * speech_s
        self._sum = weighted if self._sum is None else self._sum + weighted
        self.weight_s += speech_s

    def log_scores(self, calibration: LanguageCalibration = UNCALIBRATED) -> Float64 | None:
        """Calibrated natural-log probabilities of all labels (labels,), not made to sum to 1; None without evidence."""
        if self._sum is None or self.speech_s < MIN_SPEECH_S:
            return None
        log_scores: Float64 = self._sum / self.weight_s * calibration.sharpness(self.weight_s)
        return log_scores

    def scores(
        self,
        labels: Sequence[str],
        allowed: Sequence[str],
        groups: Sequence[LanguageGroup] = (),
        priors: Mapping[str, float] = _NO_PRIORS,
        *,
        calibration: LanguageCalibration = UNCALIBRATED,
        floor: float = 0.0,
    ) -> list[LanguageOrGroupScore]:
        """Scores among the allowed labels, most probable first; none when there was too little speech, or no language in it.

        `priors` weigh the posteriors, by 1 where they name none; at least one allowed label weighs more than 0. A label of a
        group, no two of which share one, is within its group only. Below `floor` (0 to 1) the most probable of all labels,
        allowed or not, is taken for no language: what sounds like speech does not depend on what was asked for.
        """
        weighed = [label for label in allowed if priors.get(label, 1.0) > 0]
        log_scores = self.log_scores(calibration)
        if log_scores is None or not weighed or _softmax(log_scores).max() < floor:
            return []
        chosen = log_scores[[labels.index(label) for label in weighed]] + np.log([priors.get(label, 1.0) for label in weighed])
        return _named(dict(zip(weighed, _to_units(_softmax(chosen)), strict=True)), groups)


def _softmax(log_scores: Float64) -> Float64:
    odds = np.exp(log_scores - log_scores.max())
    shares: Float64 = odds / odds.sum()
    return shares


def _named(units: Units, groups: Sequence[LanguageGroup]) -> list[LanguageOrGroupScore]:
    """The scores of the languages that are in no group, and of the groups; what has no units is left out."""
    grouped = {language for group in groups for language in group.languages}
    scores = [
        LanguageOrGroupScore(one.identifier, one.identifier_type, one.probability)
        for one in _languages({language: count for language, count in units.items() if language not in grouped})
    ]
    for group in groups:
        members = {language: units.get(language, 0) for language in group.languages}
        if total := sum(members.values()):
            inside = _languages(members)
            scores.append(LanguageOrGroupScore(group.identifier, IdentifierType.GROUP, total / _UNITS, inside))
    return sorted(scores, key=_by_probability)


def _languages(units: Units) -> list[LanguageScore]:
    scores = [LanguageScore(name, IdentifierType.LANGUAGE, count / _UNITS) for name, count in units.items() if count]
    return sorted(scores, key=_by_probability)


def _by_probability(score: LanguageScore) -> tuple[float, str]:
    return -score.probability, score.identifier


def _to_units(probabilities: Float64) -> list[int]:
    """Round to whole units that sum to exactly one (largest remainders first)."""
    scaled = probabilities * _UNITS
    units = np.floor(scaled).astype(np.int64)
    for index in np.argsort(units - scaled, kind="stable")[: _UNITS - int(units.sum())]:
        units[index] += 1
    return [int(unit) for unit in units]
