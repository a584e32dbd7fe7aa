"""Reads the JSON bodies that start tasks, and says everything that is wrong with them.

A body may hold 70 MB of voiceprints: its parts are looked at where they lie (msgspec.Raw), one at a time.
"""

import binascii
import codecs
import re
from collections.abc import Iterator, Mapping

import msgspec

from pipeline.query.errors import MAX_DETAILS, request_invalid, validation_failed
from pipeline.query.records import canonical_task_id
from pipeline.request_lists import FIELDS
from schemas.errors import ContextValue, DetailType, ErrorDetail
from schemas.requests import MAX_MATRIX, MAX_VOICEPRINTS
from schemas.tasks import Technology

Fields = Mapping[str, list[msgspec.Raw] | None]  # None for what is no list

_STEP_BYTES = 1_048_576
# What a body may hold before anything is made of it: an honest one has 100,001 commas at most, for Base64 has none. Each part
# of a list or an object is a Python object, 70 bytes for 2 of JSON, made while nothing else can run.
MAX_COMMAS = 200_000
MAX_COLONS = 10_000
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST = msgspec.json.Decoder(list[msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_ANYTHING = msgspec.json.Decoder(msgspec.Raw)
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,15})(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_QUOTE = ord('"')
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_number(text: str) -> float | None:
    """A parameter's number as JSON writes them (RFC 8259, 6); None for what is none."""
    return float(text) if _NUMBER.fullmatch(text) else None


def read_task_id(text: str) -> str:
    """A path's task id in its canonical form. Raises RequestRefusedError (422) when it is no UUID."""
    try:
        return canonical_task_id(text)
    except ValueError:
        detail = ErrorDetail(["path", "task_id"], "Task id is not a UUID.", DetailType.TASK_ID_INVALID)
        raise validation_failed([detail]) from None


def _check_utf8(body: memoryview) -> None:
    """JSON is UTF-8 (RFC 8259, 8.1); msgspec looks only into the strings that it decodes."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(body), _STEP_BYTES):
        decoder.decode(body[start : start + _STEP_BYTES])
    decoder.decode(b"", final=True)


def _has_more(body: memoryview, mark: bytes, most: int) -> bool:
    count = 0
    for start in range(0, len(body), _STEP_BYTES):
        count += bytes(body[start : start + _STEP_BYTES]).count(mark)
        if count > most:
            return True
    return False


def _check_parts(body: memoryview) -> None:
    details = []
    if _has_more(body, b",", MAX_COMMAS):
        details.append(ErrorDetail(["body"], "Too many elements.", DetailType.LIST_TOO_LONG, {"max_length": MAX_COMMAS}))
    if _has_more(body, b":", MAX_COLONS):
        details.append(ErrorDetail(["body"], "Too many keys.", DetailType.VALUE_INVALID, {"max_keys": MAX_COLONS}))
    if details:
        raise validation_failed(details)


def _json_object(body: memoryview) -> Mapping[str, msgspec.Raw]:
    _check_parts(body)
    try:
        _check_utf8(body)
        _ANYTHING.decode(body)
        return _OBJECT.decode(body)
    except msgspec.ValidationError:
        raise validation_failed([ErrorDetail(["body"], "A JSON object is needed.", DetailType.VALUE_TYPE)]) from None
    except _MALFORMED:
        raise request_invalid() from None


def is_base64(text: str | bytes | memoryview) -> bool:
    """Whether this is Base64 with the standard alphabet and padding, and nothing else (RFC 4648, sections 3 and 4)."""
    try:
        binascii.a2b_base64(text, strict_mode=True)
    except ValueError:  # binascii.Error, or a character outside ASCII
        return False
    return len(text) % 4 == 0 and text[-3:] not in ("===", b"===")  # binascii takes padding behind what needs none


def _element_faults(name: str, elements: list[msgspec.Raw]) -> Iterator[ErrorDetail]:
    for index, element in enumerate(elements):
        raw = memoryview(element)
        if raw[0] != _QUOTE:
            yield ErrorDetail(["body", name, index], "A voiceprint is a string.", DetailType.VALUE_TYPE)
        elif not is_base64(raw[1:-1]) and not is_base64(_TEXT.decode(element)):  # as it lies, or behind escapes
            yield ErrorDetail(["body", name, index], "A voiceprint is Base64.", DetailType.BASE64_INVALID)


def _list_faults(name: str, fields: Fields) -> Iterator[ErrorDetail]:
    if name not in fields:
        yield ErrorDetail(["body", name], "This field is needed.", DetailType.VALUE_MISSING)
        return
    value = fields[name]
    if value is None:
        yield ErrorDetail(["body", name], "A list is needed.", DetailType.VALUE_TYPE)
        return
    if not value:
        yield ErrorDetail(["body", name], "At least one voiceprint is needed.", DetailType.LIST_EMPTY, {"min_length": 1})
    if len(value) > MAX_VOICEPRINTS:
        context: dict[str, ContextValue] = {"length": len(value), "max_length": MAX_VOICEPRINTS}
        yield ErrorDetail(["body", name], "Too many voiceprints.", DetailType.LIST_TOO_LONG, context)
    yield from _element_faults(name, value)


def _matrix_faults(technology: Technology, fields: Fields) -> Iterator[ErrorDetail]:
    if technology is not Technology.VOICEPRINT_COMPARISON:
        return
    columns, rows = (fields.get(name) for name in FIELDS[technology])
    if columns is not None and rows is not None and len(columns) * len(rows) > MAX_MATRIX:
        context: dict[str, ContextValue] = {"comparisons": len(columns) * len(rows), "max_comparisons": MAX_MATRIX}
        yield ErrorDetail(["body"], "Too many comparisons.", DetailType.MATRIX_TOO_LARGE, context)


def _faults(technology: Technology, fields: Fields) -> Iterator[ErrorDetail]:
    yield from _matrix_faults(technology, fields)
    for name in FIELDS[technology]:
        yield from _list_faults(name, fields)


def _elements(value: msgspec.Raw) -> list[msgspec.Raw] | None:
    try:
        return _LIST.decode(value)
    except msgspec.ValidationError:
        return None


def check_start(technology: Technology, body: memoryview) -> None:
    """Look at a POST's body. Raises RequestRefusedError: 400 when it is no JSON, 422 with what is wrong in it.

    A body of far too many parts is 422 before it is read, so also when it is no JSON.
    """
    found = _json_object(body)
    fields = {name: _elements(found[name]) for name in FIELDS[technology] if name in found}
    details = []
    for fault in _faults(technology, fields):
        details.append(fault)
        if len(details) == MAX_DETAILS:
            break
    if details:
        raise validation_failed(details)
