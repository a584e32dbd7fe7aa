"""Answers that take their time: a GET that waits for a task's next state, and the event stream of a call."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus

from litestar.datastructures import MultiDict
from litestar.types import Receive, Scope, Send

from pipeline.query.edge import mark_held
from pipeline.query.errors import too_many_listeners, validation_failed
from pipeline.query.events import Hub, Stream, TooManyListenersError
from pipeline.query.owners import caller_of, check_known, is_visible
from pipeline.query.validation import read_number, read_task_id
from pipeline.query.view import Known, View
from schemas.errors import DetailType, ErrorDetail
from schemas.tasks import TaskState, Technology

MAX_WAIT_S = 60
MAX_CALL_ID_CHARS = 128
KEEP_ALIVE_S = 15.0
LAST_WORDS_S = 0.5  # for a reader that takes nothing any more; then the connection is broken
EVENTS_TYPE = "text/event-stream"
KEEP_ALIVE = b": keep-alive\n\n"
HEADERS = [(b"content-type", EVENTS_TYPE.encode()), (b"cache-control", b"no-store"), (b"x-accel-buffering", b"no")]

Query = MultiDict[str]


def read_wait(query: Query) -> float:
    """How long (s) an answer may be held; 0 when nothing is said. Raises RequestRefusedError (422)."""
    given = query.getall("wait", [])
    if not given:
        return 0.0
    wait_s = read_number(given[0]) if len(given) == 1 else None
    if wait_s is None:
        raise validation_failed([ErrorDetail(["query", "wait"], "A number of seconds is needed.", DetailType.VALUE_TYPE)])
    if not 0 <= wait_s <= MAX_WAIT_S:
        context = {"minimum": 0, "maximum": MAX_WAIT_S}
        message = f"A wait lasts 0 to {MAX_WAIT_S} seconds."
        raise validation_failed([ErrorDetail(["query", "wait"], message, DetailType.VALUE_INVALID, {**context})])
    return wait_s


def read_call_id(query: Query) -> str:
    """Whose events are asked for. Raises RequestRefusedError (422)."""
    given = query.getall("call_id", [])
    if not given:
        raise validation_failed([ErrorDetail(["query", "call_id"], "A call id is needed.", DetailType.VALUE_MISSING)])
    if len(given) > 1 or not 1 <= len(given[0]) <= MAX_CALL_ID_CHARS:
        message = f"One call id of 1 to {MAX_CALL_ID_CHARS} characters is needed."
        context = {"min_length": 1, "max_length": MAX_CALL_ID_CHARS}
        raise validation_failed([ErrorDetail(["query", "call_id"], message, DetailType.VALUE_INVALID, {**context})])
    return given[0]


async def until_gone(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Waits:
    """Holds GETs back until their task has another state."""

    def __init__(self, hub: Hub, view: View) -> None:
        self._hub, self._view = hub, view

    def _state(self, technology: Technology, task_id: str, scope: Scope) -> TaskState | None:
        """What a GET would find now; None for 404."""
        row = self._view.get(task_id)
        if row is None or row.technology is not technology or not is_visible(row.owner, scope):
            return None
        return row.state

    async def hold(self, technology: Technology, task_id_text: str, wait_s: float, scope: Scope, receive: Receive) -> None:
        """Returns when the task may be answered. Raises RequestRefusedError: 422 (no UUID), 503, 401 (a key taken away)."""
        task_id = read_task_id(task_id_text)
        state = self._state(technology, task_id, scope)
        if not wait_s or state is None or state.is_final or self._hub.closed:
            return
        mark_held(scope)
        try:
            with contextlib.suppress(TimeoutError), self._hub.waiting(task_id, state) as waiter:
                gone = asyncio.create_task(until_gone(receive))
                gone.add_done_callback(lambda _: waiter.stir())
                try:
                    async with asyncio.timeout(wait_s):
                        while not gone.done() and not self._hub.closed and self._state(technology, task_id, scope) is state:
                            await waiter.stirred()
                finally:
                    gone.cancel()
        except TooManyListenersError:
            raise too_many_listeners() from None
        check_known(scope)


class EventAnswer:
    """An ASGI response: the current state of every task of a call, then each transition as it arrives."""

    def __init__(self, hub: Hub, view: View, call_id: str) -> None:
        self._hub, self._view, self._call_id = hub, view, call_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry. Raises RequestRefusedError (503) when too many listen."""
        mark_held(scope)
        try:
            with self._streaming(scope) as stream:
                known = self._view.tasks_of_call(self._call_id)
                stream.expect(known)
                await _send_until_gone(stream, self._events(stream, known), receive, send)
        except TooManyListenersError:
            raise too_many_listeners() from None

    def _streaming(self, scope: Scope) -> contextlib.AbstractContextManager[Stream]:
        # both are asked for each event, since keys may be taken away
        return self._hub.streaming(self._call_id, lambda owner: is_visible(owner, scope), lambda: not caller_of(scope).is_gone)

    async def _events(self, stream: Stream, known: list[Known]) -> AsyncIterator[bytes]:
        for task in known:  # one by one: results may be large, and the reader slow
            event = stream.current(self._view.get(task.task_id))
            if event is not None:
                yield event
        while True:
            try:
                async with asyncio.timeout(KEEP_ALIVE_S):
                    event = await stream.next()
            except TimeoutError:
                event = KEEP_ALIVE
            if event is None:
                return
            yield event


async def _send_all(events: AsyncIterator[bytes], send: Send) -> None:
    await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": HEADERS})
    async for event in events:
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_until_gone(stream: Stream, events: AsyncIterator[bytes], receive: Receive, send: Send) -> None:
    sending = asyncio.create_task(_send_all(events, send))
    others = [asyncio.create_task(until_gone(receive)), asyncio.create_task(stream.ended())]
    try:
        await asyncio.wait([sending, *others], return_when=asyncio.FIRST_COMPLETED)
        if others[1].done():
            await asyncio.wait([sending], timeout=LAST_WORDS_S)
    finally:
        for task in (sending, *others):
            task.cancel()
        outcome, *_ = await asyncio.gather(sending, *others, return_exceptions=True)
    if isinstance(outcome, Exception):
        raise outcome
