"""One fixed example of each record and body, whose bytes are kept in golden/."""

from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.errors import DetailType, ErrorDetail, RequestError, RequestErrorType, TaskError, TaskErrorType
from schemas.http import (
    ComparisonAnswer,
    GenderCallAnswer,
    GenderVoiceprintsAnswer,
    Health,
    LanguageAnswer,
    Readiness,
    TaskAccepted,
    TaskAnswer,
    VadAnswer,
    VoiceprintAnswer,
)
from schemas.media import AudioFormat, CallOptions, Encoding, GivenOptions, LanguageGroup
from schemas.requests import BlobRef, ChannelMode, ComparisonRequest, GenderRequest, MediaRequest, StartTask
from schemas.results import (
    ComparisonResult,
    GenderCallResult,
    GenderChannel,
    GenderResult,
    GenderScore,
    GenderVoiceprint,
    IdentifierType,
    LanguageChannel,
    LanguageOrGroupScore,
    LanguageResult,
    LanguageScore,
    MissingAudio,
    ScoreMatrix,
    Segment,
    SegmentType,
    Transition,
    VadChannel,
    VadResult,
    VoiceprintChannel,
    VoiceprintResult,
)
from schemas.stream import (
    AssemblyState,
    CallBegin,
    CallEnd,
    CallEnded,
    CallOpened,
    CallReferences,
    CallSnapshot,
    Draft,
    EnrolledVoices,
    Fault,
    Print,
    PrintRecord,
    SnapshotRecord,
    SpeechRecord,
    Utterance,
    WatchlistEntry,
)
from schemas.tasks import TaskInfo, TaskState, Technology, call_task_id

CALL_ID = "call-1"
UUID = "123e4567-e89b-12d3-a456-426614174000"
VOICEPRINT = "dm9pY2VwcmludA=="


@dataclass(frozen=True)
class Golden:
    """A value, and the type that it is read as."""

    value: msgspec.Struct
    kind: Any


def _task(state: TaskState) -> TaskInfo:
    return TaskInfo(UUID, state)


DONE = _task(TaskState.DONE)
SEGMENTS = [Segment(SegmentType.VOICE, 0.5, 2.0), Segment(SegmentType.VOICE, 3.43, 7.4)]
VAD = VadResult([VadChannel(0, 5.47, SEGMENTS), VadChannel(1, 0.0, [], [MissingAudio(1.0, 1.25)])])
VOICEPRINTS = VoiceprintResult([VoiceprintChannel(0, VOICEPRINT, 5.47, "model-1")])
ENGLISH = LanguageOrGroupScore("english", IdentifierType.GROUP, 0.02, [LanguageScore("en", IdentifierType.LANGUAGE, 0.02)])
LANGUAGES = LanguageResult(
    [
        LanguageChannel(0, 5.47, [LanguageOrGroupScore("cs", IdentifierType.LANGUAGE, 0.98), ENGLISH]),
        LanguageChannel(1, 0.0, []),
    ]
)
MALE, FEMALE = GenderScore(0.875, 1.9459), GenderScore(0.125, -1.9459)
GENDER_CALL = GenderCallResult([GenderChannel(0, 5.47, MALE, FEMALE), GenderChannel(1, 0.0)])
GENDER = GenderResult([GenderVoiceprint(5.47, MALE, FEMALE), GenderVoiceprint(0.0)])
MATRIX = ComparisonResult(ScoreMatrix(3, 2, [3.0, 1.5, -2.25, 8.0, 0.0, 1e-05]))
CALL_MATRIX = ComparisonResult(ScoreMatrix(1, 2, [4.5, -4.5]), [0], ["compare_with/0", "watchlist/anna"])
MISSING_TASK = ErrorDetail(
    ["path", "task_id"], "Task not found.", DetailType.TASK_NOT_FOUND, {"task_id": UUID, "limits": [1, 2.5, True]}
)
REJECTION = TaskError(
    TaskErrorType.VALIDATION, "Task validation error.", [ErrorDetail(["voiceprints", 0], "no voiceprint", "x")]
)
FAILURE = TaskError(TaskErrorType.INTERNAL, "Service error.")
OPTIONS = CallOptions([Technology.VOICE_ACTIVITY_DETECTION], ["cs", "pt-BR"], [VOICEPRINT], "correlation-1")
FILE_OPTIONS = CallOptions(
    [Technology.LANGUAGE_IDENTIFICATION],
    language_groups=[LanguageGroup("slavic", ["cs", "pl"])],
    language_priors={"cs": 0.5, "en": 0.0},
    max_speech_length=60.5,
    channel_numbers=[3, 1],
    start_time=1.25,
    is_file=True,
    owner="anna",
    request_id="request-1",
)
BLOB = BlobRef("a-reference", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0)
FILE = MediaRequest(CALL_ID, BLOB, ChannelMode.MIX, [3, 1], 1.25, 61.75, FILE_OPTIONS)


