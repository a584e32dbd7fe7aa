"""HTTP/1.1 as uvicorn speaks it, with an end to the patience for slow and greedy clients.

uvicorn waits for ever for a request that is begun and never finished, and for a client that does not read its answer; here a
look at each connection every second ends that. What the client gets is our envelope, where it still can get anything.
"""

import asyncio
import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any, ClassVar

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import H11Protocol

from pipeline.query.edge import STATE_KEY, RequestIds, ids_of, read_ids, refuse
from pipeline.query.errors import JSON_TYPE, RequestRefusedError, busy, request_invalid

LOOK_EVERY_S = 1.0
LOOKS = 4  # at least so often within each time limit
MIN_BODY_BYTES_PER_S = 1000
LINGER_S = 30.0  # to close with unread bytes would reset the connection and lose the answer: read on, so long at most
LINGER_SILENCE_S = 3.0  # and no longer behind the last that came
CLOSE = (b"connection", b"close")
_NOT_ANSWERED = (h11.IDLE, h11.SEND_RESPONSE)


class Limits(msgspec.Struct, frozen=True):
    """How long a client may take, and how many connections are served."""

    head_timeout_s: float
    body_timeout_s: float
    read_timeout_s: float
    max_connections: int
    max_body_bytes: int

    @property
    def look_every_s(self) -> float:
        """How often a connection is looked at."""
        return min(LOOK_EVERY_S, min(self.head_timeout_s, self.body_timeout_s, self.read_timeout_s) / LOOKS)


class _Pace:
    """How fast a body comes; time in which nobody took it does not count."""

    def __init__(self, now_s: float) -> None:
        self._came_bytes, self._waited_s, self._last_s = 0, 0.0, now_s

    def received(self, size_bytes: int, now_s: float) -> None:
        self._came_bytes += size_bytes
        self._waited_s += now_s - self._last_s
        self._last_s = now_s

    def hold(self, now_s: float) -> None:
        self._last_s = now_s

    def is_late(self, now_s: float, timeout_s: float) -> bool:
        silent_s = now_s - self._last_s
        waited_s = self._waited_s + silent_s
        return silent_s > timeout_s or (waited_s > timeout_s and self._came_bytes < MIN_BODY_BYTES_PER_S * waited_s)


