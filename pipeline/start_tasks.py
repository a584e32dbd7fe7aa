"""Start-task requests from `requests`: read, attributed to a technology, checked; their voiceprints decoded."""

import uuid

import msgspec

from pipeline.blobs import BlobError, BlobStore, read_checked
from pipeline.records import UNDECODABLE, DeadLetterError, Record, correlation_id_of, request_id_of
from pipeline.request_lists import read_lists
from pipeline.scoring.voiceprint import Voiceprint, VoiceprintError, decode, decode_all
from pipeline.transitions import TaskLog, derived_correlation_id
from schemas.errors import DeadLetterType, ErrorDetail
from schemas.requests import MAX_MATRIX, MAX_VOICEPRINTS, StartTask
from schemas.tasks import Technology, request_task_id

# what is started from a media file
FROM_MEDIA = (
    Technology.VOICE_ACTIVITY_DETECTION,
    Technology.VOICEPRINT_EXTRACTION,
    Technology.LANGUAGE_IDENTIFICATION,
)

_DECODER = msgspec.json.Decoder(StartTask)


class ListsError(ValueError):
    """The lists of a request cannot be used; the task is rejected."""

    def __init__(self, details: list[ErrorDetail]) -> None:
        super().__init__(details[0].message)
        self.details = details


def read_start_task(record: Record) -> tuple[Technology, StartTask]:
    """Read a request and tell whose it is. Raises DeadLetterError."""
    try:
        request = _DECODER.decode(record.value or b"")
    except UNDECODABLE as error:
        raise DeadLetterError(DeadLetterType.REQUEST_INVALID, f"not a start-task request: {error}") from None
    technology = request.technology or _told_by_lists(request)
    if request.media is not None and technology in FROM_MEDIA:
        return technology, request
    if technology not in (Technology.GENDER_IDENTIFICATION, Technology.VOICEPRINT_COMPARISON):
        what = technology or "this"
        message = f"{what} cannot be started from voiceprints; give voiceprints, or voiceprints_a and voiceprints_b"
        raise DeadLetterError(DeadLetterType.REQUEST_INVALID, message)
    return technology, request


def _told_by_lists(request: StartTask) -> Technology | None:
    if request.voiceprints is not None:
        return Technology.GENDER_IDENTIFICATION
    if request.voiceprints_a is not None or request.voiceprints_b is not None:
        return Technology.VOICEPRINT_COMPARISON
    return None


def owner(record: Record) -> Technology:
    """The technology whose agent deals with this record; what nobody can read is the gender agent's to bury."""
    try:
        technology, _ = read_start_task(record)
    except DeadLetterError:
        return Technology.GENDER_IDENTIFICATION
    return technology


def with_lists(technology: Technology, request: StartTask, store: BlobStore) -> StartTask:
    """The request with the lists that its blob holds. Raises DeadLetterError when they are gone or others, OSError."""
    assert request.lists is not None
    try:
        lists = read_lists(technology, read_checked(store, request.lists))
    except (BlobError, *UNDECODABLE) as error:
        raise DeadLetterError(DeadLetterType.BLOB_MISSING, str(error)) from None
    return msgspec.structs.replace(request, **lists)


def task_log(record: Record, technology: Technology, owner: str | None) -> TaskLog:
    """The log of the task that a request starts. Raises DeadLetterError when its key is no UUID."""
    correlation_id = correlation_id_of(record)
    if record.key is None:
        task_id = request_task_id(f"{record.source}/{technology.value}")
    else:
        try:
            task_id = str(uuid.UUID(record.key.decode()))
        except ValueError:
            message = f"a request's key is its task id, a UUID; this is {record.key[:60]!r}"
            raise DeadLetterError(DeadLetterType.KEY_INVALID, message) from None
    correlation_id = correlation_id or derived_correlation_id(task_id)
    return TaskLog(technology, task_id, correlation_id, request_id=request_id_of(record), owner=owner)


def decode_list(name: str, texts: list[str] | None) -> list[Voiceprint]:
    """The voiceprints of one list. Raises ListsError with one detail for each fault."""
    if not texts:
        raise ListsError([ErrorDetail([name], "the list must hold at least one voiceprint", "list.too-short")])
    if len(texts) > MAX_VOICEPRINTS:
        message = f"the list holds {len(texts)} voiceprints, more than {MAX_VOICEPRINTS}"
        raise ListsError([ErrorDetail([name], message, "list.too-long")])
    try:
        return decode_all(texts)
    except ValueError:
        return _one_by_one(name, texts)


def _one_by_one(name: str, texts: list[str]) -> list[Voiceprint]:
    voiceprints, details = [], []
    for index, text in enumerate(texts):
        try:
            voiceprints.append(decode(text))
        except VoiceprintError as error:
            details.append(ErrorDetail([name, index], str(error), "voiceprint.invalid"))
    if details:
        raise ListsError(details)
    return voiceprints


def decode_pair(request: StartTask) -> tuple[list[Voiceprint], list[Voiceprint]]:
    """Both lists of a comparison. Raises ListsError."""
    size = len(request.voiceprints_a or []) * len(request.voiceprints_b or [])
    if size > MAX_MATRIX:
        message = f"{size} comparisons, more than {MAX_MATRIX}"
        raise ListsError([ErrorDetail(["voiceprints_a"], message, "matrix.too-large")])
    return decode_list("voiceprints_a", request.voiceprints_a), decode_list("voiceprints_b", request.voiceprints_b)
