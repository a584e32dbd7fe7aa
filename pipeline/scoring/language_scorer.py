"""A channel's languages as the settings and its call's options say; and when they are known well enough."""

from __future__ import annotations

from pipeline.models.language import LABELS
from pipeline.scoring.language_choice import allowed_languages
from pipeline.scoring.languages import LanguageEvidence
from pipeline.scoring.profile import load_profile
from pipeline.settings import Settings
from schemas.media import CallOptions
from schemas.results import LanguageOrGroupScore


class LanguageScorer:
    """Scores channels. Raises ProfileError when it is made and the profile of the settings cannot be used."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._calibration = load_profile(settings.calibration_profile).language_of(settings.language_model)

    def scores(self, options: CallOptions, evidence: LanguageEvidence) -> list[LanguageOrGroupScore]:
        """Among the languages that the options allow, the most probable first."""
        return evidence.scores(
            LABELS,
            allowed_languages(options),
            options.language_groups,
            options.language_priors,
            calibration=self._calibration,
            floor=self._settings.language_floor,
        )

    def is_as_probable(self, options: CallOptions, evidence: LanguageEvidence, probability: float) -> bool:
        """Whether the most probable language, or group, is at least so probable."""
        best = self.scores(options, evidence)[:1]
        return bool(best) and best[0].probability >= probability

    def is_enough(self, options: CallOptions, evidence: LanguageEvidence) -> bool:
        """Whether to identify more of the channel would change nothing: also not whether its task may end early."""
        settings = self._settings
        if options.exhaustive or not settings.language_enough:
            return False
        enough, enough_s = settings.language_enough, settings.language_enough_s
        if settings.language_sure:
            enough, enough_s = max(enough, settings.language_sure), max(enough_s, settings.language_sure_s)
        return evidence.speech_s >= enough_s and self.is_as_probable(options, evidence, enough)
