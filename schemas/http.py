"""Bodies of the query service's answers."""

import msgspec

from schemas.errors import TaskError
from schemas.results import (
    ComparisonResult,
    GenderCallResult,
    GenderResult,
    LanguageResult,
    VadResult,
    VoiceprintResult,
)
from schemas.tasks import TaskInfo, Technology


class TaskAccepted(msgspec.Struct, frozen=True):
    """Body of 202: the task was started."""

    task: TaskInfo


class TaskAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of 200: the task, and its result or error when it is final."""

    task: TaskInfo
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: TaskError | msgspec.UnsetType = msgspec.UNSET


class VadAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of 200 for voice activity detection, as the OpenAPI document shows it."""

    task: TaskInfo
    result: VadResult | msgspec.UnsetType = msgspec.UNSET
    error: TaskError | msgspec.UnsetType = msgspec.UNSET


class VoiceprintAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of 200 for voiceprint extraction."""

    task: TaskInfo
    result: VoiceprintResult | msgspec.UnsetType = msgspec.UNSET
    error: TaskError | msgspec.UnsetType = msgspec.UNSET


class LanguageAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of 200 for language identification."""

    task: TaskInfo
    result: LanguageResult | msgspec.UnsetType = msgspec.UNSET
    error: TaskError | msgspec.UnsetType = msgspec.UNSET


class GenderVoiceprintsAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of 200 for gender identification that was started from voiceprints."""

    task: TaskInfo
    result: GenderResult | msgspec.UnsetType = msgspec.UNSET
    error: TaskError | msgspec.UnsetType = msgspec.UNSET


class GenderCallAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of 200 for gender identification that was started by a call."""

    task: TaskInfo
    result: GenderCallResult | msgspec.UnsetType = msgspec.UNSET
    error: TaskError | msgspec.UnsetType = msgspec.UNSET


class ComparisonAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of 200 for voiceprint comparison."""

    task: TaskInfo
    result: ComparisonResult | msgspec.UnsetType = msgspec.UNSET
    error: TaskError | msgspec.UnsetType = msgspec.UNSET


# Gender has two shapes of result, which JSON tells apart only by their keys.
ANSWERS: dict[Technology, tuple[type[msgspec.Struct], ...]] = {
    Technology.VOICE_ACTIVITY_DETECTION: (VadAnswer,),
    Technology.VOICEPRINT_EXTRACTION: (VoiceprintAnswer,),
    Technology.LANGUAGE_IDENTIFICATION: (LanguageAnswer,),
    Technology.GENDER_IDENTIFICATION: (GenderVoiceprintsAnswer, GenderCallAnswer),
    Technology.VOICEPRINT_COMPARISON: (ComparisonAnswer,),
}


class Health(msgspec.Struct, frozen=True):
    """Body of `GET /health`: the process is up."""

    status: str = "up"


class Readiness(msgspec.Struct, frozen=True):
    """Body of `GET /ready`. A check is `ok`, or says what is wrong; 503 when any is."""

    ready: bool
    checks: dict[str, str]
