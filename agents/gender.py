"""Gender identification, of a call's channels and of lists of voiceprints."""

from collections.abc import Sequence

from agents.call_stage import add_voiceprint
from agents.request_stage import RequestStage
from pipeline.scoring.gender import gender_scores
from pipeline.scoring.profile import load_profile
from pipeline.scoring.voiceprint import VoiceprintSum
from pipeline.settings import Settings
from pipeline.stage import Stage
from pipeline.start_tasks import decode_list
from schemas.requests import StartTask
from schemas.results import GenderCallResult, GenderChannel, GenderResult, GenderScore, GenderVoiceprint
from schemas.stream import CallBegin, Print
from schemas.tasks import Technology


class GenderStage(RequestStage[list[VoiceprintSum]]):
    """Whether a voice is male or female."""

    name = "gender"
    technology = Technology.GENDER_IDENTIFICATION

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._backend = load_profile(settings.calibration_profile).gender

    def new_evidence(self, begin: CallBegin) -> list[VoiceprintSum]:
        """A sum for each channel."""
        return [VoiceprintSum() for _ in range(begin.channels)]

    def add(self, evidence: list[VoiceprintSum], heard: Print) -> bool:
        """Add an utterance to its channel."""
        return add_voiceprint(evidence, heard)

    def result(self, begin: CallBegin, evidence: list[VoiceprintSum]) -> GenderCallResult:
        """The scores of each channel, absent where there was no speech."""
        scores = gender_scores([one.merged() for one in evidence], self._backend)
        return GenderCallResult(
            [
                GenderChannel(begin.options.channel_number(number), round(one.speech_s, 3), **_named(pair))
                for number, (one, pair) in enumerate(zip(evidence, scores, strict=True))
            ]
        )

    def answer(self, request: StartTask) -> GenderResult:
        """The scores of each voiceprint, in input order."""
        voiceprints = decode_list("voiceprints", request.voiceprints)
        pairs = zip(voiceprints, gender_scores(voiceprints, self._backend), strict=True)
        return GenderResult([GenderVoiceprint(round(one.speech_s, 3), **_named(pair)) for one, pair in pairs])


def _named(pair: tuple[GenderScore, GenderScore] | None) -> dict[str, GenderScore]:
    return {} if pair is None else {"male": pair[0], "female": pair[1]}


def stages(settings: Settings) -> Sequence[Stage]:
    """The stages of this agent."""
    return [GenderStage(settings)]
