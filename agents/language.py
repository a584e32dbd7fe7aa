"""Language identification: adds up the languageprints of a call's channels."""

from collections.abc import Sequence

import numpy as np

from agents.call_stage import CallStage
from pipeline.models.language import LABELS, MASKED_BY_DEFAULT
from pipeline.scoring.languages import LanguageEvidence
from pipeline.settings import Settings
from pipeline.stage import Stage
from pipeline.transitions import rejected
from schemas.errors import ErrorDetail, TaskError
from schemas.results import LanguageChannel, LanguageResult
from schemas.stream import CallBegin, Print
from schemas.tasks import Technology

_DEFAULT = [label for label in LABELS if label not in MASKED_BY_DEFAULT]


class LanguageStage(CallStage[list[LanguageEvidence]]):
    """Which languages a call's channels speak."""

    name = "language"
    technology = Technology.LANGUAGE_IDENTIFICATION

    def rejection(self, begin: CallBegin) -> TaskError | None:
        """Languages that the model does not know cannot be told apart."""
        unknown = [
            ErrorDetail(
                ["options", "languages", index], f"{language!r} is not a language that the model knows", "language.unknown"
            )
            for index, language in enumerate(begin.options.languages or [])
            if language not in LABELS
        ]
        if begin.options.languages == []:
            unknown = [ErrorDetail(["options", "languages"], "the list of languages is empty", "language.none")]
        return rejected(unknown) if unknown else None

    def new_evidence(self, begin: CallBegin) -> list[LanguageEvidence]:
        """Evidence for each channel."""
        return [LanguageEvidence() for _ in range(begin.channels)]

    def add(self, evidence: list[LanguageEvidence], heard: Print) -> None:
        """Add an utterance to its channel."""
        evidence[heard.channel].add(np.frombuffer(heard.languages, "<f4"), heard.speech_s)

    def result(self, begin: CallBegin, evidence: list[LanguageEvidence]) -> LanguageResult:
        """The probabilities of each channel, among the allowed languages."""
        allowed = list(dict.fromkeys(begin.options.languages)) if begin.options.languages else _DEFAULT
        return LanguageResult(
            [
                LanguageChannel(number, round(one.speech_s, 3), one.scores(LABELS, allowed))
                for number, one in enumerate(evidence)
            ]
        )


def stages(settings: Settings) -> Sequence[Stage]:
    """The stages of this agent."""
    return [LanguageStage(settings)]
