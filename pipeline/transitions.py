"""State transitions of tasks as `results` records."""

import uuid

import msgspec

from pipeline.publishing import MAX_RECORD_BYTES
from pipeline.records import OutgoingRecord, headers_of
from schemas.errors import ErrorDetail, TaskError, TaskErrorType
from schemas.media import Header
from schemas.results import Transition
from schemas.tasks import NAMESPACE, TaskInfo, TaskState, Technology, call_task_id

_JSON = msgspec.json.Encoder()
ENVELOPE_BYTES = 4096  # room for all but the result
_MAX_DETAILS = 100
_MAX_MESSAGE_CHARS = 500


def failed(message: str) -> TaskError:
    """The error of a task that met a fault."""
    return TaskError(
        TaskErrorType.INTERNAL, "Service error.", [ErrorDetail(["root"], message[:_MAX_MESSAGE_CHARS], "internal")]
    )


def rejected(details: list[ErrorDetail]) -> TaskError:
    """The error of a task whose requirements are not met: the first faults, in short."""
    return TaskError(TaskErrorType.VALIDATION, "Task validation error.", [_short(detail) for detail in details[:_MAX_DETAILS]])


def _short(detail: ErrorDetail) -> ErrorDetail:
    return msgspec.structs.replace(detail, message=detail.message[:_MAX_MESSAGE_CHARS])


def derived_correlation_id(text: str) -> str:
    """A correlation id where none was given; derived, so that a replay repeats it."""
    return str(uuid.uuid5(NAMESPACE, f"{text}/correlation"))


class TaskLog:
    """Makes the records of one task; `revision` counts them."""

    def __init__(
        self,
        technology: Technology,
        task_id: str,
        correlation_id: str,
        *,
        call_id: str | None = None,
        first_revision: int = 0,
        request_id: str | None = None,
        owner: str | None = None,
    ) -> None:
        self.technology = technology
        self.task_id = task_id
        self.revision = first_revision
        self._correlation_id = correlation_id
        self._request_id = request_id
        self._call_id: str | msgspec.UnsetType = msgspec.UNSET if call_id is None else call_id
        self._owner: str | msgspec.UnsetType = msgspec.UNSET if owner is None else owner

    @classmethod
    def of_call(
        cls,
        technology: Technology,
        call_id: str,
        correlation_id: str,
        *,
        first_revision: int = 0,
        request_id: str | None = None,
        owner: str | None = None,
    ) -> "TaskLog":
        """The log of a call's task."""
        return cls(
            technology,
            call_task_id(call_id, technology),
            correlation_id,
            call_id=call_id,
            first_revision=first_revision,
            request_id=request_id,
            owner=owner,
        )

    def pending(self, source: str) -> OutgoingRecord:
        """The task is known."""
        return self._record(TaskState.PENDING, source)

    def running(self, source: str, partial: msgspec.Struct | None = None) -> OutgoingRecord:
        """The task is in work; `partial` is what is known by now."""
        raw = None if partial is None else _JSON.encode(partial)
        if raw is None or len(raw) > MAX_RECORD_BYTES - ENVELOPE_BYTES:
            return self._record(TaskState.RUNNING, source)
        return self._record(TaskState.RUNNING, source, partial=msgspec.Raw(raw))

    def done(self, source: str, result: bytes) -> OutgoingRecord:
        """The result is here, as JSON."""
        return self._record(TaskState.DONE, source, result=msgspec.Raw(result))

    def done_elsewhere(self, source: str, name: str) -> OutgoingRecord:
        """The result is in the blob store, under this name."""
        return self._record(TaskState.DONE, source, result_ref=name)

    def ended(self, source: str, error: TaskError) -> OutgoingRecord:
        """The task failed or was rejected, as the error's type says."""
        state = TaskState.FAILED if error.type is TaskErrorType.INTERNAL else TaskState.REJECTED
        return self._record(state, source, error=error)

    def _record(self, state: TaskState, source: str, **parts: object) -> OutgoingRecord:
        info = TaskInfo(self.task_id, state)
        transition = Transition(self.technology, self.revision, info, self._call_id, owner=self._owner, **parts)  # type: ignore[arg-type]
        self.revision += 1
        headers = {
            Header.CONTENT_TYPE: "application/json",
            Header.CORRELATION_ID: self._correlation_id,
            Header.SOURCE: source,
        }
        if self._request_id is not None:  # most tasks come from no HTTP request
            headers[Header.REQUEST_ID] = self._request_id
        return OutgoingRecord("results", self.task_id.encode(), _JSON.encode(transition), headers_of(headers))
