"""Language identification: adds up the languageprints of a call's channels."""

from collections.abc import Sequence

import numpy as np

from agents.call_stage import CallStage
from pipeline.models.language import LABELS
from pipeline.scoring.language_choice import allowed_languages, language_faults
from pipeline.scoring.languages import LanguageEvidence
from pipeline.settings import Settings
from pipeline.stage import Stage
from pipeline.transitions import rejected
from schemas.errors import TaskError
from schemas.results import LanguageChannel, LanguageResult
from schemas.stream import CallBegin, Print
from schemas.tasks import Technology


class LanguageStage(CallStage[list[LanguageEvidence]]):
    """Which languages a call's channels speak."""

    name = "language"
    technology = Technology.LANGUAGE_IDENTIFICATION

    def rejection(self, begin: CallBegin) -> TaskError | None:
        """Languages that the model does not know cannot be told apart."""
        faults = language_faults(begin.options)
        return rejected(faults) if faults else None

    def new_evidence(self, begin: CallBegin) -> list[LanguageEvidence]:
        """Evidence for each channel."""
        return [LanguageEvidence() for _ in range(begin.channels)]

    def add(self, evidence: list[LanguageEvidence], heard: Print) -> None:
        """Add an utterance to its channel."""
        evidence[heard.channel].add(np.frombuffer(heard.languages, "<f4"), heard.speech_s)

    def result(self, begin: CallBegin, evidence: list[LanguageEvidence]) -> LanguageResult:
        """The probabilities of each channel, among the allowed languages."""
        options, allowed = begin.options, allowed_languages(begin.options)
        scores = [one.scores(LABELS, allowed, options.language_groups, options.language_priors) for one in evidence]
        return LanguageResult(
            [
                LanguageChannel(options.channel_number(number), round(one.speech_s, 3), found)
                for number, (one, found) in enumerate(zip(evidence, scores, strict=True))
            ]
        )


def stages(settings: Settings) -> Sequence[Stage]:
    """The stages of this agent."""
    return [LanguageStage(settings)]
