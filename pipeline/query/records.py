"""From a `results` record to a row of the view."""

import uuid

import msgspec

from pipeline.query.view import Change, Removal, TaskRow
from schemas.http import TaskAnswer
from schemas.results import Transition
from schemas.tasks import TaskInfo, TaskState

MAX_REVISION = 2**63 - 1  # SQLite holds no larger one

_decoder = msgspec.json.Decoder(Transition)
_encoder = msgspec.json.Encoder()


class RecordInvalidError(Exception):
    """A `results` record that no agent of ours wrote; skip it."""


def canonical_task_id(text: str) -> str:
    """The lower-case text with hyphens of a UUID (RFC 9562). Raises ValueError when it is none."""
    try:
        return str(msgspec.convert(text, uuid.UUID))
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def answer(task: TaskInfo, transition: Transition) -> bytes:
    """The HTTP body of a task: its result or error only once it is final."""
    if not task.state.is_final:
        return _encoder.encode(TaskAnswer(task))
    return _encoder.encode(TaskAnswer(task, transition.result, transition.error))


def around_result(task_id: str, state: TaskState) -> tuple[bytes, bytes]:
    """What stands before and behind the result (JSON) in the HTTP body of a task whose result is kept elsewhere."""
    whole = _encoder.encode(TaskAnswer(TaskInfo(task_id, state), msgspec.Raw(b"null")))
    before, _, after = whole.rpartition(b"null")
    return before, after


def _check(transition: Transition) -> None:
    state = transition.task.state
    has_result = not (isinstance(transition.result, msgspec.UnsetType) and isinstance(transition.result_ref, msgspec.UnsetType))
    has_error = not isinstance(transition.error, msgspec.UnsetType)
    if not 0 <= transition.revision <= MAX_REVISION:
        raise RecordInvalidError(f"revision {transition.revision} is negative, or too large")
    if state is TaskState.DONE and not has_result:
        raise RecordInvalidError("state done without a result")
    if state.is_final and state is not TaskState.DONE and not has_error:
        raise RecordInvalidError(f"state {state} without an error")


def _given(text: str | msgspec.UnsetType) -> str | None:
    return None if isinstance(text, msgspec.UnsetType) else text


def _row(transition: Transition, timestamp_ms: int) -> TaskRow:
    state = transition.task.state
    task_id = canonical_task_id(transition.task.task_id)
    reference = _given(transition.result_ref) if state.is_final else None
    body = answer(TaskInfo(task_id, state), transition) if reference is None else None
    call_id, owner = _given(transition.call_id), _given(transition.owner)
    return TaskRow(task_id, transition.technology, transition.revision, state, body, reference, timestamp_ms, call_id, owner)


def read_change(key: bytes | None, value: bytes | None, timestamp_ms: int) -> Change:
    """What one record does to the view; a tombstone forgets the task. Raises RecordInvalidError."""
    try:
        if value is None:
            return Removal(canonical_task_id((key or b"").decode()))
        transition = _decoder.decode(value)
        _check(transition)
        return _row(transition, timestamp_ms)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise RecordInvalidError(str(error)) from None
