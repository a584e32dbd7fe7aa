"""Faults of HTTP requests, and their answers in the envelope of `schemas.errors.RequestError`."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec

from schemas.errors import ContextValue, DetailType, ErrorDetail, RequestError, RequestErrorType

MAX_DETAILS = 1000
JSON_TYPE = "application/json"

_encoder = msgspec.json.Encoder()


class RequestRefusedError(Exception):
    """The request is answered with an error: a status code, an envelope, and headers."""

    def __init__(self, status: HTTPStatus, error: RequestError, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(f"{status.value} {error.type}: {error.message}")
        self.status = status
        self.error = error
        self.headers = dict(headers or {})

    @property
    def body(self) -> bytes:
        """The envelope as JSON."""
        return _encoder.encode(self.error)


def resource_not_found() -> RequestRefusedError:
    """404 of a path that leads nowhere."""
    return RequestRefusedError(HTTPStatus.NOT_FOUND, RequestError(RequestErrorType.NOT_FOUND, "Resource not found."))


def task_not_found(task_id: str) -> RequestRefusedError:
    """404 of a task that is unknown, expired, or of another technology."""
    detail = ErrorDetail(["root"], "Task not found.", DetailType.TASK_NOT_FOUND, {"task_id": task_id})
    return RequestRefusedError(HTTPStatus.NOT_FOUND, RequestError(RequestErrorType.NOT_FOUND, "Resource not found.", [detail]))


def method_invalid(headers: Mapping[str, str]) -> RequestRefusedError:
    """405; `headers` should hold Allow (RFC 9110, 15.5.6)."""
    error = RequestError(RequestErrorType.METHOD_INVALID, "Invalid method.")
    return RequestRefusedError(HTTPStatus.METHOD_NOT_ALLOWED, error, headers)


def request_invalid() -> RequestRefusedError:
    """400 of a body that is no JSON."""
    return RequestRefusedError(HTTPStatus.BAD_REQUEST, RequestError(RequestErrorType.INVALID, "Invalid request."))


def validation_failed(details: Sequence[ErrorDetail]) -> RequestRefusedError:
    """422 with one entry a fault, the first 1,000 of them."""
    error = RequestError(RequestErrorType.VALIDATION, "Request validation error.", list(details[:MAX_DETAILS]))
    return RequestRefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, error)


def body_too_large(max_body_bytes: int) -> RequestRefusedError:
    """413 of a body over its limit."""
    context: dict[str, ContextValue] = {"max_body_size": max_body_bytes, "size_unit": "bytes"}
    detail = ErrorDetail(["body"], "Request body too large.", DetailType.BODY_TOO_LARGE, context)
    error = RequestError(RequestErrorType.SIZE_LIMIT, "Request size limit exceeded.", [detail])
    return RequestRefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error)


def media_too_large(file_bytes: int, max_file_bytes: int) -> RequestRefusedError:
    """413 of a media file over its limit; `file_bytes` is how much was announced or had come."""
    context: dict[str, ContextValue] = {"file_size": file_bytes, "max_file_size": max_file_bytes, "size_unit": "bytes"}
    detail = ErrorDetail(["body", "file"], "Input media file too large.", DetailType.MEDIA_TOO_LARGE, context)
    error = RequestError(RequestErrorType.SIZE_LIMIT, "Request size limit exceeded.", [detail])
    return RequestRefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error)


def storage_full() -> RequestRefusedError:
    """507: the blob store's quota is used up, or its disk is full."""
    error = RequestError(RequestErrorType.STORAGE, "Storage capacity exceeded.")
    return RequestRefusedError(HTTPStatus.INSUFFICIENT_STORAGE, error)


def rate_limited(limit: int, window_s: int, headers: Mapping[str, str]) -> RequestRefusedError:
    """429 with the reference platform's wording and headers."""
    error = RequestError(RequestErrorType.RATE_LIMIT, f"Rate limit exceeded: {limit} per {window_s} second.")
    return RequestRefusedError(HTTPStatus.TOO_MANY_REQUESTS, error, headers)


