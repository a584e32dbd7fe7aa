"""Reads the JSON bodies that start tasks, and says everything that is wrong with them."""

import binascii
from collections.abc import Iterator, Mapping

import msgspec

from pipeline.query.errors import MAX_DETAILS, request_invalid, validation_failed
from pipeline.query.records import canonical_task_id
from schemas.errors import ContextValue, DetailType, ErrorDetail
from schemas.requests import MAX_MATRIX, MAX_VOICEPRINTS, StartTask
from schemas.tasks import Technology

# what each technology is started from
FIELDS: dict[Technology, tuple[str, ...]] = {
    Technology.GENDER_IDENTIFICATION: ("voiceprints",),
    Technology.VOICEPRINT_COMPARISON: ("voiceprints_a", "voiceprints_b"),
}


def read_task_id(text: str) -> str:
    """A path's task id in its canonical form. Raises RequestRefusedError (422) when it is no UUID."""
    try:
        return canonical_task_id(text)
    except ValueError:
        detail = ErrorDetail(["path", "task_id"], "Task id is not a UUID.", DetailType.TASK_ID_INVALID)
        raise validation_failed([detail]) from None


def _json_object(body: bytes) -> Mapping[str, object]:
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise request_invalid() from None
    if not isinstance(parsed, dict):
        raise validation_failed([ErrorDetail(["body"], "A JSON object is needed.", DetailType.VALUE_TYPE)])
    return parsed


def is_base64(text: str) -> bool:
    """Whether this is Base64 with the standard alphabet and padding, and nothing else (RFC 4648, sections 3 and 4)."""
    try:
        binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error, or a character outside ASCII
        return False
    return True


def _element_faults(name: str, elements: list[object]) -> Iterator[ErrorDetail]:
    for index, element in enumerate(elements):
        if not isinstance(element, str):
            yield ErrorDetail(["body", name, index], "A voiceprint is a string.", DetailType.VALUE_TYPE)
        elif not is_base64(element):
            yield ErrorDetail(["body", name, index], "A voiceprint is Base64.", DetailType.BASE64_INVALID)


def _list_faults(name: str, fields: Mapping[str, object]) -> Iterator[ErrorDetail]:
    if name not in fields:
        yield ErrorDetail(["body", name], "This field is needed.", DetailType.VALUE_MISSING)
        return
    value = fields[name]
    if not isinstance(value, list):
        yield ErrorDetail(["body", name], "A list is needed.", DetailType.VALUE_TYPE)
        return
    if not value:
        yield ErrorDetail(["body", name], "At least one voiceprint is needed.", DetailType.LIST_EMPTY, {"min_length": 1})
    if len(value) > MAX_VOICEPRINTS:
        context: dict[str, ContextValue] = {"length": len(value), "max_length": MAX_VOICEPRINTS}
        yield ErrorDetail(["body", name], "Too many voiceprints.", DetailType.LIST_TOO_LONG, context)
    yield from _element_faults(name, value)


def _matrix_faults(technology: Technology, fields: Mapping[str, object]) -> Iterator[ErrorDetail]:
    if technology is not Technology.VOICEPRINT_COMPARISON:
        return
    columns, rows = (fields.get(name) for name in FIELDS[technology])
    if isinstance(columns, list) and isinstance(rows, list) and len(columns) * len(rows) > MAX_MATRIX:
        context: dict[str, ContextValue] = {"comparisons": len(columns) * len(rows), "max_comparisons": MAX_MATRIX}
        yield ErrorDetail(["body"], "Too many comparisons.", DetailType.MATRIX_TOO_LARGE, context)


def _faults(technology: Technology, fields: Mapping[str, object]) -> Iterator[ErrorDetail]:
    yield from _matrix_faults(technology, fields)
    for name in FIELDS[technology]:
        yield from _list_faults(name, fields)


def read_start(technology: Technology, body: bytes) -> StartTask:
    """The request in a POST's body. Raises RequestRefusedError: 400 when it is no JSON, 422 with what is wrong in it."""
    fields = _json_object(body)
    details = []
    for fault in _faults(technology, fields):
        details.append(fault)
        if len(details) == MAX_DETAILS:
            break
    if details:
        raise validation_failed(details)
    return msgspec.convert({"technology": technology} | {name: fields[name] for name in FIELDS[technology]}, StartTask)
