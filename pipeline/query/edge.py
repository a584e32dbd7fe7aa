"""What surrounds every HTTP request, also one that no route takes: ids, the gate, metrics, and the last resort.

Plain ASGI (https://asgi.readthedocs.io/en/latest/specs/www.html): Litestar's middleware sees no 404 or 405 of its router.
"""

import logging
import re
import time
import uuid
from collections.abc import Iterable, Mapping

import msgspec
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from pipeline.query.errors import JSON_TYPE, RequestRefusedError, internal
from pipeline.query.gate import Gate
from pipeline.query.hosts import to_origin_form
from pipeline.query.metrics import QueryMetrics
from schemas.media import Header

logger = logging.getLogger(__name__)

STATE_KEY = "callstream_ids"
HELD_KEY = "callstream_held"
UNROUTED = "none"
MAX_ID_CHARS = 128
_ID = re.compile(rb"[\x20-\x7e]{1,%d}" % MAX_ID_CHARS)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

RawHeaders = Iterable[tuple[bytes, bytes]]


class RequestIds(msgspec.Struct, frozen=True):
    """The two ids of a request, which every answer echoes."""

    correlation_id: str
    request_id: str

    def as_headers(self) -> list[tuple[bytes, bytes]]:
        """As ASGI response headers."""
        return [
            (Header.CORRELATION_ID.encode(), self.correlation_id.encode()),
            (Header.REQUEST_ID.encode(), self.request_id.encode()),
        ]


def _id_from(headers: Mapping[bytes, bytes], name: str) -> str:
    """The client's id, or a new one when it is absent or not 1 to 128 printable ASCII characters."""
    given = headers.get(name.encode(), b"")
    return given.decode() if _ID.fullmatch(given) else str(uuid.uuid4())


def read_ids(raw_headers: RawHeaders) -> RequestIds:
    """The ids that a request came with; new ones for those it lacks."""
    headers = dict(raw_headers)
    return RequestIds(_id_from(headers, Header.CORRELATION_ID), _id_from(headers, Header.REQUEST_ID))


def ids_of(scope: Mapping[str, object]) -> RequestIds:
    """The ids of the request that is being answered."""
    ids = scope.get(STATE_KEY)
    return ids if isinstance(ids, RequestIds) else read_ids(())


def mark_held(scope: Scope) -> None:
    """Says that the answer waits on purpose: it does not count among the times to answer."""
    scope[HELD_KEY] = True  # type: ignore[literal-required]  # as above


async def send_refusal(refusal: RequestRefusedError, send: Send) -> None:
    """Answers with an error envelope."""
    body = refusal.body
    headers = [(b"content-type", JSON_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in refusal.headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class _Answer:
    """Sends one answer with the ids in its headers, and remembers its status (0 before it began)."""

    def __init__(self, ids: RequestIds, send: Send) -> None:
        self._ids, self._send = ids, send
        self.status = 0

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._ids.as_headers()]
        await self._send(message)


async def refuse(refusal: RequestRefusedError, scope: Scope, send: Send) -> None:
    """Answers with an error envelope and the ids, where no edge is around."""
    await send_refusal(refusal, _Answer(read_ids(scope["headers"]), send).send)


class Edge:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, metrics: QueryMetrics, gate: Gate) -> None:
        self.app, self._metrics, self._gate = app, metrics, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        began_s = time.perf_counter()
        to_origin_form(scope)
        ids = read_ids(scope["headers"])
        scope[STATE_KEY] = ids  # type: ignore[literal-required]  # ASGI lets servers and middleware add keys
        answer = _Answer(ids, send)
        try:
            await self._answer(scope, receive, answer, ids)
        finally:
            self._count(scope, answer.status, time.perf_counter() - began_s)

    async def _answer(self, scope: Scope, receive: Receive, answer: _Answer, ids: RequestIds) -> None:
        try:
            with self._gate.admitted(scope):
                await self.app(scope, receive, answer.send)
        except RequestRefusedError as refusal:  # by the gate: the application answers its own
            if answer.status:
                raise
            await send_refusal(refusal, answer.send)
        except Exception:
            logger.exception("request %s met a fault", ids.request_id)
            if answer.status:  # the answer has begun: all that is left is to break the connection
                raise
            await send_refusal(internal(), answer.send)

    def _count(self, scope: Scope, status: int, took_s: float) -> None:
        route = str(scope.get("path_template") or UNROUTED)
        method = str(scope.get("method"))
        self._metrics.requests.labels(method if method in _METHODS else "other", route, str(status)).inc()
        if HELD_KEY not in scope:
            self._metrics.request_seconds.labels(route).observe(took_s)