def not_caught_up() -> RequestRefusedError:
    """503: whether there is such a task is not known yet."""
    error = RequestError(RequestErrorType.INTERNAL, "Not all tasks are known yet.")
    return RequestRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, error, {"retry-after": "5"})


def too_many_listeners() -> RequestRefusedError:
    """503: all places for waits and event streams are taken."""
    error = RequestError(RequestErrorType.INTERNAL, "Too many waits and event streams.")
    return RequestRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, error, {"retry-after": "5"})


def too_many_at_once(limit: int, headers: Mapping[str, str]) -> RequestRefusedError:
    """429: the client has so many requests open already."""
    error = RequestError(RequestErrorType.RATE_LIMIT, f"Rate limit exceeded: {limit} at once.")
    return RequestRefusedError(HTTPStatus.TOO_MANY_REQUESTS, error, headers)


def _unauthorized(message: str, kind: DetailType) -> RequestRefusedError:
    detail = ErrorDetail(["header", "authorization"], message, kind)
    error = RequestError(RequestErrorType.FORBIDDEN, "Request is forbidden.", [detail])
    return RequestRefusedError(HTTPStatus.UNAUTHORIZED, error, {"www-authenticate": "Bearer"})


def key_missing() -> RequestRefusedError:
    """401 of a request without an API key."""
    return _unauthorized("An API key is needed: Authorization: Bearer KEY.", DetailType.API_KEY_MISSING)


def key_invalid() -> RequestRefusedError:
    """401 of an API key that is nobody's."""
    return _unauthorized("The API key is not known.", DetailType.API_KEY_INVALID)


def host_foreign(header: str) -> RequestRefusedError:
    """403 of a service without keys: meant for a host of another name, or sent by a page of one."""
    message = "A service without API keys serves this machine's own names and pages only (CALLSTREAM_HOST_NAMES)."
    error = RequestError(
        RequestErrorType.FORBIDDEN, "Request is forbidden.", [ErrorDetail(["header", header], message, DetailType.HOST_FOREIGN)]
    )
    return RequestRefusedError(HTTPStatus.FORBIDDEN, error)


class _LicenceDetail(ErrorDetail, frozen=True, omit_defaults=False):
    """With its empty context, as the reference platform gives it."""


def capacity_exceeded() -> RequestRefusedError:
    """403: as many tasks are open as may be."""
    detail = _LicenceDetail(["license"], "Licensed processing capacity exceeded.", DetailType.CAPACITY_EXCEEDED)
    error = RequestError(RequestErrorType.FORBIDDEN, "Request is forbidden.", [detail])
    return RequestRefusedError(HTTPStatus.FORBIDDEN, error)


def head_too_large(max_headers: int, max_bytes: int) -> RequestRefusedError:
    """400 of a request with too many headers, or too long ones; closes the connection."""
    context: dict[str, ContextValue] = {"max_headers": max_headers, "max_size": max_bytes, "size_unit": "bytes"}
    detail = ErrorDetail(["header"], "Request headers too large.", DetailType.HEADERS_TOO_LARGE, context)
    error = RequestError(RequestErrorType.INVALID, "Invalid request.", [detail])
    return RequestRefusedError(HTTPStatus.BAD_REQUEST, error, {"connection": "close"})


def busy() -> RequestRefusedError:
    """503: too many connections; closes this one."""
    error = RequestError(RequestErrorType.INTERNAL, "Too many connections.")
    return RequestRefusedError(HTTPStatus.SERVICE_UNAVAILABLE, error, {"retry-after": "5", "connection": "close"})


def internal() -> RequestRefusedError:
    """500: a fault of ours; the log says which."""
    return RequestRefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, RequestError(RequestErrorType.INTERNAL, "Service error."))
