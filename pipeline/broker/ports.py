"""Free ports on the loopback address."""

import random
import socket

from pipeline.broker.config import HOST
from pipeline.broker.errors import BrokerError

# Below the usual ephemeral range (32768 and up): no client's outgoing connection takes the port while a broker restarts, nor
# does a client that retries meet itself on it (TCP's simultaneous open).
_FIRST, _LAST = 20_000, 32_767
_TRIES = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the broker does: closed connections don't count
        try:
            probe.bind((HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True


def free_port(*taken: int) -> int:
    """A port on which nothing listens, none of `taken`; another process may still take it first."""
    for _ in range(_TRIES):
        port = random.randint(_FIRST, _LAST)  # noqa: S311
        if port not in taken and is_free(port):
            return port
    raise BrokerError(f"no free port on {HOST} in {_FIRST}-{_LAST}; end some servers or give a port")
