"""Kafka records as the agents see them, and how a `media` record is read."""

import functools
import re
from collections.abc import Mapping

import msgspec

from schemas.errors import DeadLetterType, ErrorDetail
from schemas.media import (
    MAX_CALL_ID_CHARS,
    MAX_CHANNELS,
    MAX_CHUNK_BYTES,
    MAX_CORRELATION_ID_CHARS,
    SAMPLE_RATES_HZ,
    AudioFormat,
    Encoding,
    Header,
    MediaChunk,
)

ORIGINAL = "original-"  # before the name of a header that a dead letter has of its own
UNDECODABLE = (ValueError, RecursionError)  # what msgspec raises for hostile bytes

_SHOWN_KEY_BYTES = 128
_MAX_COUNT = 2**53  # what JSON and every client can hold exactly
_WHOLE_NUMBER = re.compile(r"[0-9]{1,16}")


class DeadLetterError(Exception):
    """This record cannot be processed as it is; it belongs in `dead-letters`."""

    def __init__(self, error_type: DeadLetterType, message: str) -> None:
        super().__init__(message)
        self.type = error_type


class Record(msgspec.Struct, frozen=True):
    """A record as it was read. `timestamp_s` is the record's own (seconds since the epoch)."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]
    timestamp_s: float

    @property
    def source(self) -> str:
        """Its place in the log."""
        return f"{self.topic}/{self.partition}/{self.offset}"

    def raw(self, name: str) -> bytes | None:
        """A header, the first of this name; None when absent."""
        for header, value in self.headers:
            if header == name:
                return value
        return None

    def text(self, name: str) -> str | None:
        """A header as text, None when absent. Raises DeadLetterError when it is not UTF-8."""
        return None if (raw := self.raw(name)) is None else _header_text(raw, name)


class OutgoingRecord(msgspec.Struct, frozen=True):
    """A record to be published. `topic` is the bare name, without prefix."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()
    partition: int | None = None  # the key decides when it is None


def shown_key(key: bytes | None) -> bytes | None:
    """As much of a key as a line of a log should hold."""
    return key if key is None else key[:_SHOWN_KEY_BYTES]


def headers_of(values: Mapping[Header, str]) -> tuple[tuple[str, bytes], ...]:
    """Record headers from texts."""
    return tuple((str(name), value.encode()) for name, value in values.items())


def chunk_headers(audio: AudioFormat, sequence: int, position: int, *, end: bool) -> tuple[tuple[str, bytes], ...]:
    """The headers of one chunk of a call, as a producer sends them."""
    values = {
        Header.SEQUENCE: str(sequence),
        Header.ENCODING: audio.encoding.value,
        Header.SAMPLE_RATE: str(audio.sample_rate_hz),
        Header.CHANNELS: str(audio.channels),
        Header.POSITION: str(position),
    }
    return headers_of(values | ({Header.END: "1"} if end else {}))


def abort_headers(why: ErrorDetail, options: str | None) -> tuple[tuple[str, bytes], ...]:
    """The headers of the record that says that a producer cannot go on with a call, which may not have begun."""
    values = {Header.SEQUENCE: "0", Header.ABORT: msgspec.json.encode(why).decode()}
    return headers_of(values | ({Header.OPTIONS: options} if options else {}))


def correlation_id_of(record: Record) -> str | None:
    """The record's correlation id; one that no log and no header could hold counts as none was given."""
    return _id_of(record, Header.CORRELATION_ID)


def request_id_of(record: Record) -> str | None:
    """The id of the HTTP request that the record came from; None as for the correlation id."""
    return _id_of(record, Header.REQUEST_ID)


def _id_of(record: Record, name: Header) -> str | None:
    text = (record.raw(name) or b"").decode(errors="replace")
    is_fit = 0 < len(text) <= MAX_CORRELATION_ID_CHARS and text.isprintable() and "\ufffd" not in text
    return text if is_fit else None


def _header_text(raw: bytes, name: str) -> str:
    return _utf8(raw, f"header {name}", DeadLetterType.HEADER_INVALID)


def _utf8(raw: bytes, what: str, error_type: DeadLetterType) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise DeadLetterError(error_type, f"{what} is not UTF-8") from None


