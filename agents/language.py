"""Language identification: adds up the languageprints of a call's channels."""

from collections.abc import Sequence

import numpy as np

from agents.call_stage import CallStage
from pipeline.scoring.language_choice import language_faults
from pipeline.scoring.language_scorer import LanguageScorer
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

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._scorer = LanguageScorer(settings)

    def rejection(self, begin: CallBegin) -> TaskError | None:
        """Languages that the model does not know cannot be told apart."""
        faults = language_faults(begin.options)
        return rejected(faults) if faults else None

    def new_evidence(self, begin: CallBegin) -> list[LanguageEvidence]:
        """Evidence for each channel."""
        return [LanguageEvidence() for _ in range(begin.channels)]

    def add(self, evidence: list[LanguageEvidence], heard: Print) -> bool:
        """Add an utterance to its channel."""
        if heard.languages is None:
            return False
        evidence[heard.channel].add(np.frombuffer(heard.languages, "<f4"), heard.speech_s)
        return True

    def result(self, begin: CallBegin, evidence: list[LanguageEvidence]) -> LanguageResult:
        """The probabilities of each channel, among the allowed languages."""
        scores = [self._scorer.scores(begin.options, one) for one in evidence]
        return LanguageResult(
            [
                LanguageChannel(begin.options.channel_number(number), round(one.speech_s, 3), found)
                for number, (one, found) in enumerate(zip(evidence, scores, strict=True))
            ]
        )

    def is_sure(self, begin: CallBegin, evidence: list[LanguageEvidence]) -> bool:
        """Whether every channel has spoken long enough in a language that is probable enough; one that is silent has not."""
        sure, sure_s = self.settings.language_sure, self.settings.language_sure_s
        if not sure or begin.options.exhaustive or any(one.speech_s < sure_s for one in evidence):
            return False
        return all(self._scorer.is_as_probable(begin.options, one, sure) for one in evidence)


def stages(settings: Settings) -> Sequence[Stage]:
    """The stages of this agent."""
    return [LanguageStage(settings)]
