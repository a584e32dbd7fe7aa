"""Serves the query service over HTTP or HTTPS with uvicorn (https://www.uvicorn.org/settings/)."""

import asyncio
import contextlib
import logging
import signal
import socket
import sqlite3
import ssl
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

import uvicorn
from litestar.types import ASGIApp

from pipeline.last_resort import end_within
from pipeline.logs import log_to_stderr
from pipeline.query.addresses import is_loopback
from pipeline.query.app import create_app, running
from pipeline.query.gate import MAX_HEAD_BYTES
from pipeline.query.keys import Keyring, KeysError
from pipeline.query.listener import REFUSABLE, Listener, max_connections, raise_file_limit
from pipeline.query.protocol import Limits, protocol_class
from pipeline.query.routes import EVENTS_PATH
from pipeline.query.tls import TlsError, load_certificate, tls_context
from pipeline.query.view_file import FILE_NAME, ViewLockedError
from pipeline.settings import Settings

logger = logging.getLogger(__name__)

BACKLOG = 2048
KEEP_ALIVE_S = 15
HANDSHAKE_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0  # for a client that takes nothing of its answer
BREAK_EVERY_S = 0.5
LAST_WORDS_S = 5.0  # for closing what is open, behind the grace period


class ExposedError(Exception):
    """Others could reach the service, and nothing keeps them out; the message is one line."""


class Listening(NamedTuple):
    """Where the service listens (a port of 0 took a free one), and its background work, which ends early only with a fault."""

    url: str
    work: asyncio.Task[None]


class _Server(uvicorn.Server):
    """A server that leaves the process's signals alone, since whoever runs it decides about them, and says when it listens."""

    def __init__(self, config: uvicorn.Config, stopping: asyncio.Event) -> None:
        super().__init__(config)
        self.listening, self._stopping = asyncio.Event(), stopping

    def stop(self) -> None:
        """Takes no other request on a connection that answers from now on, and ends."""
        self._stopping.set()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens; `listening` is set also when that failed, and then `serve` raises."""
        try:
            await super().startup([])  # it would wait a minute for each client's TLS
            for listener in sockets or ():
                self.servers.append(await self._listen_on(listener))
        finally:
            self.listening.set()

    async def _listen_on(self, listener: socket.socket) -> asyncio.Server:
        config, tls = self.config, self.config.ssl
        return await asyncio.get_running_loop().create_server(
            lambda: config.http_protocol_class(config=config, server_state=self.server_state, app_state=self.lifespan.state),  # type: ignore[call-arg]  # as uvicorn does it
            sock=listener,
            ssl=tls,
            backlog=BACKLOG,
            ssl_handshake_timeout=None if tls is None else HANDSHAKE_TIMEOUT_S,
        )

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until `stop`."""
        breaking = asyncio.create_task(self._break_off_streams())
        try:
            await super().serve(sockets)
        finally:
            breaking.cancel()

    async def _break_off_streams(self) -> None:
        # A stream that ended while its reader took nothing: asyncio keeps what is unsent, and uvicorn waits until it is read.
        while True:
            await asyncio.sleep(BREAK_EVERY_S)
            for connection in list(self.server_state.connections):
                transport, scope = connection.transport, getattr(connection, "scope", None)
                if transport is not None and transport.is_closing() and scope and scope["path"].rstrip("/") == EVENTS_PATH:
                    transport.abort()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Access:
    """Who may come in, and how: the API keys and the certificate."""

    def __init__(self, settings: Settings) -> None:
        """Reads both. Raises KeysError or TlsError."""
        self._settings = settings
        self.keyring = Keyring(settings)
        self.tls = tls_context(settings)

    def reload(self) -> None:
        """Reads the files anew; bad ones change nothing."""
        self.keyring.reload()
        if self.tls is None:
            return
        try:
            tls_context(self._settings)  # a certificate without its key would be half in use
            load_certificate(self.tls, self._settings)
        except TlsError as error:
            logger.error("the certificate stays as it was: %s", error)  # noqa: TRY400  # one line says it


def _check_exposed(address: str, settings: Settings, access: Access) -> None:
    if is_loopback(address):
        return
    if access.keyring.is_empty:
        advice = "set CALLSTREAM_API_KEYS_FILE (`callstream keys new NAME` makes a key), or CALLSTREAM_HOST=127.0.0.1"
        raise ExposedError(f"others can reach {settings.host}, and no API key is configured: {advice}")
    if access.tls is None:
        logger.warning("keys and results go over the network in clear text: set CALLSTREAM_TLS_CERT_FILE")


