"""What a dead letter is, which ones are meant, and what it was before it was buried."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

import msgspec

from pipeline.records import ORIGINAL
from schemas.media import Header

ADDED = frozenset({Header.ERROR_TYPE, Header.ERROR_MESSAGE, Header.STAGE, Header.SOURCE, Header.VALUE_LEFT_OUT})

_PLACE = re.compile(r"(\d{1,9})/(\d{1,18})", re.ASCII)
_SOURCE = re.compile(r"([A-Za-z0-9._-]{1,249})/(\d{1,9})/(\d{1,18})", re.ASCII)
_DURATION = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Headers = tuple[tuple[str, bytes], ...]


class Place(msgspec.Struct, frozen=True, order=True):
    """Where a letter lies on `dead-letters`."""

    partition: int
    offset: int

    def __str__(self) -> str:
        """As the commands take and print it."""
        return f"{self.partition}/{self.offset}"


class Source(msgspec.Struct, frozen=True):
    """Where a letter came from; `topic` is its name on the broker."""

    topic: str
    partition: int
    offset: int


class Letter(msgspec.Struct, frozen=True):
    """A `dead-letters` record."""

    place: Place
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    def text(self, name: str) -> str:
        """A header's first value, escaped where it is not UTF-8; empty when absent."""
        return next((readable(value) for header, value in self.headers if header == name), "")

    @property
    def source(self) -> Source | None:
        """Where it came from; None when nothing says so."""
        found = _SOURCE.fullmatch(self.text(Header.SOURCE))
        return Source(found[1], int(found[2]), int(found[3])) if found else None

    @property
    def replay_of(self) -> Place | None:
        """The letter whose replay died again, and is this one."""
        return read_place(self.text(Header.REPLAY_OF))

    @property
    def is_value_left_out(self) -> bool:
        """Whether the value was too large to be kept."""
        return not self.value and any(name == Header.VALUE_LEFT_OUT for name, _ in self.headers)

    def original_headers(self) -> Headers:
        """The headers that the record had."""
        kept = [(name, value) for name, value in self.headers if name not in ADDED]
        return tuple((_original_name(name), value) for name, value in kept if name != Header.REPLAY_OF)

    def summary(self) -> dict[str, object]:
        """What one line says about it."""
        return {
            "place": str(self.place),
            "time": time_text(self.timestamp_ms),
            "error_type": self.text(Header.ERROR_TYPE),
            "stage": self.text(Header.STAGE),
            "key": None if self.key is None else readable(self.key),
            "source": self.text(Header.SOURCE),
            "size": len(self.value or b""),
            "replay_of": None if self.replay_of is None else str(self.replay_of),
        }

    def details(self) -> dict[str, object]:
        """Everything about it, the value only when it is text."""
        headers = [[name, readable(value)] for name, value in self.headers]
        digest = hashlib.sha256(self.value or b"").hexdigest()
        body = {"error_message": self.text(Header.ERROR_MESSAGE), "headers": headers, "sha256": digest}
        return self.summary() | body | {"value": printable(self.value)}


def _original_name(name: str) -> str:
    original = name.removeprefix(ORIGINAL)
    return original if original in ADDED else name


def readable(raw: bytes) -> str:
    """Text for one line, whatever the bytes are."""
    text = raw.decode(errors="backslashreplace")
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def printable(value: bytes | None) -> str | None:
    """The value as text, None when it is none that a terminal should get."""
    try:
        text = (value or b"").decode()
    except UnicodeDecodeError:
        return None
    return text if text and all(char.isprintable() or char in "\t\r\n" for char in text) else None


def time_text(timestamp_ms: int) -> str:
    """ISO 8601 in UTC, to the millisecond."""
    try:
        time = datetime.fromtimestamp(timestamp_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{timestamp_ms} ms"  # of a clock that is no clock
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_place(text: str) -> Place | None:
    """A place as it is printed; None when it is none."""
    found = _PLACE.fullmatch(text)
    return Place(int(found[1]), int(found[2])) if found else None


def read_since_ms(text: str, now: datetime) -> int:
    """A time as ISO 8601 (UTC when no zone is given), or as 90s, 15m, 2h or 7d before now. Raises ValueError."""
    if found := _DURATION.fullmatch(text):
        try:
            return _milliseconds(now - timedelta(**{_UNITS[found[2]]: int(found[1])}))
        except OverflowError:
            return 0
    time = datetime.fromisoformat(text)
    return _milliseconds(time if time.tzinfo else time.replace(tzinfo=UTC))


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters are meant: those that match everything that is given. `topics` are names of the source's topic."""

    error_type: str | None = None
    stage: str | None = None
    call: str | None = None
    topics: tuple[str, ...] = ()
    since_ms: int | None = None
    places: frozenset[Place] = frozenset()

    def matches(self, letter: Letter) -> bool:
        """Whether this letter is meant."""
        return (
            (self.error_type is None or letter.text(Header.ERROR_TYPE) == self.error_type)
            and (self.stage is None or letter.text(Header.STAGE) == self.stage)
            and (self.call is None or letter.key == self.call.encode(errors="surrogateescape"))
            and (not self.topics or (letter.source is not None and letter.source.topic in self.topics))
            and (self.since_ms is None or letter.timestamp_ms >= self.since_ms)
            and (not self.places or letter.place in self.places)
        )


class Chains:
    """Which letters are the same record: one that died, was replayed, and died again."""

    def __init__(self) -> None:
        self._older: dict[Place, Place] = {}

    def note(self, letter: Letter) -> None:
        """Take a letter, wanted or not."""
        if letter.replay_of is not None:
            self._older[letter.place] = letter.replay_of

    def first(self, place: Place) -> Place:
        """The chain's first letter."""
        seen = {place}
        while (older := self._older.get(place)) is not None and older not in seen:
            seen.add(older)
            place = older
        return place

    def newest(self, wanted: Iterable[tuple[int, Place]]) -> Mapping[Place, Place]:
        """For each wanted letter (timestamp in ms, place) the newest wanted one of its chain."""
        letters = sorted(wanted)
        last = {self.first(place): place for _, place in letters}
        return {place: last[self.first(place)] for _, place in letters}
