"""The view of `results`: the newest state of every task in SQLite, with the Kafka offsets it was read up to.

It is only a view: after a damaged file, another schema version or another cluster it is read again from the topic.
One writer beside readers is https://www.sqlite.org/wal.html.
"""

import asyncio
import contextlib
import functools
import logging
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec, TypeVar

import msgspec

from pipeline.query.view_file import (
    FILE_NAME,
    KNOWS_SINCE,
    SchemaVersionError,
    check_identity,
    connect,
    create_tables,
    identity,
    is_damage,
    is_source,
    known_source,
    knows_since_ms,
    lock,
    set_source,
)
from pipeline.query.view_sql import (
    ADD_PENDING,
    OLD_RESULTS,
    SELECT,
    SELECT_CALL,
    SET_META,
    SET_OFFSET,
    STARTED_OPEN,
    SWEEP,
    UPSERT,
)
from schemas.tasks import TaskInfo, TaskState, Technology

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

PENDING_REVISION = -1  # our own row after POST: any record of the agents is newer
SWEEP_BATCH_ROWS = 1000
MAX_CALL_TASKS = 100
_THREADS = 3  # one that writes; others may count, which takes a while, or wait to write

_encoder = msgspec.json.Encoder()


class TaskRow(msgspec.Struct, frozen=True):
    """One task at one revision. `body` is the ready HTTP answer (JSON); with `result_ref` it is made when asked for."""

    task_id: str
    technology: Technology
    revision: int
    state: TaskState
    body: bytes | None
    result_ref: str | None
    updated_at_ms: int
    call_id: str | None = None
    owner: str | None = None


class Known(NamedTuple):
    """As far as the view knows a task, without its answer."""

    task_id: str
    revision: int
    state: TaskState
    updated_at_ms: int


class Removal(msgspec.Struct, frozen=True):
    """A tombstone: the task is to be forgotten."""

    task_id: str


Change = TaskRow | Removal
Place = tuple[str, int]  # topic, partition


def now_ms() -> int:
    """Unix time in milliseconds, as Kafka stamps its records."""
    return time.time_ns() // 1_000_000