def _transition(technology: Technology, revision: int, state: TaskState, **parts: Any) -> Golden:
    task = TaskInfo(call_task_id(CALL_ID, technology), state)
    raw = {name: msgspec.Raw(msgspec.json.encode(part)) for name, part in parts.items() if name in ("partial", "result")}
    return Golden(Transition(technology, revision, task, CALL_ID, **(parts | raw)), Transition)


_RESULTS = {
    "results-vad-pending": _transition(Technology.VOICE_ACTIVITY_DETECTION, 0, TaskState.PENDING),
    "results-vad-running": _transition(Technology.VOICE_ACTIVITY_DETECTION, 1, TaskState.RUNNING, partial=VAD),
    "results-vad-done": _transition(Technology.VOICE_ACTIVITY_DETECTION, 2, TaskState.DONE, result=VAD),
    "results-voiceprint-done": _transition(Technology.VOICEPRINT_EXTRACTION, 2, TaskState.DONE, result=VOICEPRINTS),
    "results-language-done": _transition(Technology.LANGUAGE_IDENTIFICATION, 2, TaskState.DONE, result=LANGUAGES),
    "results-gender-done": _transition(Technology.GENDER_IDENTIFICATION, 2, TaskState.DONE, result=GENDER_CALL),
    "results-comparison-done": _transition(Technology.VOICEPRINT_COMPARISON, 2, TaskState.DONE, result=CALL_MATRIX),
    "results-comparison-large": Golden(
        Transition(Technology.VOICEPRINT_COMPARISON, 2, DONE, result_ref="a-reference"), Transition
    ),
    "results-gender-failed": _transition(Technology.GENDER_IDENTIFICATION, 2, TaskState.FAILED, error=FAILURE),
    "results-owned": _transition(Technology.VOICE_ACTIVITY_DETECTION, 0, TaskState.PENDING, owner="anna"),
    "results-gender-rejected": _transition(Technology.GENDER_IDENTIFICATION, 2, TaskState.REJECTED, error=REJECTION),
}

_ANSWERS = {
    "answer-pending": Golden(TaskAnswer(_task(TaskState.PENDING)), TaskAnswer),
    "answer-done": Golden(TaskAnswer(DONE, msgspec.Raw(msgspec.json.encode(VAD))), TaskAnswer),
    "answer-vad": Golden(VadAnswer(DONE, VAD), VadAnswer),
    "answer-voiceprint": Golden(VoiceprintAnswer(DONE, VOICEPRINTS), VoiceprintAnswer),
    "answer-language": Golden(LanguageAnswer(DONE, LANGUAGES), LanguageAnswer),
    "answer-gender-voiceprints": Golden(GenderVoiceprintsAnswer(DONE, GENDER), GenderVoiceprintsAnswer),
    "answer-gender-call": Golden(GenderCallAnswer(DONE, GENDER_CALL), GenderCallAnswer),
    "answer-comparison": Golden(ComparisonAnswer(DONE, MATRIX), ComparisonAnswer),
    "answer-rejected": Golden(TaskAnswer(_task(TaskState.REJECTED), error=REJECTION), TaskAnswer),
}

