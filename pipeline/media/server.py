"""The fork server: a small process with numpy and the decoders loaded that forks a confined child for each file.

multiprocessing has one too, but its children import the program's main module anew, inherit the environment, and cannot be
ended by closing a socket. This one has one thread, no environment and three kinds of descriptors: its parent's socket, and for
each job the file, the socket that the audio goes to and the one that says how the child ended. When the other end of the last
one closes, for whatever reason, the child is killed; when the parent's closes, everything ends.
"""

import contextlib
import gc
import os
import resource
import selectors
import signal
import socket
import sys
import wave

import msgspec

from pipeline.media import child, wire
from pipeline.media.files import MediaFile

_POLL_S = 1.0  # how soon a parent's death is seen when one of its other children still holds our socket open
_FDS_OF_A_JOB = 3


class ForkServer:
    """Forks children for the process at the other end of `parent`."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent
        self._parent_pid = os.getppid()
        self._ends: dict[int, socket.socket] = {}  # by child: the socket that hears of its end
        self._selector = selectors.DefaultSelector()
        self._wake, self._wake_write = socket.socketpair()

    def run(self) -> None:
        """Serve until the parent is gone."""
        self._watch_children()
        self._selector.register(self._parent, selectors.EVENT_READ)
        while os.getppid() == self._parent_pid:
            for key, _ in self._selector.select(_POLL_S):
                if key.fileobj is self._parent:
                    if not self._serve_once():
                        return
                elif key.fileobj is self._wake:
                    self._wake.recv(4096)
                else:
                    self._abandoned(key.data)
            self._reap()

    def _watch_children(self) -> None:
        for one in (self._wake, self._wake_write):
            one.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self._selector.register(self._wake, selectors.EVENT_READ)

    def _serve_once(self) -> bool:
        """Take one job; False when the parent is gone."""
        job, fds, _, _ = socket.recv_fds(self._parent, wire.MAX_JOB_BYTES, _FDS_OF_A_JOB)
        if len(fds) == _FDS_OF_A_JOB:
            self._fork(job, fds[0], fds[1], socket.socket(fileno=fds.pop()))
        for fd in fds:
            os.close(fd)
        return bool(job)

    def _fork(self, job: bytes, file_fd: int, output_fd: int, end: socket.socket) -> None:
        server_pid = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            _tell(end, wire.Exit(errno=error.errno or -1))
            return
        if pid == 0:
            _become_child(file_fd, output_fd, job, server_pid)
        self._ends[pid] = end
        self._selector.register(end, selectors.EVENT_READ, pid)

    def _abandoned(self, pid: int) -> None:
        """Nobody wants to know any more. It cannot be another process by now: it has not been waited for."""
        if pid in self._ends:
            os.kill(pid, signal.SIGKILL)
            self._selector.unregister(self._ends[pid])

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
                if pid == 0:
                    return
                end = self._ends.pop(pid)
                with contextlib.suppress(KeyError):
                    self._selector.unregister(end)
                _tell(end, wire.Exit(status, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024))


def _become_child(file_fd: int, output_fd: int, job: bytes, server_pid: int) -> None:
    code = wire.EXIT_FAILED
    try:
        signal.set_wakeup_fd(-1)
        code = child.run(file_fd, output_fd, job, server_pid)
    finally:
        os._exit(code)  # without what Python does at an end, which is the server's


def _tell(end: socket.socket, what: wire.Exit) -> None:
    with contextlib.suppress(OSError), end:  # it may have given up
        end.send(msgspec.msgpack.encode(what))


def _warm_up() -> None:
    """Decode a moment of silence, so that what is loaded or looked up at the first use is there before the first fork."""
    fd = os.memfd_create("silence")
    with os.fdopen(os.dup(fd), "wb") as file, wave.open(file) as silence:
        silence.setparams((1, 2, 11_025, 1000, "NONE", ""))
        silence.writeframes(bytes(2000))
    os.lseek(fd, 0, os.SEEK_SET)
    with MediaFile(fd) as media:
        list(media.chunks())


def main() -> None:
    """Serve on the descriptor that the command line names."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are sent to whole groups; the parent ends us when it is done
    most = min(child.MAX_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    _warm_up()
    gc.collect()
    gc.freeze()  # or each child would copy the pages that the collector marks
    with socket.socket(fileno=int(sys.argv[1])) as parent:
        ForkServer(parent).run()


if __name__ == "__main__":
    main()