class _AnswersTransport(asyncio.Transport):
    """What uvicorn writes an answer to; how the connection ends behind it is the protocol's to say."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        super().__init__()
        self._transport, self._close = transport, close

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._close()


async def _busy(scope: Any, _receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI, in uvicorn's types and Litestar's
    await refuse(busy(), scope, send)


class GuardedProtocol(H11Protocol):
    """One connection. `limits` and `stopping` are those of the class that `protocol_class` makes."""

    limits: ClassVar[Limits]
    stopping: ClassVar[asyncio.Event]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        """Begins to look at the connection."""
        super().connection_made(transport)
        self._application: Any = self.app if len(self.connections) <= self.limits.max_connections else _busy
        self.app = self._answered
        self._answers_transport = _AnswersTransport(transport, self._end_answer)
        now_s = self.loop.time()
        self._head_since_s: float | None = now_s  # a request is awaited or begun, and its head is not complete
        self._pace: _Pace | None = None
        self._lingering: _Pace | None = None  # all that comes is dropped
        self._close_at_s, self._dropped_bytes = 0.0, 0
        self._unread_bytes, self._unread_since_s = 0, now_s
        self._look()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends looking."""
        self._looking.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes what came, and notes what is awaited next."""
        if self._lingering is not None:
            self._lingering.received(len(data), self.loop.time())
            self._dropped_bytes += len(data)
            return
        if self.conn.their_state is h11.IDLE and self._head_since_s is None:
            self._head_since_s = self.loop.time()
        super().data_received(data)
        now_s = self.loop.time()
        self._note(now_s)
        if self._pace is not None:
            self._pace.received(len(data), now_s)

    def _note(self, now_s: float) -> None:
        if self.conn.their_state is not h11.SEND_BODY:
            self._pace = None
        elif self._pace is None:
            self._pace = _Pace(now_s)
        if self.conn.their_state is not h11.IDLE:
            self._head_since_s = None
        elif self._head_since_s is None and self.conn.trailing_data[0]:
            self._head_since_s = now_s  # came behind the request before

    def resume_writing(self) -> None:
        """The client took some of its answer."""
        self._unread_since_s = self.loop.time()
        super().resume_writing()

    def handle_events(self) -> None:
        """As in uvicorn, but whatever is answered ends as `_end_answer` says."""
        super().handle_events()
        if self.cycle is not None:
            self.cycle.transport = self._answers_transport

    async def _answered(self, scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        """Says beforehand that no other request is taken behind an answer: its body may still come, or the server stops."""

        async def send_on(message: Any) -> None:  # noqa: ANN401 - ASGI
            is_last = self.conn.their_state is h11.SEND_BODY or self.stopping.is_set()
            if message["type"] == "http.response.start" and is_last and CLOSE not in message["headers"]:
                message["headers"] = [*message["headers"], CLOSE]
            await send(message)

        await self._application(scope, receive, send_on)

    def _end_answer(self) -> None:
        if self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY:
            self._linger()
        else:
            self.transport.close()

    def on_response_complete(self) -> None:
        """Goes on to the next request, if that has come already."""
        if self._lingering is None:
            super().on_response_complete()

    def shutdown(self) -> None:
        """As in uvicorn; who has not got the answer yet, still gets it."""
        if self._lingering is None:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's, in plain text
        """What cannot be read as HTTP."""
        self._refuse(request_invalid())

    def _look(self) -> None:
        now_s = self.loop.time()
        self._looking = self.loop.call_later(self.limits.look_every_s, self._look)
        if self._takes_nothing(now_s) or (self.transport.is_closing() and self._has_all()):
            self.transport.abort()
        elif self._lingering is not None:
            self._end_lingering(self._lingering, now_s)
        elif self._is_late(now_s):
            self._refuse(request_invalid())
        self._note(now_s)

    def _takes_nothing(self, now_s: float) -> bool:
        unread_bytes = self.transport.get_write_buffer_size()
        if unread_bytes == 0 or unread_bytes < self._unread_bytes:
            self._unread_since_s = now_s
        self._unread_bytes = unread_bytes
        return now_s - self._unread_since_s > self.limits.read_timeout_s

    def _has_all(self) -> bool:
        """Whether the client's machine has all that was sent; TLS still waits then, for a last word that few clients say."""
        connected = self.transport.get_extra_info("socket")
        if connected is None or connected.fileno() < 0:
            return False  # it is lost, which is about to be told
        unsent = fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(struct.calcsize("i")))
        return self.transport.get_write_buffer_size() == 0 and not any(unsent)

    def _linger(self) -> None:
        self._unset_keepalive_if_required()
        now_s = self.loop.time()
        self._lingering, self._close_at_s = _Pace(now_s), now_s + LINGER_S
        self.flow.resume_reading()

    def _end_lingering(self, pace: _Pace, now_s: float) -> None:
        is_too_much = self._dropped_bytes > self.limits.max_body_bytes
        if is_too_much or now_s >= self._close_at_s or pace.is_late(now_s, LINGER_SILENCE_S):
            self.transport.close()

    def _is_late(self, now_s: float) -> bool:
        if self._head_since_s is not None and now_s - self._head_since_s > self.limits.head_timeout_s:
            return True
        if self._pace is None:
            return False
        if self.flow.read_paused:
            self._pace.hold(now_s)
        return self._pace.is_late(now_s, self.limits.body_timeout_s)

    def _is_silent(self) -> bool:
        return self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]

    def _ids(self) -> RequestIds:
        """Those of the request whose body comes; new ones where there is no more than a head that cannot be read."""
        begun = self.cycle is not None and not self.cycle.response_complete
        scope = self.cycle.scope if begun else {"headers": ()}
        return ids_of(scope) if STATE_KEY in scope else read_ids(scope["headers"])

    def _refuse(self, refusal: RequestRefusedError) -> None:
        """Answers if nothing was answered yet, and closes."""
        if self.conn.our_state in _NOT_ANSWERED and not self._is_silent():
            headers = [(b"content-type", JSON_TYPE.encode()), (b"content-length", str(len(refusal.body)).encode())]
            headers += [CLOSE, *self._ids().as_headers(), *self.server_state.default_headers]
            response = h11.Response(status_code=refusal.status, headers=headers, reason=refusal.status.phrase.encode())
            for event in (response, h11.Data(data=refusal.body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # whoever still answers, answers nobody
            self.cycle.message_event.set()
            self.flow.resume_writing()
        self._linger()


def protocol_class(limits: Limits, stopping: asyncio.Event) -> type[GuardedProtocol]:
    """The protocol with these limits, as uvicorn's `http` setting takes it; `stopping` is set when the server is to end."""
    return type("LimitedProtocol", (GuardedProtocol,), {"limits": limits, "stopping": stopping})