class View:
    """The newest revision of every task.

    `get`, `owner_of`, `tasks_of_call`, `started_open` and `rebuild` belong to one thread, the event loop's; all that writes
    may be called from any thread.
    """

    def __init__(self, folder: Path, ttl_s: float) -> None:
        """Opens or creates the view in `folder`; `ttl_s` is a task's lifetime after its last change.

        Raises OSError or sqlite3.OperationalError when the folder cannot be written, ViewLockedError when it is in use.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._lock_file = lock(folder)
        self._path = folder / FILE_NAME
        self._ttl_ms = round(ttl_s * 1000)
        self._opened_at_ms = now_ms()
        self._write_lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, "view")
        self.damaged = False
        self._open()

    async def aside(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Run what may be called from any thread, in one of the view's own: a blob store that hangs takes all of asyncio's."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, functools.partial(work, *arguments, **named))

    def _open(self) -> None:
        try:
            self._open_file()
        except (SchemaVersionError, sqlite3.DatabaseError) as error:
            if isinstance(error, sqlite3.Error) and not is_damage(error):
                raise
            self._move_aside(str(error))
            self._open_file()

    def _open_file(self) -> None:
        writer = connect(self._path)
        try:
            create_tables(writer)
            knows_since = knows_since_ms(writer)
            reader = connect(self._path)
        except (SchemaVersionError, sqlite3.Error):
            writer.close()
            raise
        self._writer, self._reader, self._identity = writer, reader, identity(self._path)
        self.damaged = False
        self.knows_since_ms = knows_since  # what was started here before, and has not begun, may not be in it

    def _move_aside(self, reason: str) -> None:
        aside = self._path.with_name(f"{FILE_NAME}.damaged-{now_ms()}")
        logger.warning("the view %s cannot be used (%s): moved to %s, reading the topic again", self._path, reason, aside.name)
        self._path.rename(aside)
        for suffix in ("-wal", "-shm"):
            self._path.with_name(FILE_NAME + suffix).unlink(missing_ok=True)

    def rebuild(self) -> None:
        """Puts a damaged file aside and begins an empty view."""
        with self._write_lock:
            self._close_file()
            self._move_aside("damage found while it was in use")
            self._open_file()

    def _close_file(self) -> None:
        self._reader.close()
        self._writer.close()

    def close(self) -> None:
        """Closes the file; the view cannot be used any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._write_lock:
            self._close_file()
        self._lock_file.close()

    @contextlib.contextmanager
    def _transaction(self, *, outlasts_power: bool = False) -> Iterator[sqlite3.Connection]:
        with self._write_lock, self._noting_damage():
            try:
                self._writer.execute(f"PRAGMA synchronous = {'FULL' if outlasts_power else 'NORMAL'}")
                self._writer.execute("BEGIN IMMEDIATE")
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _noting_damage(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            if is_damage(error):
                self.damaged = True
            raise

    def _another(self) -> sqlite3.Connection:
        check_identity(self._path, self._identity)  # SQLite would make the file anew
        return connect(self._path)

    def _read(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self._noting_damage():
            return self._reader.execute(sql, parameters).fetchall()

    def get(self, task_id: str) -> TaskRow | None:
        """The task, or None when it is unknown or has expired."""
        found = next(iter(self._read(SELECT, task_id, now_ms() - self._ttl_ms)), None)
        if found is None:
            return None
        technology, revision, state, *rest = found
        return TaskRow(task_id, Technology(technology), revision, TaskState(state), *rest)

    def owner_of(self, row: TaskRow) -> str | None:
        """Whose task the row is about: what is known of it here counts, for a record may not say it."""
        found = next(iter(self._read("SELECT owner FROM tasks WHERE task_id = ?", row.task_id)), None)
        return row.owner if found is None or found[0] is None else str(found[0])

    def tasks_of_call(self, call_id: str) -> list[Known]:
        """A call's tasks that the agents have written of, at most 100."""
        found = self._read(SELECT_CALL, call_id, now_ms() - self._ttl_ms, MAX_CALL_TASKS)
        return [Known(task_id, revision, TaskState(state), at_ms) for task_id, revision, state, at_ms in found]

    def apply(self, changes: Sequence[Change], next_offsets: Mapping[Place, int]) -> None:
        """Writes the changes and the offsets behind them in one transaction."""
        with self._transaction() as writer:
            for change in changes:
                if isinstance(change, TaskRow):
                    writer.execute(UPSERT, (*msgspec.structs.astuple(change), self._ttl_ms))
                else:
                    writer.execute("DELETE FROM tasks WHERE task_id = ?", (change.task_id,))
            writer.executemany(SET_OFFSET, [(topic, partition, at) for (topic, partition), at in next_offsets.items()])

    def add_pending(self, task_id: uuid.UUID, technology: Technology, owner: str | None = None) -> None:
        """The row of a task just started here, unless its first record has already arrived. It keeps the task's blob."""
        body = _encoder.encode({"task": TaskInfo(str(task_id), TaskState.PENDING)})
        with self._transaction(outlasts_power=True) as writer:
            row = (str(task_id), technology, PENDING_REVISION, TaskState.PENDING, body, now_ms(), owner)
            writer.execute(ADD_PENDING, row)

    def started_open(self, since_ms: int) -> dict[str | None, int]:
        """Owner -> how many tasks that were started here, and are counted, are not final and have moved since then."""
        return dict(self._read(STARTED_OPEN, since_ms))

    def bind(self, source: str, topic_id: str | None = None) -> bool:
        """Says whose records these are: cluster and topic, and the topic's id where Kafka gives one.

        Drops rows and offsets of another source; whether there was one.
        """
        with self._transaction() as writer:
            known, is_same = known_source(writer), is_source(writer, source, topic_id)
            set_source(writer, source, topic_id)
            if is_same:
                return False
            if known is not None:
                what = f"{known}, which was deleted and made anew" if known == source else known
                logger.warning("the view held tasks of %s: emptied, now reading %s", what, source)
            # a row of our own since the start belongs to the new source
            writer.execute("DELETE FROM tasks WHERE revision >= 0 OR updated_at_ms < ?", (self._opened_at_ms,))
            writer.execute("DELETE FROM offsets")
            self.knows_since_ms = now_ms()
            writer.execute(SET_META, (KNOWS_SINCE, str(self.knows_since_ms)))
            return known is not None

    def old_result_refs(self) -> set[str]:
        """Every result that tasks have under a name of the previous release; reads all rows, on a connection of its own."""
        with self._noting_damage(), contextlib.closing(self._another()) as connection:
            return {name for (name,) in connection.execute(OLD_RESULTS, (now_ms() - self._ttl_ms,))}

    def next_offsets(self, topic: str) -> dict[int, int]:
        """Partition -> offset of the first record that has not been read yet."""
        with self._write_lock, self._noting_damage():
            rows = self._writer.execute("SELECT partition, next_offset FROM offsets WHERE topic = ?", (topic,)).fetchall()
        return dict(rows)

    def sweep(self) -> int:
        """Deletes expired rows, in batches that leave room for other writers; returns how many."""
        before_ms, swept = now_ms() - self._ttl_ms, 0
        while True:
            with self._transaction() as writer:
                rows = writer.execute(SWEEP, (before_ms, SWEEP_BATCH_ROWS)).rowcount
            swept += rows
            if rows < SWEEP_BATCH_ROWS:
                return swept

    def check_writable(self) -> None:
        """Raises sqlite3.Error when nothing can be written now, or what is written is in a file that was deleted."""
        check_identity(self._path, self._identity)
        with self._transaction() as writer:
            writer.execute(SET_META, ("checked_at_ms", str(now_ms())))

    def count(self) -> int:
        """How many rows there are, expired ones included; on a connection of its own, since it takes a while."""
        with self._noting_damage(), contextlib.closing(self._another()) as connection:
            rows: int = connection.execute("SELECT count(*) FROM tasks").fetchone()[0]
        return rows
