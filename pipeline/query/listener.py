"""How many connections are held at once, so that the process never runs out of file descriptors.

asyncio accepts whatever comes, up to the backlog at a time, and shows a connection to nobody before its TLS handshake is done:
the only place where all of them can be counted is the socket that listens.
"""

import resource
import socket
from collections.abc import Callable

MAX_CONNECTIONS = 1000  # more get 503
MIN_CONNECTIONS = 50
REFUSABLE = 100  # so many more are held for as long as it takes to tell them; more than that are closed at once
OTHER_FILES = 200  # for those, and for the view, blobs, uploads and Kafka


def raise_file_limit() -> None:
    """Let the process open as many files as it may (getrlimit(2))."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def max_connections() -> int:
    """How many connections are served: as many as the limit of open files leaves room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(MIN_CONNECTIONS, soft - OTHER_FILES))


class _Connection(socket.socket):
    """An accepted connection that says when it is closed."""

    on_close: Callable[[], None] | None = None

    def close(self) -> None:
        """Closes it, once."""
        super().close()
        if self.on_close is not None:
            on_close, self.on_close = self.on_close, None
            on_close()


class Listener(socket.socket):
    """A TCP socket to listen on that holds no more connections than it may."""

    def __init__(self, family: int, max_open: int) -> None:
        # asyncio sets TCP_NODELAY only where the protocol is named; with socket.create_server an answer took 44 ms
        super().__init__(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        self._max_open = max_open
        self.open_connections = 0

    def accept(self) -> tuple[socket.socket, object]:
        """The next connection. Raises ConnectionAbortedError, after which asyncio goes on, when that was one too many."""
        accepted, address = super().accept()
        if self.open_connections >= self._max_open:
            accepted.close()
            raise ConnectionAbortedError("too many connections")
        connection = _Connection(accepted.family, accepted.type, accepted.proto, accepted.detach())
        self.open_connections += 1
        connection.on_close = self._one_less
        return connection, address

    def _one_less(self) -> None:
        self.open_connections -= 1
