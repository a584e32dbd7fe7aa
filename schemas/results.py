"""A `results` record: one state transition of one task, and the result of each technology."""

import enum

import msgspec

from schemas.errors import TaskError
from schemas.tasks import TaskInfo, Technology


class SegmentType(enum.StrEnum):
    """What a segment holds."""

    VOICE = "voice"


class Segment(msgspec.Struct, frozen=True):
    """A stretch of speech; seconds from the begin of the call, or of the file that it was cut from; 10 ms apart."""

    segment_type: SegmentType
    start_time: float
    end_time: float


class MissingAudio(msgspec.Struct, frozen=True):
    """A stretch that never came and counts as silence; seconds from the begin of the call, or of its file."""

    start_time: float
    end_time: float


class VadChannel(msgspec.Struct, frozen=True, omit_defaults=True):
    """One channel of a VAD result; `speech_length` (s) is the exact sum of its segments."""

    channel_number: int
    speech_length: float
    segments: list[Segment]
    missing: list[MissingAudio] | msgspec.UnsetType = msgspec.UNSET


class VadResult(msgspec.Struct, frozen=True):
    """Result of voice activity detection."""

    channels: list[VadChannel]


class VoiceprintChannel(msgspec.Struct, frozen=True):
    """One channel's voiceprint (Base64) over so much of its speech (s) as `speech_length` says; 0 where there was none."""

    channel_number: int
    voiceprint: str
    speech_length: float
    model: str


class VoiceprintResult(msgspec.Struct, frozen=True):
    """Result of voiceprint extraction."""

    channels: list[VoiceprintChannel]


class IdentifierType(enum.StrEnum):
    """Whether a language score belongs to one language or to a group."""

    LANGUAGE = "language"
    GROUP = "group"


class LanguageScore(msgspec.Struct, frozen=True):
    """Probability of one language (RFC 5646 tag), five decimals."""

    identifier: str
    identifier_type: IdentifierType
    probability: float


class LanguageOrGroupScore(LanguageScore, frozen=True, omit_defaults=True):
    """Probability of a language, or of a group: then the exact sum of its `languages`."""

    languages: list[LanguageScore] | msgspec.UnsetType = msgspec.UNSET


class LanguageChannel(msgspec.Struct, frozen=True):
    """One channel's languages, most probable first; none where there was too little speech, or nothing like a language."""

    channel_number: int
    speech_length: float
    scores: list[LanguageOrGroupScore]


class LanguageResult(msgspec.Struct, frozen=True):
    """Result of language identification."""

    channels: list[LanguageChannel]


class GenderScore(msgspec.Struct, frozen=True):
    """`probability` of male and female sum to 1; `score_llr` is a natural-log likelihood ratio."""

    probability: float
    score_llr: float


class GenderVoiceprint(msgspec.Struct, frozen=True, omit_defaults=True):
    """Gender of one voiceprint; the scores are absent when there was no speech (s)."""

    speech_length: float
    male: GenderScore | msgspec.UnsetType = msgspec.UNSET
    female: GenderScore | msgspec.UnsetType = msgspec.UNSET


class GenderChannel(msgspec.Struct, frozen=True, omit_defaults=True):
    """Gender of one channel of a call; the scores are absent when there was no speech (s)."""

    channel_number: int
    speech_length: float
    male: GenderScore | msgspec.UnsetType = msgspec.UNSET
    female: GenderScore | msgspec.UnsetType = msgspec.UNSET


class GenderCallResult(msgspec.Struct, frozen=True):
    """Result of gender identification of a call."""

    channels: list[GenderChannel]


class GenderResult(msgspec.Struct, frozen=True):
    """Result of gender identification from a list of voiceprints, in input order."""

    voiceprints: list[GenderVoiceprint]


class ScoreMatrix(msgspec.Struct, frozen=True):
    """Log-likelihood ratios (natural log), row-major: `voiceprints_a` are columns, `voiceprints_b` are rows."""

    columns_count: int
    rows_count: int
    values: list[float]


class ComparisonResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """Result of voiceprint comparison.

    For a call the columns are `channels`, those that had speech, and the rows are `references`: `compare_with/N` for
    the N-th voiceprint given with the call, `watchlist/SUBJECT` for an enrolled one.
    """

    scores: ScoreMatrix
    channels: list[int] | msgspec.UnsetType = msgspec.UNSET
    references: list[str] | msgspec.UnsetType = msgspec.UNSET


class Transition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `results` record as agents write it. `result` and `partial` are JSON of the technology's result.

    `revision` counts this task's records from 0; `call_id` is absent when the task came from a request with voiceprints, of a
    file it is `upload-` and a UUID; `owner` is the name of the API key that started it over HTTP, absent when there was none.
    """

    technology: Technology
    revision: int
    task: TaskInfo
    call_id: str | msgspec.UnsetType = msgspec.UNSET
    partial: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    result_ref: str | msgspec.UnsetType = msgspec.UNSET
    error: TaskError | msgspec.UnsetType = msgspec.UNSET
    owner: str | msgspec.UnsetType = msgspec.UNSET
