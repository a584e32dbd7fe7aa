"""Serves the query service over HTTP with uvicorn (https://www.uvicorn.org/settings/)."""

import asyncio
import contextlib
import logging
import signal
import socket
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import uvicorn
from litestar.types import ASGIApp

from pipeline.query.app import create_app, running
from pipeline.query.view import ViewLockedError
from pipeline.settings import Settings

logger = logging.getLogger(__name__)

BACKLOG = 2048
KEEP_ALIVE_S = 15
MAX_HEAD_BYTES = 32_768  # request line and headers
MAX_CONNECTIONS = 1000  # more get 503 from uvicorn


class Listening(NamedTuple):
    """Where the service listens (a port of 0 took a free one), and its background work, which ends early only with a fault."""

    url: str
    work: asyncio.Task[None]


class _Server(uvicorn.Server):
    """A server that leaves the process's signals alone, since whoever runs it decides about them, and says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens; `listening` is set also when that failed, and then `serve` raises."""
        try:
            await super().startup(sockets)
        finally:
            self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only where the protocol is named; with socket.create_server an answer took 44 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        where = f"{settings.host}:{settings.port}"
        raise OSError(f"cannot listen on {where} ({error.strerror or error}): choose another CALLSTREAM_PORT") from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(app: ASGIApp, settings: Settings) -> _Server:
    config = uvicorn.Config(
        app,
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # or any local client could choose the address that the rate limit counts
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.grace_period_s) or 1,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        limit_concurrency=MAX_CONNECTIONS,
    )
    return _Server(config)


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Listening]:
    """The service while it listens.

    Raises OSError, sqlite3.Error or ViewLockedError when it cannot start.
    """
    with _listen(settings) as listener:
        async with running(settings) as service:
            server = _server(create_app(service), settings)
            work = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                await server.listening.wait()
                yield Listening(_url(listener), work if service.work is None else service.work)
            finally:
                server.should_exit = True
                await work


async def serve(settings: Settings, ready_event: asyncio.Event | None = None, stop_event: asyncio.Event | None = None) -> None:
    """Serves until `stop_event` is set or the task is cancelled; says where on stderr, then sets `ready_event`.

    Raises what `serving` raises, and an ExceptionGroup when the background work met a fault of ours.
    """
    async with serving(settings) as listening:
        sys.stderr.write(f"listening on {listening.url}\n")
        sys.stderr.flush()
        if ready_event is not None:
            ready_event.set()
        stopping = asyncio.create_task((stop_event or asyncio.Event()).wait())
        try:
            await asyncio.wait({stopping, listening.work}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
        if listening.work.done():
            listening.work.result()


async def _serve_until_signal(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop_event=stop)


def run(settings: Settings) -> int:
    """`callstream query`: serves until SIGTERM or SIGINT. The exit code: 0, or 1 when it could not start or met a fault."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the follower says the same once, not ten times a second
    try:
        asyncio.run(_serve_until_signal(settings))
    except (OSError, sqlite3.Error, ViewLockedError) as error:
        sys.stderr.write(f"callstream query: {error}\n")
        return 1
    except ExceptionGroup:
        logger.exception("the query service met a fault and ends")
        return 1
    return 0
