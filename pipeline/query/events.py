"""Who waits for what arrives on `results`: long polls by task id, event streams by call id.

All of this belongs to the event loop's thread. The follower tells the hub what it has just committed to the view, so whoever
first joins the hub and then looks at the view misses nothing.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from pipeline.query.view import Change, Known, Removal, TaskRow
from schemas.http import TaskAnswer
from schemas.results import Transition
from schemas.tasks import TaskInfo, TaskState

MAX_LISTENERS = 800  # leaves room below the server's limit of connections for requests that end at once
MAX_EVENTS = 1000
MAX_EVENT_BYTES = 8_000_000

Sees = Callable[[str | None], bool]  # whether a row of this owner may be shown
Owners = Callable[[TaskRow], str | None]  # whose task a record is about
Listener = TypeVar("Listener")

_encoder = msgspec.json.Encoder()
_answers = msgspec.json.Decoder(TaskAnswer)


class TooManyListenersError(Exception):
    """No more waits and streams are taken for now."""


class Arrival(NamedTuple):
    """A record of the topic: what it did to the view, and its value as it is there (None for a tombstone)."""

    change: Change
    value: bytes | None


def event_of(row: TaskRow, value: bytes) -> bytes:
    """One server-sent event (https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation)."""
    line = value.replace(b"\r", b" ").replace(b"\n", b" ")  # in JSON these are white space, in a stream the end of the data
    return f"id: {row.task_id}/{row.revision}\nevent: {row.state.value}\ndata: ".encode() + line + b"\n\n"


def value_of(row: TaskRow) -> bytes:
    """The value of the record that a row came from, as far as the view knows: it keeps no `partial`."""
    transition = Transition(
        row.technology,
        row.revision,
        TaskInfo(row.task_id, row.state),
        call_id=msgspec.UNSET if row.call_id is None else row.call_id,
        result_ref=msgspec.UNSET if row.result_ref is None else row.result_ref,
        owner=msgspec.UNSET if row.owner is None else row.owner,
    )
    if row.body is not None:
        answer = _answers.decode(row.body)
        transition = msgspec.structs.replace(transition, result=answer.result, error=answer.error)
    return _encoder.encode(transition)


class Waiter:
    """One that saw a task in a state, and is stirred when it may be in another one now."""

    def __init__(self, state: TaskState) -> None:
        self._state = state
        self._stirred = asyncio.Event()

    def tell(self, change: Change) -> None:
        """A redelivered record may stir it for nothing: what counts is a look at the view."""
        if isinstance(change, Removal) or change.state is not self._state:
            self.stir()

    def stir(self) -> None:
        """Makes it look again."""
        self._stirred.set()

    async def stirred(self) -> None:
        """Returns once stirred since the last time."""
        await self._stirred.wait()
        self._stirred.clear()


class Stream:
    """What a listener has yet to be sent about a call: each revision of a task once, in order.

    It ends when its reader falls too far behind; the reader comes back and begins with the current states.
    """

    def __init__(self, sees: Sees, ttl_ms: int, is_welcome: Callable[[], bool]) -> None:
        self._sees, self._ttl_ms = sees, ttl_ms
        self.is_welcome = is_welcome
        self._events: deque[bytes] = deque()
        self._size_bytes = 0
        self._taken: dict[str, Known] = {}  # by task id
        self._untold: set[str] = set()  # of these the reader has nothing yet
        self._stirred = asyncio.Event()
        self._ended = asyncio.Event()

    def _is_news(self, row: TaskRow) -> bool:
        if row.task_id not in self._taken:
            return True
        known = self._taken[row.task_id]
        if row.revision == known.revision and row.task_id in self._untold:
            return True
        # As in the view: nothing leaves a final state, but a call id that comes back after a lifetime begins a new task.
        is_later = row.revision > known.revision and not known.state.is_final
        return is_later or known.updated_at_ms <= row.updated_at_ms - self._ttl_ms

    def _take(self, row: TaskRow, owner: str | None) -> bool:
        if self._ended.is_set() or not self._sees(owner):
            return False
        self._taken[row.task_id] = Known(row.task_id, row.revision, row.state, row.updated_at_ms)
        self._untold.discard(row.task_id)
        return True

    def expect(self, tasks: Iterable[Known]) -> None:
        """What the view knew when the stream joined. `current` tells it; until then older records, redelivered, are no news."""
        for task in tasks:
            self._taken[task.task_id] = task
            self._untold.add(task.task_id)

    def offer(self, row: TaskRow, owner: str | None, event: bytes) -> None:
        """A record has arrived, of this owner's task."""
        if not self._is_news(row) or not self._take(row, owner):
            return
        self._events.append(event)
        self._size_bytes += len(event)
        self._stirred.set()
        if len(self._events) > MAX_EVENTS or self._size_bytes > MAX_EVENT_BYTES:
            self.end()

    def current(self, row: TaskRow | None) -> bytes | None:
        """The event of an expected task's current state; None when it has arrived before, or the view has been begun anew."""
        if row is None or row.task_id not in self._untold or row.revision < self._taken[row.task_id].revision:
            return None
        if not self._take(row, row.owner):
            return None
        return event_of(row, value_of(row))

    def end(self) -> None:
        """Nothing more is sent."""
        self._events.clear()
        self._ended.set()
        self._stirred.set()

    async def ended(self) -> None:
        """Returns once the stream has ended."""
        await self._ended.wait()

    async def next(self) -> bytes | None:
        """The next event; None at the end."""
        while not self._events:
            if self._ended.is_set():
                return None
            self._stirred.clear()
            await self._stirred.wait()
        event = self._events.popleft()
        self._size_bytes -= len(event)
        return event