JSON_RECORDS = {
    **_RESULTS,
    **_ANSWERS,
    "accepted": Golden(TaskAccepted(_task(TaskState.PENDING)), TaskAccepted),
    "request-error": Golden(RequestError(RequestErrorType.NOT_FOUND, "Resource not found.", [MISSING_TASK]), RequestError),
    "health": Golden(Health(), Health),
    "readiness": Golden(Readiness(False, {"kafka": "ok", "store": "closed"}), Readiness),
    "http-gender": Golden(GenderRequest([VOICEPRINT]), GenderRequest),
    "http-comparison": Golden(ComparisonRequest([VOICEPRINT], [VOICEPRINT, VOICEPRINT]), ComparisonRequest),
    "requests-gender": Golden(StartTask(voiceprints=[VOICEPRINT]), StartTask),
    "requests-comparison": Golden(
        StartTask(Technology.VOICEPRINT_COMPARISON, voiceprints_a=[VOICEPRINT], voiceprints_b=[VOICEPRINT]), StartTask
    ),
    "requests-lists": Golden(StartTask(Technology.VOICEPRINT_COMPARISON, lists=BLOB, owner="anna"), StartTask),
    "requests-media": Golden(StartTask(Technology.LANGUAGE_IDENTIFICATION, media=FILE), StartTask),
    "requests-media-default": Golden(
        StartTask(Technology.LANGUAGE_IDENTIFICATION, media=MediaRequest(CALL_ID, BLOB)), StartTask
    ),
    "options-file": Golden(GivenOptions(*msgspec.structs.astuple(FILE_OPTIONS)), GivenOptions),
    "options": Golden(GivenOptions(*msgspec.structs.astuple(OPTIONS)), GivenOptions),
    "options-default": Golden(GivenOptions(), GivenOptions),
    "watchlist": Golden(WatchlistEntry(VOICEPRINT, "Anna Nováková"), WatchlistEntry),
    "watchlist-unnamed": Golden(WatchlistEntry(VOICEPRINT), WatchlistEntry),
}

ASSEMBLY = AssemblyState(AudioFormat(Encoding.MULAW, 8000, 2), 12, 96_000, 8000, 0, [(100, 200)], [(1, 2)], None)

MSGPACK_RECORDS = {
    "begin": Golden(CallBegin(CALL_ID, 2, OPTIONS, "correlation-1"), SpeechRecord),
    "begin-file": Golden(CallBegin(CALL_ID, 2, FILE_OPTIONS, "correlation-1"), PrintRecord),
    "begin-default": Golden(CallBegin(CALL_ID, 1, CallOptions(), "correlation-1"), PrintRecord),
    "utterance": Golden(Utterance(CALL_ID, 1, 4000, 4004, 8000, bytes(range(8))), SpeechRecord),
    "draft": Golden(Draft(Utterance(CALL_ID, 0, 800, 802, 8000, bytes(4), wants_voice=False)), SpeechRecord),
    "print": Golden(Print(CALL_ID, 1, 4000, 4004, 8000, b"voiceprint", bytes(8)), PrintRecord),
    "end": Golden(CallEnd(CALL_ID, 2), PrintRecord),
    "snapshot": Golden(
        CallSnapshot(CALL_ID, ASSEMBLY, 99, 200, [b"detector"], [[(500, 2000)], []], 7, "correlation-1", 31), SnapshotRecord
    ),
    "opened": Golden(CallOpened(CALL_ID, 30), SnapshotRecord),
    "enrolled": Golden(EnrolledVoices(bytes(range(32)), {"anna": b"voiceprint"}), SnapshotRecord),
    "references": Golden(CallReferences(CALL_ID, bytes(range(32))), SnapshotRecord),
    "ended": Golden(CallEnded(CALL_ID, 42, [(3, 5)]), SnapshotRecord),
    "fault": Golden(Fault(CALL_ID, "a fault"), SpeechRecord),
}
