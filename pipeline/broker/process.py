"""The parent's side of the guard: a child process that cannot outlive this one."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.broker import guard
from pipeline.broker.errors import BrokerError

_ANSWER_TIMEOUT_S = 30.0  # of the guard itself; only a machine without memory or processes reaches it


class GuardedProcess:
    """One child process at a time, owned by a guard that ends it when this process ends, however it ends.

    Args:
        lock: a file to hold locked as long as the guard lives.
        remove: a folder to remove when the guard ends.
        grace_s: seconds between SIGTERM and SIGKILL at the end; 0 kills at once.

    Raises:
        BrokerError: another process holds `lock`, or no process can be started.
    """

    def __init__(self, *, lock: Path | None = None, remove: Path | None = None, grace_s: float = 0.0) -> None:
        argv = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid())]
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}  # Java reads paths by it, Maven chooses its language by it
        self._guard = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, start_new_session=True, env=environment
        )
        self._pending = b""
        self._exit_code: int | None = None
        self.pid: int | None = None
        self._command("job", lock=lock and str(lock), remove=remove and str(remove), grace_s=grace_s)
        answer = self._answer("ready", "busy", "refused")
        if answer["event"] != "ready":
            self.close()
            if answer["event"] == "refused":
                raise BrokerError(f"cannot use the data folder {lock and lock.parent}: {answer['reason']}")
            raise BrokerError(f"{lock and lock.parent} is in use by another broker; stop it or choose another data folder")

    def start(self, argv: list[str], output: Path, folder: Path | None = None) -> int:
        """Start the child, its stdout and stderr to `output`, in this folder or that of `output`; returns its process id."""
        self._exit_code = None
        self._command("start", argv=argv, output=str(output), folder=str(folder or output.parent))
        answer = self._answer("started", "refused")
        if answer["event"] == "refused":
            raise BrokerError(f"cannot start {argv[0]}: {answer['reason']}")
        self.pid = int(answer["pid"])
        return self.pid

    def run(self, argv: list[str], output: Path, timeout_s: float, on_wait: Callable[[], None] | None = None) -> int:
        """Run a child to its end and return its exit code; `on_wait` is called twice a second. Raises BrokerError when late."""
        self.start(argv, output)
        deadline = time.monotonic() + timeout_s
        while (code := self.wait(0.5)) is None:
            if on_wait:
                on_wait()
            if time.monotonic() > deadline:
                self.stop(grace_s=0)
                raise BrokerError(
                    f"{Path(argv[0]).name} did not finish within {timeout_s:.0f} s; is the network slow? Try again"
                )
        return code

    def wait(self, timeout_s: float) -> int | None:
        """The child's exit code (negative: a signal's number), or None when it still runs after `timeout_s`."""
        if self.pid is None:
            return self._exit_code
        event = self._read_event(timeout_s)
        if event is not None and event["event"] == "exited":
            self.pid, self._exit_code = None, int(event["code"])
        return self._exit_code

    def stop(self, grace_s: float) -> int | None:
        """SIGTERM, and SIGKILL after `grace_s`; returns the exit code, None when there was no child."""
        if self.pid is None:
            return self._exit_code
        if grace_s:
            self._command("signal", signal=int(signal.SIGTERM))
            if (code := self.wait(grace_s)) is not None:
                return code
        self._command("signal", signal=int(signal.SIGKILL))
        return self.wait(_ANSWER_TIMEOUT_S)

    def close(self) -> None:
        """End the child and the guard, and remove the folder. May be called again."""
        if self._guard.stdin is not None and not self._guard.stdin.closed:
            self._guard.stdin.close()
            self._guard.wait()
            if self._guard.stdout is not None:
                self._guard.stdout.close()
        self.pid = None

    def _command(self, do: str, **values: object) -> None:
        if self._guard.stdin is None or self._guard.stdin.closed:
            raise BrokerError("the broker's process was closed; begin a new one")
        try:
            self._guard.stdin.write(json.dumps({"do": do, **values}).encode() + b"\n")
        except BrokenPipeError:
            raise BrokerError("the broker's guard process was ended from outside; begin a new broker") from None

    def _answer(self, *expected: str) -> dict[str, Any]:
        """The next event of the expected kinds. An `exited` of an earlier child may come first."""
        deadline = time.monotonic() + _ANSWER_TIMEOUT_S
        while (left_s := deadline - time.monotonic()) > 0:
            event = self._read_event(left_s)
            if event is not None and event["event"] in expected:
                return event
        raise BrokerError("the broker's guard process does not answer; is the machine out of memory or processes?")

    def _read_event(self, timeout_s: float) -> dict[str, Any] | None:
        """The guard's next line, or None after `timeout_s`. The guard's own end counts as the child's: it dies with it."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            if self._guard.stdout is None or self._guard.stdout.closed:
                return {"event": "exited", "code": -signal.SIGKILL}
            readable, _, _ = select.select([self._guard.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                return None
            data = self._guard.stdout.read(65_536)
            if not data:
                return {"event": "exited", "code": -signal.SIGKILL}
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        event: dict[str, Any] = json.loads(line)
        return event
