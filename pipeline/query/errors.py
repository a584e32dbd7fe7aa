"""Faults of HTTP requests, and their answers in the envelope of `schemas.errors.RequestError`."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import msgspec

from schemas.errors import ContextValue, DetailType, ErrorDetail, RequestError, RequestErrorType

MAX_DETAILS = 100
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
    """422 with one entry a fault, the first 100 of them."""
    error = RequestError(RequestErrorType.VALIDATION, "Request validation error.", list(details[:MAX_DETAILS]))
    return RequestRefusedError(HTTPStatus.UNPROCESSABLE_ENTITY, error)


def body_too_large(max_body_bytes: int) -> RequestRefusedError:
    """413 of a body over its limit."""
    context: dict[str, ContextValue] = {"max_body_size": max_body_bytes, "size_unit": "bytes"}
    detail = ErrorDetail(["body"], "Request body too large.", DetailType.BODY_TOO_LARGE, context)
    error = RequestError(RequestErrorType.SIZE_LIMIT, "Request size limit exceeded.", [detail])
    return RequestRefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, error)


def rate_limited(limit: int, window_s: int, headers: Mapping[str, str]) -> RequestRefusedError:
    """429 with the reference platform's wording and headers."""
    error = RequestError(RequestErrorType.RATE_LIMIT, f"Rate limit exceeded: {limit} per {window_s} second.")
    return RequestRefusedError(HTTPStatus.TOO_MANY_REQUESTS, error, headers)


def internal() -> RequestRefusedError:
    """500: a fault of ours; the log says which."""
    return RequestRefusedError(HTTPStatus.INTERNAL_SERVER_ERROR, RequestError(RequestErrorType.INTERNAL, "Service error."))