class Hub:
    """Everybody who waits or listens now."""

    def __init__(self, ttl_s: float, max_listeners: int = MAX_LISTENERS, owner_of: Owners = lambda row: row.owner) -> None:
        """`ttl_s` is a task's lifetime after its last change; `owner_of` knows owners that a record leaves out."""
        self._owner_of = owner_of
        self._ttl_ms = round(ttl_s * 1000)
        self._max_listeners = max_listeners
        self._waiters: dict[str, set[Waiter]] = {}  # by task id
        self._streams: dict[str, set[Stream]] = {}  # by call id
        self.listeners = 0
        self.closed = False

    @contextlib.contextmanager
    def _joined(self, members: dict[str, set[Listener]], name: str, listener: Listener) -> Iterator[Listener]:
        if self.listeners >= self._max_listeners:
            raise TooManyListenersError(f"{self.listeners} wait or listen already")
        self.listeners += 1
        members.setdefault(name, set()).add(listener)
        try:
            yield listener
        finally:
            self.listeners -= 1
            members[name].discard(listener)
            if not members[name]:
                del members[name]

    @contextlib.contextmanager
    def waiting(self, task_id: str, state: TaskState) -> Iterator[Waiter]:
        """Joins one that saw the task in this state: look again at once, it may have changed before. TooManyListenersError."""
        with self._joined(self._waiters, task_id, Waiter(state)) as waiter:
            yield waiter

    @contextlib.contextmanager
    def streaming(self, call_id: str, sees: Sees, is_welcome: Callable[[], bool] = lambda: True) -> Iterator[Stream]:
        """Joins a stream about the call, of what `sees` lets through. Raises TooManyListenersError."""
        with self._joined(self._streams, call_id, Stream(sees, self._ttl_ms, is_welcome)) as stream:
            if self.closed:
                stream.end()
            yield stream

    def publish(self, arrivals: Sequence[Arrival]) -> None:
        """Tells of records that the view has just taken in, in the topic's order."""
        if not self.listeners:
            return
        for change, value in arrivals:
            for waiter in self._waiters.get(change.task_id, ()):
                waiter.tell(change)
            if isinstance(change, TaskRow) and value is not None and change.call_id in self._streams:
                event, owner = event_of(change, value), self._owner_of(change)
                for stream in self._streams[change.call_id]:
                    stream.offer(change, owner, event)

    def stir(self) -> None:
        """The view has changed without records: everybody who waits looks again."""
        for waiters in self._waiters.values():
            for waiter in waiters:
                waiter.stir()

    def recheck(self) -> None:
        """Who may see what has changed: streams that are not welcome any more end, and everybody who waits looks again."""
        for streams in self._streams.values():
            for stream in streams:
                if not stream.is_welcome():
                    stream.end()
        self.stir()

    def lose_track(self) -> None:
        """What has been told does not lead to what comes next: streams end, their readers come back for the current states."""
        self.stir()
        for streams in self._streams.values():
            for stream in streams:
                stream.end()

    def close(self) -> None:
        """Lets everybody go, now and from now on."""
        self.closed = True
        self.lose_track()
