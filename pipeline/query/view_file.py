"""The file of the view: its tables, its lock, and how it is opened."""

import contextlib
import fcntl
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

from pipeline.query.view_sql import META, SET_META

FILE_NAME = "view.sqlite3"
LOCK_NAME = "view.lock"
SCHEMA_VERSION = 2
BUSY_TIMEOUT_S = 10.0
KNOWS_SINCE = "knows_since_ms"
_NO_TEXT = "Could not decode to UTF-8"  # Python's words about a value, which have no code of SQLite's
_SOURCE, _TOPIC_ID = "source", "topic_id"

SCHEMA = """
CREATE TABLE IF NOT EXISTS tasks (
    task_id TEXT PRIMARY KEY,
    technology TEXT NOT NULL,
    revision INTEGER NOT NULL,
    state TEXT NOT NULL,
    body BLOB,
    result_ref TEXT,
    updated_at_ms INTEGER NOT NULL,
    call_id TEXT,
    owner TEXT,
    is_started INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS tasks_updated ON tasks (updated_at_ms);
CREATE INDEX IF NOT EXISTS tasks_open ON tasks (owner, updated_at_ms) WHERE is_started = 1 AND state IN ('pending', 'running');
CREATE INDEX IF NOT EXISTS tasks_call ON tasks (call_id) WHERE call_id IS NOT NULL;
CREATE TABLE IF NOT EXISTS offsets (
    topic TEXT NOT NULL,
    partition INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    PRIMARY KEY (topic, partition)
);
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


class ViewLockedError(Exception):
    """Another process uses this view; the program cannot start."""


class SchemaVersionError(Exception):
    """The file was written by another version of the program, or its tables are not what that wrote."""


class ViewGoneError(sqlite3.OperationalError):
    """The open file is no longer the one at its path: what is written into it is lost with this process."""


class DamagedTextError(sqlite3.DatabaseError):
    """What SQLite says of the file quotes bytes of it that are no text."""


class _Connection(sqlite3.Connection):
    """Python reads SQLite's words as UTF-8, which those that quote a damaged schema need not be."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:  # noqa: ANN401  # sqlite3 takes more than one kind
        try:
            return super().execute(sql, parameters)
        except UnicodeDecodeError as error:
            raise DamagedTextError(f"damaged text: {error}") from None

    def executemany(self, sql: str, parameters: Iterable[Any], /) -> sqlite3.Cursor:
        try:
            return super().executemany(sql, parameters)
        except UnicodeDecodeError as error:
            raise DamagedTextError(f"damaged text: {error}") from None

    def executescript(self, sql_script: str, /) -> sqlite3.Cursor:
        try:
            return super().executescript(sql_script)
        except UnicodeDecodeError as error:
            raise DamagedTextError(f"damaged text: {error}") from None


def is_damage(error: sqlite3.Error) -> bool:
    """Whether SQLite says that the file is no sound database (https://www.sqlite.org/rescode.html)."""
    if isinstance(error, DamagedTextError) or str(error).startswith(_NO_TEXT):
        return True
    name = getattr(error, "sqlite_errorname", None) or ""
    return name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode, for any thread. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False, factory=_Connection
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may undo the last transactions, offsets included
        connection.execute("PRAGMA journal_size_limit = 67108864")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def identity(path: Path) -> tuple[int, int]:
    """Which file this is, whatever it is called. Raises ViewGoneError."""
    try:
        found = path.stat()
    except OSError as error:
        raise ViewGoneError(f"{path} is gone ({error.strerror}): start the query service again") from None
    return found.st_dev, found.st_ino


def check_identity(path: Path, opened: tuple[int, int]) -> None:
    """Raises ViewGoneError where another file, or none, has the path."""
    if identity(path) != opened:
        raise ViewGoneError(f"{path} is another file than the one that is open: start the query service again")


def create_tables(writer: sqlite3.Connection) -> None:
    """Makes what is not there. Raises SchemaVersionError."""
    version = writer.execute("PRAGMA user_version").fetchone()[0]
    if version not in (0, SCHEMA_VERSION):
        raise SchemaVersionError(f"schema version {version}, not {SCHEMA_VERSION}")
    writer.executescript(SCHEMA)
    with contextlib.closing(sqlite3.connect(":memory:")) as sound:
        sound.executescript(SCHEMA)
        if _declared(writer) != _declared(sound):
            raise SchemaVersionError(f"its tables are not those of schema version {SCHEMA_VERSION}")
    writer.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _declared(database: sqlite3.Connection) -> list[tuple[str, str]]:
    return database.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()


def knows_since_ms(writer: sqlite3.Connection) -> int:
    """When the file was made, empty; Unix time."""
    first = (KNOWS_SINCE, str(time.time_ns() // 1_000_000))
    writer.execute("INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT DO NOTHING", first)
    found = _meta(writer, KNOWS_SINCE)
    assert found is not None
    return int(found)


def _meta(writer: sqlite3.Connection, key: str) -> str | None:
    found = writer.execute(META, (key,)).fetchone()
    return None if found is None else str(found[0])


def known_source(writer: sqlite3.Connection) -> str | None:
    """Whose records the view holds."""
    return _meta(writer, _SOURCE)


def is_source(writer: sqlite3.Connection, source: str, topic_id: str | None) -> bool:
    """Whether it holds records of this one. An id that is not known, here or there, says nothing against it."""
    return known_source(writer) == source and (topic_id is None or _meta(writer, _TOPIC_ID) in (None, topic_id))


def set_source(writer: sqlite3.Connection, source: str, topic_id: str | None) -> None:
    """Whose records it holds from now on. An id stays known while none can be learned."""
    if known_source(writer) != source:
        writer.execute("DELETE FROM meta WHERE key = ?", (_TOPIC_ID,))
    writer.execute(SET_META, (_SOURCE, source))
    if topic_id is not None:
        writer.execute(SET_META, (_TOPIC_ID, topic_id))


def lock(folder: Path) -> IO[bytes]:
    """Two processes must not share a view: one could move the file away under the other."""
    lock_file = (folder / LOCK_NAME).open("ab")
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock_file.close()
        raise ViewLockedError(
            f"another query service uses {folder}: end it, or give this one its own CALLSTREAM_DATA_DIR"
        ) from None
    return lock_file
