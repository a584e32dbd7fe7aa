"""A `media` record: its headers and its options. The value is raw audio bytes."""

import enum
from typing import Annotated

import msgspec

from schemas.errors import ErrorDetail
from schemas.tasks import Technology

MAX_CALL_ID_CHARS = 128
MAX_CHUNK_BYTES = 1_048_576
MAX_CHANNELS = 8
MAX_CORRELATION_ID_CHARS = 128
MAX_OWNER_CHARS = 64
SAMPLE_RATES_HZ = (8000, 16000, 32000, 44100, 48000)


class Header(enum.StrEnum):
    """The names of the record headers that callstream reads and writes."""

    SEQUENCE = "sequence"
    ENCODING = "encoding"
    SAMPLE_RATE = "sample-rate"
    CHANNELS = "channels"
    POSITION = "position"
    END = "end"
    OPTIONS = "options"
    ABORT = "abort"
    CONTENT_TYPE = "content-type"
    CORRELATION_ID = "x-correlation-id"
    REQUEST_ID = "x-request-id"
    SOURCE = "source"
    STAGE = "stage"
    ERROR_TYPE = "error-type"
    ERROR_MESSAGE = "error-message"
    VALUE_LEFT_OUT = "value-left-out"
    REPLAY_OF = "replay-of"  # partition/offset of the dead letter that this record was


class Encoding(enum.StrEnum):
    """How the samples of a chunk are written."""

    PCM_S16LE = "pcm_s16le"
    MULAW = "mulaw"  # ITU-T G.711
    ALAW = "alaw"  # ITU-T G.711

    @property
    def bytes_per_sample(self) -> int:
        """Bytes of one sample of one channel."""
        return 2 if self is Encoding.PCM_S16LE else 1


class AudioFormat(msgspec.Struct, frozen=True):
    """What the bytes of a call mean; the same for all of its chunks."""

    encoding: Encoding = Encoding.PCM_S16LE
    sample_rate_hz: int = 8000
    channels: int = 1

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample frame: one sample of every channel."""
        return self.encoding.bytes_per_sample * self.channels

    @property
    def bytes_per_s(self) -> int:
        """Bytes of one second of audio."""
        return self.frame_bytes * self.sample_rate_hz


class LanguageGroup(msgspec.Struct, frozen=True):
    """Languages that are scored together under a name of their own; a language is in at most one group."""

    identifier: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    languages: Annotated[list[str], msgspec.Meta(min_length=1, max_length=200)]


class CallOptions(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a call asks for. Languages are RFC 5646 tags; voiceprints are Base64; a prior weight is 0 to 1, by default 1.

    `max_speech_length` (s) is the most speech of a channel that is used; with `exhaustive` all of it is, not only what workers
    take for enough. The fields behind it are set where a file is cut into a call: `channel_numbers` are the file's channels
    that the call's channels were, `start_time` (s) is where the call begins in the file, `is_file` says that its end will come
    however long that takes, `owner` is the name of the API key that sent it, `request_id` the id of the HTTP request that it
    came with.

    Agents pass it on among themselves and skip what they do not know yet, so that versions can run beside each other.
    """

    technologies: list[Technology] | None = None
    languages: list[str] | None = None
    compare_with: list[str] = []
    correlation_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CORRELATION_ID_CHARS)] | None = None
    language_groups: list[LanguageGroup] = []
    language_priors: dict[str, Annotated[float, msgspec.Meta(ge=0, le=1)]] = {}
    max_speech_length: Annotated[float, msgspec.Meta(gt=0, le=604_800)] | None = None
    exhaustive: bool = False
    channel_numbers: list[Annotated[int, msgspec.Meta(ge=0, le=65_535)]] | None = None
    start_time: Annotated[float, msgspec.Meta(ge=0, le=604_800)] = 0.0
    is_file: bool = False
    owner: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_OWNER_CHARS)] | None = None
    request_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_CORRELATION_ID_CHARS)] | None = None

    def channel_number(self, channel: int) -> int:
        """What results call this channel of the call."""
        numbers = self.channel_numbers
        return numbers[channel] if numbers is not None and channel < len(numbers) else channel


class GivenOptions(CallOptions, frozen=True, forbid_unknown_fields=True):
    """The `options` header of a call's chunk 0: a key that nobody knows is refused, for it may be a misspelt one."""


class MediaChunk(msgspec.Struct, frozen=True):
    """One `media` record with its headers read. `options` is the header's text, on chunk 0 only.

    With `abort` it is no chunk: its producer cannot go on, and says why.
    """

    call_id: str
    sequence: int
    format: AudioFormat
    audio: bytes
    position: int | None = None
    end: bool = False
    options: str | None = None
    abort: ErrorDetail | None = None