def call_id_of(record: Record) -> str:
    """The call id: the record's key. Raises DeadLetterError."""
    if not record.key:
        raise DeadLetterError(DeadLetterType.KEY_INVALID, "a media record's key is its call id; this one has none")
    call_id = _utf8(record.key, "the key", DeadLetterType.KEY_INVALID)
    if len(call_id) > MAX_CALL_ID_CHARS:
        raise DeadLetterError(
            DeadLetterType.KEY_INVALID, f"the call id has {len(call_id)} characters, more than {MAX_CALL_ID_CHARS}"
        )
    return call_id


def _number(raw: bytes | None, name: str, *, default: int | None = None) -> int:
    if raw is None:
        if default is None:
            raise DeadLetterError(DeadLetterType.HEADER_MISSING, f"header {name} is missing")
        return default
    text = _header_text(raw, name)
    if not _WHOLE_NUMBER.fullmatch(text) or int(text) > _MAX_COUNT:
        raise DeadLetterError(DeadLetterType.HEADER_INVALID, f"header {name} is {text[:40]!r}, not a whole number of 0 or more")
    return int(text)


def _encoding(raw: bytes | None) -> Encoding:
    text = Encoding.PCM_S16LE if raw is None else _header_text(raw, Header.ENCODING)
    try:
        return Encoding(text)
    except ValueError:
        known = ", ".join(Encoding)
        raise DeadLetterError(DeadLetterType.ENCODING_UNKNOWN, f"encoding {text[:40]!r} is none of {known}") from None


@functools.lru_cache(maxsize=256)  # every chunk of a call says the same
def _format(encoding: bytes | None, sample_rate: bytes | None, channel_count: bytes | None) -> AudioFormat:
    rate_hz = _number(sample_rate, Header.SAMPLE_RATE, default=8000)
    if rate_hz not in SAMPLE_RATES_HZ:
        message = f"sample-rate {rate_hz} Hz is none of {', '.join(map(str, SAMPLE_RATES_HZ))}"
        raise DeadLetterError(DeadLetterType.SAMPLE_RATE_INVALID, message)
    channels = _number(channel_count, Header.CHANNELS, default=1)
    if not 1 <= channels <= MAX_CHANNELS:
        raise DeadLetterError(DeadLetterType.CHANNELS_INVALID, f"channels is {channels}, not 1 to {MAX_CHANNELS}")
    return AudioFormat(_encoding(encoding), rate_hz, channels)


def _abort(record: Record) -> ErrorDetail | None:
    text = record.text(Header.ABORT)
    try:
        return None if text is None else msgspec.json.decode(text, type=ErrorDetail)
    except UNDECODABLE as error:
        raise DeadLetterError(DeadLetterType.HEADER_INVALID, f"header abort is no error detail: {error}") from None


def read_media(record: Record) -> MediaChunk:
    """Read a `media` record. Raises DeadLetterError for what breaks the contract's rules, save emptiness."""
    call_id = call_id_of(record)
    sequence = _number(record.raw(Header.SEQUENCE), Header.SEQUENCE)
    audio = record.value or b""
    if len(audio) > MAX_CHUNK_BYTES:
        message = f"the chunk has {len(audio)} bytes, more than {MAX_CHUNK_BYTES}; send 200 ms to 1 s at a time"
        raise DeadLetterError(DeadLetterType.CHUNK_TOO_LARGE, message)
    end = record.text(Header.END)
    if end not in (None, "0", "1"):
        raise DeadLetterError(DeadLetterType.HEADER_INVALID, f"header end is {end[:40]!r}, not 1")
    position = record.raw(Header.POSITION)
    return MediaChunk(
        call_id=call_id,
        sequence=sequence,
        format=_format(record.raw(Header.ENCODING), record.raw(Header.SAMPLE_RATE), record.raw(Header.CHANNELS)),
        audio=audio,
        position=None if position is None else _number(position, Header.POSITION),
        end=end == "1",
        options=record.text(Header.OPTIONS) if sequence == 0 else None,
        abort=_abort(record),
    )


def is_empty_chunk(record: Record) -> bool:
    """Whether a `media` record breaks the rules by holding nothing and not being the call's end."""
    return not record.value and record.raw(Header.END) != b"1"
