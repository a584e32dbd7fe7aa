"""A `requests` record: a start-task request, as users' producers and the query service write it (JSON)."""

import enum

import msgspec

from schemas.media import CallOptions
from schemas.tasks import Technology

MAX_VOICEPRINTS = 50_000
MAX_MATRIX = 1_000_000


class GenderRequest(msgspec.Struct, frozen=True):
    """Gender identification from a list of Base64 voiceprints."""

    voiceprints: list[str]


class ComparisonRequest(msgspec.Struct, frozen=True):
    """Every voiceprint of list a (columns) against every one of list b (rows), Base64."""

    voiceprints_a: list[str]
    voiceprints_b: list[str]


class BlobRef(msgspec.Struct, frozen=True):
    """Content that is too large for a record: its name in the blob store, and what it must be (claim check)."""

    name: str
    sha256: str
    size_bytes: int


class ChannelMode(enum.StrEnum):
    """What becomes of a media file's channels."""

    SPLIT = "split"  # each is answered by itself
    MIX = "mix"  # their mean is one channel


class MediaRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """A media file that is to be heard as a call. `range_from` and `range_to` are seconds of the file.

    `channels` are those to take, in this order; None for all. `options` go with the call.
    """

    call_id: str
    file: BlobRef
    channel_mode: ChannelMode = ChannelMode.SPLIT
    channels: list[int] | None = None
    range_from: float = 0.0
    range_to: float | None = None
    options: CallOptions = CallOptions()


class StartTask(msgspec.Struct, frozen=True, omit_defaults=True):
    """A `requests` record. `technology` may be left out: the lists tell it.

    The query service gives long lists as `lists`, a blob that holds them as it would hold them itself, and a file as `media`.
    """

    technology: Technology | None = None
    voiceprints: list[str] | None = None
    voiceprints_a: list[str] | None = None
    voiceprints_b: list[str] | None = None
    lists: BlobRef | None = None
    media: MediaRequest | None = None
    owner: str | None = None  # the name of the API key that started it
