"""The schemas of record headers: texts, by name."""

from collections.abc import Iterable, Mapping
from typing import Any

from schemas import errors, media
from schemas.media import Encoding, Header

Schema = dict[str, Any]

_WHOLE_NUMBER = "^[0-9]{1,16}$"


def headers_schema(headers: Mapping[Header, Schema], required: Iterable[Header]) -> Schema:
    """The schema of a record's headers as an object of texts; others are allowed."""
    properties = {header.value: schema for header, schema in headers.items()}
    body: Schema = {"type": "object", "properties": properties, "required": [header.value for header in required]}
    return body | {"additionalProperties": {"type": "string"}}


def _text(description: str, **more: object) -> Schema:
    return {"description": description, "type": "string", **more}


_CORRELATION_ID = _text("Carried through to every record and answer that this one causes; generated when absent.")
_REQUEST_ID = _text("The HTTP request that this one came with.")
_SOURCE = _text("The record that caused this one.", pattern="^[^/]+/[0-9]+/[0-9]+$", examples=["media/3/1042"])


def media_headers() -> dict[Header, Schema]:
    """The headers of a `media` record."""
    default = media.AudioFormat()
    rates = [str(rate_hz) for rate_hz in media.SAMPLE_RATES_HZ]
    channels = [str(count) for count in range(1, media.MAX_CHANNELS + 1)]
    options = {"contentMediaType": "application/json", "contentSchema": {"$ref": "#/$defs/GivenOptions"}}
    return {
        Header.SEQUENCE: _text("Chunk number in the call: 0, 1, 2 … without gaps.", pattern=_WHOLE_NUMBER),
        Header.ENCODING: _text("How samples are written.", enum=[e.value for e in Encoding], default=default.encoding.value),
        Header.SAMPLE_RATE: _text("Hz.", enum=rates, default=str(default.sample_rate_hz)),
        Header.CHANNELS: _text("Interleaved channels.", enum=channels, default=str(default.channels)),
        Header.POSITION: _text(
            "Byte offset in the call of the chunk's first byte: tells a lost chunk's length.", pattern=_WHOLE_NUMBER
        ),
        Header.END: _text("On the call's last chunk.", const="1"),
        Header.OPTIONS: _text(
            "On sequence 0: what is asked for; all technologies when absent, comparison if there is something to compare with.",
            **options,
        ),
        Header.ABORT: _text(
            "On sequence 0, again if need be, and without a value: no more comes. Why, as an error detail; its type `internal` "
            "fails the call's tasks, as does any once they have begun; another rejects them.",
            contentMediaType="application/json",
        ),
        Header.CORRELATION_ID: _CORRELATION_ID,
    }


def requests_headers() -> dict[Header, Schema]:
    """The headers of a `requests` record; none is needed."""
    content_type = _text("What the value is.", const="application/json")
    return {Header.CONTENT_TYPE: content_type, Header.CORRELATION_ID: _CORRELATION_ID, Header.REQUEST_ID: _REQUEST_ID}


def prints_headers() -> dict[Header, Schema]:
    """The headers of a `prints` record."""
    return {Header.SOURCE: _SOURCE}


def results_headers() -> dict[Header, Schema]:
    """The headers of a `results` record."""
    content_type = _text("What the value is.", const="application/json")
    request_id = _text("The HTTP request that started the task, if one did.")
    return {
        Header.CONTENT_TYPE: content_type,
        Header.CORRELATION_ID: _CORRELATION_ID,
        Header.SOURCE: _SOURCE,
        Header.REQUEST_ID: request_id,
    }


def dead_letters_headers() -> dict[Header, Schema]:
    """The headers that a `dead-letters` record has before those of the original record."""
    return {
        Header.ERROR_TYPE: _text("What is wrong, for machines.", enum=[kind.value for kind in errors.DeadLetterType]),
        Header.ERROR_MESSAGE: _text("What is wrong, for people: one line."),
        Header.STAGE: _text("Who could not process it."),
        Header.SOURCE: _SOURCE,
        Header.VALUE_LEFT_OUT: _text("The value's size, when it was too large to be kept.", pattern="^[0-9]+ bytes$"),
        Header.REPLAY_OF: _text("The dead letter that this record was before it was replayed.", pattern="^[0-9]+/[0-9]+$"),
    }