def _listen(settings: Settings, access: Access) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = Listener(family, max_connections() + REFUSABLE)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
        _check_exposed(listener.getsockname()[0], settings, access)
        listener.listen(BACKLOG)
    except ExposedError:
        listener.close()
        raise
    except OSError as error:
        listener.close()
        where = f"{settings.host}:{settings.port}"
        advice = "choose another CALLSTREAM_HOST or CALLSTREAM_PORT"
        raise OSError(f"cannot listen on {where} ({error.strerror or error}): {advice}") from error
    return listener


def _url(listener: socket.socket, access: Access) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "http" if access.tls is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _server(app: ASGIApp, settings: Settings, tls: ssl.SSLContext | None) -> _Server:
    max_body_bytes = max(settings.max_body_bytes, settings.max_media_bytes)
    limits = Limits(settings.head_timeout_s, settings.body_timeout_s, READ_TIMEOUT_S, max_connections(), max_body_bytes)
    stopping = asyncio.Event()
    config = uvicorn.Config(
        app,
        http=protocol_class(limits, stopping),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,  # or any local client could choose the address that the rate limit counts
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=int(settings.grace_period_s) or 1,
        h11_max_incomplete_event_size=MAX_HEAD_BYTES,
    )
    config.load()
    config.ssl = tls
    return _Server(config, stopping)


@contextlib.asynccontextmanager
async def serving(settings: Settings, access: Access | None = None) -> AsyncIterator[Listening]:
    """The service while it listens.

    Raises OSError, sqlite3.Error, ViewLockedError, KeysError, TlsError or ExposedError when it cannot start.
    """
    access = access or Access(settings)
    with _listen(settings, access) as listener:
        async with running(settings, access.keyring) as service:
            server = _server(create_app(service), settings, access.tls)
            work = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                await server.listening.wait()
                yield Listening(_url(listener, access), work if service.work is None else service.work)
            finally:
                server.stop()
                service.hub.close()  # an open wait or stream would hold up the end
                await work


async def serve(
    settings: Settings,
    ready_event: asyncio.Event | None = None,
    stop_event: asyncio.Event | None = None,
    access: Access | None = None,
) -> None:
    """Serves until `stop_event` is set or the task is cancelled; says where on stderr, then sets `ready_event`.

    Raises what `serving` raises, and an ExceptionGroup when the background work met a fault of ours.
    """
    async with serving(settings, access) as listening:
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


def _end_soon(settings: Settings) -> None:
    end_within(settings.grace_period_s + LAST_WORDS_S, 1, "the query service")


async def _serve_until_signal(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def end() -> None:
        stop.set()
        _end_soon(settings)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end)
    access = Access(settings)
    loop.add_signal_handler(signal.SIGHUP, access.reload)  # also with nothing to read anew: it would end the process
    try:
        await serve(settings, stop_event=stop, access=access)
    except ExceptionGroup:  # a fault of ours, which no signal precedes
        _end_soon(settings)
        raise


def _in_words(error: Exception, settings: Settings) -> str:
    """An error of a file does not say which setting named it; one of SQLite's not even the file."""
    if isinstance(error, sqlite3.Error):
        return f"{Path(settings.data_dir) / FILE_NAME}: {error}; check CALLSTREAM_DATA_DIR and its disk"
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check CALLSTREAM_DATA_DIR and CALLSTREAM_BLOB_STORE"
    return str(error)


def run(settings: Settings) -> int:
    """`callstream query`: serves until SIGTERM or SIGINT. The exit code: 0, 1 (no start, or a fault), or 2 (settings)."""
    raise_file_limit()
    log_to_stderr(settings)
    try:
        asyncio.run(_serve_until_signal(settings))
    except (OSError, sqlite3.Error, ViewLockedError, KeysError, TlsError, ExposedError) as error:
        sys.stderr.write(f"callstream query: {_in_words(error, settings)}\n")
        return 2 if isinstance(error, KeysError | TlsError | ExposedError) else 1
    except ExceptionGroup:
        logger.exception("the query service met a fault and ends")
        return 1
    return 0
