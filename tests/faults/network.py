"""A network namespace of its own, from which brokers on this machine's loopback can be reached by a relay, or not.

Programs in the namespace use the brokers' own addresses: the relay listens there, on the namespace's loopback. `delay_s` and
`bytes_per_s` make it a bad line; taking the loopback down cuts it, and nobody is told (ip-netns(8), ip-link(8)).
"""

import array
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque

_LISTEN = """
import array, socket, sys
ports = [int(port) for port in sys.argv[2:]]
listeners = [socket.create_server(("127.0.0.1", port)) for port in ports]
channel = socket.socket(fileno=int(sys.argv[1]))
socket.send_fds(channel, [b"x"], [one.fileno() for one in listeners])
"""


def why_not() -> str | None:
    """Why there can be no namespace here, None when there can."""
    if os.geteuid() != 0:
        return "needs root for a network namespace"
    if shutil.which("ip") is None:
        return "needs ip (the package iproute2)"
    return None


class Namespace:
    """`with` makes it and takes it away; `prefix` runs a command in it."""

    def __init__(self, ports: list[int]) -> None:
        self.name = f"callstream-{uuid.uuid4().hex[:8]}"
        self.prefix = ["ip", "netns", "exec", self.name]
        self.delay_s = 0.0
        self.bytes_per_s: float | None = None
        self._ports = ports
        self._closing = threading.Event()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> "Namespace":
        _run("ip", "netns", "add", self.name)
        _run(*self.prefix, "ip", "link", "set", "lo", "up")
        for port, listener in zip(self._ports, self._listeners(), strict=True):
            self._sockets.append(listener)
            threading.Thread(target=self._accept, args=(listener, port), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for one in self._sockets:
            one.close()
        _run("ip", "netns", "del", self.name)

    def _listeners(self) -> list[socket.socket]:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            arguments = [str(theirs.fileno()), *map(str, self._ports)]
            subprocess.run([*self.prefix, sys.executable, "-c", _LISTEN, *arguments], pass_fds=[theirs.fileno()], check=True)
            _, descriptors, _, _ = socket.recv_fds(ours, 1, len(self._ports) * array.array("i").itemsize)
        return [socket.socket(fileno=one) for one in descriptors]

    def cut(self) -> None:
        """Nothing gets through any more, and nobody is told."""
        _run(*self.prefix, "ip", "link", "set", "lo", "down")

    def mend(self) -> None:
        _run(*self.prefix, "ip", "link", "set", "lo", "up")

    def _accept(self, listener: socket.socket, port: int) -> None:
        while not self._closing.is_set():
            try:
                inside, _ = listener.accept()
                outside = socket.create_connection(("127.0.0.1", port), timeout=10)
            except OSError:
                continue
            outside.settimeout(None)
            for source, target in ((inside, outside), (outside, inside)):
                threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        """One direction of a connection: read at once, written when it is due."""
        waiting: deque[tuple[float, bytes]] = deque()
        arrived = threading.Condition()
        threading.Thread(target=_deliver, args=(waiting, arrived, target), daemon=True).start()
        free_at_s = time.monotonic()
        data = b"x"
        while data:
            try:
                data = source.recv(16_384)
            except OSError:
                data = b""
            if self.bytes_per_s is not None:
                free_at_s = max(free_at_s, time.monotonic()) + len(data) / self.bytes_per_s
            with arrived:
                waiting.append((max(free_at_s, time.monotonic()) + self.delay_s, data))
                arrived.notify()
            if free_at_s > time.monotonic() + 0.5:  # as much as a line buffers
                time.sleep(0.25)


def _deliver(waiting: "deque[tuple[float, bytes]]", arrived: threading.Condition, target: socket.socket) -> None:
    data = b"x"
    while data:
        with arrived:
            arrived.wait_for(lambda: waiting)
            due_s, data = waiting.popleft()
        time.sleep(max(0.0, due_s - time.monotonic()))
        try:
            target.sendall(data) if data else target.shutdown(socket.SHUT_WR)
        except OSError:
            return


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
