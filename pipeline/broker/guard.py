"""The guard: a small process that owns one child and outlives neither its parent nor leaves the child behind.

The parent holds the other end of its standard input. When that closes, because the parent ended in whatever way, the guard
ends the child and removes its folder. Should the guard itself be killed, the kernel kills the child (prctl(2),
PR_SET_PDEATHSIG). It is run as a script with the standard library only, so that it is small and starts at once.

Commands come as JSON lines: a job first, then `start` and `signal`. Events go out as JSON lines: `ready` or `busy`, `started`,
`refused`, `exited`.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

POLL_S = 0.5  # how soon a parent's death is seen when one of its other children still holds our pipe open
PR_SET_PDEATHSIG = 1


def _death_wish() -> Callable[[], None] | None:
    """What the child does before exec so that it dies with the guard; None where the system has no such call."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    guard_pid = os.getpid()

    def die_with_guard() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard_pid:  # the guard was gone before the call
            os._exit(1)

    return die_with_guard


def _tell(event: str, **values: object) -> None:
    with contextlib.suppress(BrokenPipeError):  # the parent is gone; the loop sees that by itself
        os.write(1, json.dumps({"event": event, **values}).encode() + b"\n")


class Guard:
    """One child at a time, started and signalled by the parent's commands."""

    def __init__(self, parent_pid: int, wake_fd: int) -> None:
        self._parent_pid = parent_pid
        self._wake_fd = wake_fd
        self._child: subprocess.Popen[bytes] | None = None
        self._pending = b""
        self._grace_s = 0.0
        self._remove: str | None = None
        self._lock_fd = -1
        self._before_exec = _death_wish()

    def run(self) -> None:
        """Serve the parent until it is gone, then clean up."""
        try:
            while os.getppid() == self._parent_pid and self._serve_once():
                self._reap()
        finally:
            self._end_child()
            if self._remove:
                shutil.rmtree(self._remove, ignore_errors=True)

    def _serve_once(self) -> bool:
        readable, _, _ = select.select([0, self._wake_fd], [], [], POLL_S)
        if self._wake_fd in readable:
            os.read(self._wake_fd, 4096)
        if 0 not in readable:
            return True
        data = os.read(0, 65_536)
        *lines, self._pending = (self._pending + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))
        return bool(data)

    def _obey(self, command: dict[str, Any]) -> None:
        match command["do"]:
            case "job":
                self._take_job(command)
            case "start":
                self._start(command["argv"], command["output"], command["folder"])
            case "signal" if self._child is not None and self._child.poll() is None:
                os.killpg(self._child.pid, command["signal"])

    def _take_job(self, job: dict[str, Any]) -> None:
        self._grace_s = job["grace_s"]
        if job["lock"] is not None:
            try:
                self._lock_fd = os.open(job["lock"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            except OSError as error:
                _tell("refused", reason=error.strerror)
                return
            try:
                fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                _tell("busy")
                return
        self._remove = job["remove"]
        _tell("ready")

    def _start(self, argv: list[str], output: str, folder: str) -> None:
        try:
            with Path(output).open("wb") as file:
                # A thread would make preexec_fn unsafe, and PR_SET_PDEATHSIG follows the thread: there is only this one.
                self._child = subprocess.Popen(
                    argv,
                    cwd=folder,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=self._before_exec,
                )
        except OSError as error:
            _tell("refused", reason=str(error))
        else:
            _tell("started", pid=self._child.pid)

    def _reap(self) -> None:
        if self._child is not None and self._child.poll() is not None:
            _tell("exited", code=self._child.returncode)
            self._child = None

    def _end_child(self) -> None:
        if self._child is None or self._child.poll() is not None:
            return
        if self._grace_s:
            self._child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(self._grace_s)
        if self._child.poll() is None:
            os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()


def _leave(signal_number: int, _frame: object) -> None:
    sys.exit(128 + signal_number)


def main() -> None:
    """Run the guard for the process that started it."""
    parent_pid = int(sys.argv[1])
    wake_fd, wake_write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
    os.set_blocking(wake_write_fd, False)
    signal.set_wakeup_fd(wake_write_fd, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which ends us in order
    signal.signal(signal.SIGTERM, _leave)
    Guard(parent_pid, wake_fd).run()


if __name__ == "__main__":
    main()
