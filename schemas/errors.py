"""The error envelope that tasks and HTTP answers share, and the types of errors."""

import enum

import msgspec

ContextScalar = str | int | float | bool
ContextValue = ContextScalar | list[ContextScalar]


class ErrorDetail(msgspec.Struct, frozen=True, omit_defaults=True):
    """One fault: where it is, what it is, and a machine-readable type."""

    location: list[int | str]
    message: str
    type: str
    context: dict[str, ContextValue] = {}


class TaskErrorType(enum.StrEnum):
    """Why a task ended without a result."""

    INTERNAL = "internal"  # state failed
    VALIDATION = "task.validation-error"  # state rejected


class TaskError(msgspec.Struct, frozen=True):
    """The `error` object of a failed or rejected task."""

    type: TaskErrorType
    message: str
    detail: list[ErrorDetail] = []


class RequestErrorType(enum.StrEnum):
    """Why an HTTP request was refused."""

    INTERNAL = "internal"
    NOT_FOUND = "resource.not-found"
    METHOD_INVALID = "method.invalid"
    FORBIDDEN = "request.forbidden"
    INVALID = "request.invalid"
    VALIDATION = "request.validation-error"
    RATE_LIMIT = "request.rate-limit-exceeded"
    SIZE_LIMIT = "request.size-limit-exceeded"
    STORAGE = "storage.capacity-exceeded"


class DetailType(enum.StrEnum):
    """The `type` of one fault of an HTTP request."""

    TASK_NOT_FOUND = "task.not-found"
    TASK_ID_INVALID = "task-id.invalid"
    VALUE_MISSING = "value.missing"
    VALUE_TYPE = "value.type-invalid"
    LIST_EMPTY = "list.empty"
    LIST_TOO_LONG = "list.too-long"
    MATRIX_TOO_LARGE = "matrix.too-large"
    BASE64_INVALID = "base64.invalid"
    BODY_TOO_LARGE = "body.too-large"
    MEDIA_TOO_LARGE = "media.too-large"
    VALUE_INVALID = "value.invalid"
    KEY_UNKNOWN = "key.unknown"
    API_KEY_MISSING = "api-key.missing"
    API_KEY_INVALID = "api-key.invalid"
    HOST_FOREIGN = "host.foreign"
    HEADERS_TOO_LARGE = "headers.too-large"
    CAPACITY_EXCEEDED = "licensing.capacity-exceeded"


class RequestError(msgspec.Struct, frozen=True):
    """The body of every HTTP answer of 400 and above."""

    type: RequestErrorType
    message: str
    detail: list[ErrorDetail] = []


class DeadLetterType(enum.StrEnum):
    """The `error-type` header of a `dead-letters` record."""

    KEY_INVALID = "key.invalid"  # no key, not UTF-8, longer than 128 characters, or no UUID where one is asked for
    HEADER_MISSING = "header.missing"
    HEADER_INVALID = "header.invalid"
    ENCODING_UNKNOWN = "encoding.unknown"
    SAMPLE_RATE_INVALID = "sample-rate.invalid"
    CHANNELS_INVALID = "channels.invalid"
    CHUNK_TOO_LARGE = "chunk.too-large"
    CHUNK_EMPTY = "chunk.empty"
    CHUNK_LATE = "chunk.late"  # its place was already filled with silence
    FORMAT_CHANGED = "format.changed"  # not the format that the call began with
    PARTITION_CHANGED = "partition.changed"  # not the partition that the call began in
    GAP_TOO_LONG = "gap.too-long"  # believing it would mean minutes of silence
    POSITION_CONFLICT = "position.conflict"  # overlaps what was already heard
    OPTIONS_INVALID = "options.invalid"
    CALL_ENDED = "call.ended"  # after the call's last chunk
    REQUEST_INVALID = "request.invalid"
    BLOB_MISSING = "blob.missing"  # what the request refers to is not in the blob store, or is not what was put there
    RECORD_INVALID = "record.invalid"  # an internal topic holds what no agent wrote
    INTERNAL = "internal"  # a fault of ours: the record is fine, replay it after the fix
