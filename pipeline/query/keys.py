"""API keys: who may ask, and how much. Settings hold the SHA-256 of each key; the key itself is with its user alone.

A key is 256 random bits: nobody finds it by trying, so a plain SHA-256 hides it. A slow hash protects what people make up, and
would make every request slow.
"""

import hashlib
import hmac
import logging
import re
import secrets
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from pipeline.query.owners import Caller
from pipeline.settings import Settings

logger = logging.getLogger(__name__)

KEY_PREFIX = "cs_"  # so that scanners find a key where none should be
NAMES = "1 to 64 of a-z, 0-9, '.', '_' and '-', the first a letter or a digit"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_FILE_VARIABLE, _LIST_VARIABLE = "CALLSTREAM_API_KEYS_FILE", "CALLSTREAM_API_KEYS"

Limit = Annotated[int, Meta(ge=0)] | None


class KeysError(Exception):
    """The keys cannot be used; the message is one line, and holds none of them."""


class KeyEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key in the file. Limits that are left out are the settings'; 0 is no limit."""

    sha256: Annotated[str, Meta(pattern=r"\A[0-9a-fA-F]{64}\Z")]
    rate_limit: Limit = None
    concurrency: Limit = None
    open_tasks: Limit = None
    calls: bool = True  # may it read tasks that nobody owns, as those of calls through Kafka


def is_name(text: str) -> bool:
    """Whether a key may have this name."""
    return _NAME.fullmatch(text) is not None


def new_key() -> str:
    """A key of 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest_of(key: bytes) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key).hexdigest()


def _in_list(text: str) -> Iterator[tuple[str, KeyEntry]]:
    for number, part in enumerate(text.split(","), 1):
        name, _, digest = part.strip().partition(":")
        try:
            yield name, msgspec.convert({"sha256": digest}, KeyEntry)
        except msgspec.ValidationError:  # its message is left out: somebody may have put the key itself here
            raise KeysError(f"{_LIST_VARIABLE}: entry {number} is not NAME:SHA256 (64 hexadecimal digits)") from None


def _in_file(path: Path, *, may_be_empty: bool) -> Iterator[tuple[str, KeyEntry]]:
    where = f"{_FILE_VARIABLE}={str(path)!r}"
    try:
        content: Mapping[str, object] = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise KeysError(f"{where} cannot be read: {error.strerror}") from None
    except ValueError as error:  # tomllib.TOMLDecodeError, UnicodeDecodeError
        raise KeysError(f"{where} is no TOML: {error}") from None
    entries = content.get("keys", {})
    if set(content) - {"keys"} or not isinstance(entries, dict) or not (entries or may_be_empty):
        raise KeysError(f"{where} must hold tables [keys.NAME] and nothing else")
    for name, entry in entries.items():
        try:
            yield name, msgspec.convert(entry, KeyEntry)
        except msgspec.ValidationError as error:
            raise KeysError(f"{where}, [keys.{name}]: {error}") from None


def _checked(found: Iterable[tuple[str, KeyEntry]]) -> dict[str, KeyEntry]:
    entries: dict[str, KeyEntry] = {}
    digests: set[str] = set()
    for name, entry in found:
        if not is_name(name):
            raise KeysError(f"{name[:64]!r} is no name of an API key: {NAMES}")
        if name in entries:
            raise KeysError(f"there are two API keys {name}")
        if entry.sha256.lower() in digests:
            raise KeysError(f"API key {name} is another one's key too")
        entries[name] = entry
        digests.add(entry.sha256.lower())
    return entries


def read_keys(settings: Settings, *, may_be_empty: bool = False) -> dict[str, KeyEntry]:
    """The keys that are configured, by name; a file without any only where it `may_be_empty`. Raises KeysError."""
    found: list[tuple[str, KeyEntry]] = []
    if settings.api_keys:
        found += _in_list(settings.api_keys)
    if settings.api_keys_file:
        found += _in_file(Path(settings.api_keys_file), may_be_empty=may_be_empty)
    return _checked(found)


class Keyring:
    """The keys in use. Without any, nobody needs one; that never changes while the program runs."""

    def __init__(self, settings: Settings) -> None:
        """Reads the keys. Raises KeysError."""
        self._settings = settings
        self._entries: dict[str, KeyEntry] = {}
        self._names: dict[str, str] = {}
        self.on_change: Callable[[], None] = lambda: None
        self._set(read_keys(settings))
        self.is_empty = not self._entries  # whether none are configured; that the last one was taken away lets nobody in

    def _set(self, entries: dict[str, KeyEntry]) -> None:
        self._entries = entries
        self._names = {entry.sha256.lower(): name for name, entry in entries.items()}

    def reload(self) -> None:
        """Reads the keys anew; bad ones change nothing. A file that holds none any more takes all of them away."""
        try:
            self._set(read_keys(self._settings, may_be_empty=True))
        except KeysError as error:
            logger.error("the API keys stay as they were: %s", error)  # noqa: TRY400  # one line says it
            return
        logger.info("read %d API keys", len(self._entries))
        self.on_change()

    def find(self, key: bytes) -> Caller | None:
        """Whose key this is, None when it is nobody's."""
        # How long the look-up takes depends on the digest alone, which tells nothing of the digests that are close to it.
        digest = digest_of(key)
        name = self._names.get(digest)
        entry = None if name is None else self._entries[name]
        if entry is None or not hmac.compare_digest(entry.sha256.lower(), digest):
            return None
        return Caller(name, entry.calls, rate_limit=entry.rate_limit, concurrency=entry.concurrency)

    def open_tasks_of(self, owner: str | None) -> int:
        """How many tasks of this key may be open at once; 0 for no limit of its own."""
        entry = None if owner is None else self._entries.get(owner)
        return 0 if entry is None else entry.open_tasks or 0
