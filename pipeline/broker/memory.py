"""The in-memory broker: librdkafka's mock cluster in a child process, where Java or Maven cannot be had.

It serves one worker and a paced demo. It forgets what exceeds 5 MiB or 100,000 batches of a partition, keeps nothing, has no
request to create topics (give them at the start; others come with four partitions when first asked for), and cannot
do rebalances, transactions or compaction.
"""

import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.broker import mock_server
from pipeline.broker.errors import BrokerError
from pipeline.broker.jars import Progress, no_progress
from pipeline.broker.process import GuardedProcess
from pipeline.broker.readiness import answers

ANNOUNCEMENT = "in-memory broker, for trying out: one worker, nothing is kept, at most 5 MiB a partition"
_START_TIMEOUT_S = 60.0


class InMemoryBroker:
    """A broker that keeps its records in memory and ends with this process, also when this process is killed.

    Args:
        topics: partitions by topic name, created at the start.
        on_progress: is told that this is the in-memory broker.

    Raises:
        BrokerError: from `start` (and so from `with`), with one line.
    """

    def __init__(self, *, topics: Mapping[str, int] | None = None, on_progress: Progress | None = None) -> None:
        self._topics = dict(topics or {})
        self._on_progress = on_progress or no_progress
        self._process: GuardedProcess | None = None
        self._bootstrap = ""

    @property
    def bootstrap(self) -> str:
        """The bootstrap servers, `host:port`."""
        return self._bootstrap

    @property
    def pid(self) -> int | None:
        """The process id of the mock cluster; None when it does not run."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the broker and return once it answers a metadata request."""
        if self._process is not None:
            raise BrokerError("the in-memory broker was started before; stop it first")
        self._on_progress(ANNOUNCEMENT)
        folder = Path(tempfile.mkdtemp(prefix="callstream-memory-"))
        self._process = GuardedProcess(remove=folder)
        try:
            self._launch(self._process, folder)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the broker; its records go. May be called again."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def kill(self) -> None:
        """End the broker with SIGKILL. Its records go; it cannot be restarted."""
        if self._process is not None:
            self._process.stop(grace_s=0)

    def wait(self, timeout_s: float) -> int | None:
        """The exit code once the broker has ended (negative: a signal's number), None when it runs after `timeout_s`."""
        if self._process is None:
            raise BrokerError("the in-memory broker is not started; call start or use it in a with statement")
        return self._process.wait(timeout_s)

    def __enter__(self) -> Self:
        """Start the broker."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the broker."""
        self.stop()

    def _launch(self, process: GuardedProcess, folder: Path) -> None:
        ready, output = folder / "ready", folder / "output"
        declarations = [f"{name}:{partitions}" for name, partitions in self._topics.items()]
        process.start([sys.executable, "-P", mock_server.__file__, str(ready), *declarations], output)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not ready.exists():
            if process.wait(0.02) is not None or time.monotonic() > deadline:
                raise BrokerError(f"the in-memory broker did not start: {' '.join(output.read_text().split())[-300:]}")
        self._bootstrap = ready.read_text(encoding="ascii")
        if not answers(self._bootstrap, lambda: process.wait(0) is None and time.monotonic() < deadline):
            raise BrokerError(f"the in-memory broker on {self._bootstrap} does not answer; try again")
