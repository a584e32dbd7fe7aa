"""A real Apache Kafka of one node as a child process: KRaft, controller and broker combined, on the loopback address."""

import base64
import shutil
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.broker import config
from pipeline.broker.config import HOST, Membership, Node, render, server_properties
from pipeline.broker.errors import BrokerError
from pipeline.broker.jars import Progress, archive_path, ensure_jars, keep_archive, no_progress
from pipeline.broker.java import find_java
from pipeline.broker.ports import free_port, is_free
from pipeline.broker.process import GuardedProcess
from pipeline.broker.readiness import answers

_HERE = Path(__file__).parent
_START_TIMEOUT_S = 90.0  # 2 s alone on two cores; a busy machine gets its time
_STOP_TIMEOUT_S = 20.0  # 0.3 s; 4 s when it writes the class-data archive
_PORT_TRIES = 5
_NODE_ID = 1


class EmbeddedBroker:
    """A Kafka broker that ends with this process, also when this process is killed.

    Args:
        cache_dir: where Kafka's jars are kept; they are fetched there on first use.
        port: the broker's port on the loopback address; 0 takes a free one.
        data_dir: a folder that keeps the data; without it they go with the broker.
        on_progress: is told, line by line, what takes time.
        properties: server properties that override ours.
        membership: this node's place in a cluster; without it the node is alone. It says the port too.

    Raises:
        BrokerError: from `start` (and so from `with`), with one line.
    """

    def __init__(
        self,
        cache_dir: str | Path,
        *,
        port: int = 0,
        data_dir: str | Path | None = None,
        on_progress: Progress | None = None,
        properties: Mapping[str, str] | None = None,
        membership: Membership | None = None,
    ) -> None:
        self._cache_dir = Path(cache_dir).absolute()
        self._membership = membership
        self._port = port if membership is None else membership.node.port
        self._fixed_port = self._port != 0
        self._named_dir = None if data_dir is None else Path(data_dir).absolute()
        self._on_progress = on_progress or no_progress
        self._properties = dict(properties or {})
        self._process: GuardedProcess | None = None
        self._data_dir = Path()
        self._command: list[str] = []
        self._archive = Path()
        self._new_archive: tuple[Path, Path] | None = None
        self._log_start_bytes = 0

    @property
    def bootstrap(self) -> str:
        """The bootstrap servers, `host:port`."""
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The process id of the Java runtime; None when it does not run."""
        return None if self._process is None else self._process.pid

    @property
    def data_dir(self) -> Path:
        """The folder with the data, `kafka.log` and `kafka.out`."""
        return self._data_dir

    def start(self) -> None:
        """Start the broker and return once it answers a metadata request."""
        if self._process is not None:
            raise BrokerError(f"the broker on {self.bootstrap} was started before; use restart")
        java = find_java()  # before a folder is made
        if self._fixed_port and not is_free(self._port):
            raise BrokerError(f"port {self._port} on {HOST} is in use; choose another one or end what listens there")
        jars = ensure_jars(self._cache_dir, self._on_progress)
        self._open_data_dir()
        self._command = [java.path, "-cp", ":".join(sorted(str(path) for path in jars.glob("*.jar")))]
        self._archive = archive_path(jars, java.banner)
        try:
            self._launch()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the broker in order; a temporary data folder is removed. May be called again."""
        if self._process is not None:
            try:
                self._process.stop(_STOP_TIMEOUT_S)
                self._save_archive()
            finally:
                self._process.close()
                self._process = None

    def kill(self) -> None:
        """End the broker with SIGKILL; `restart` brings it back."""
        self._running().stop(grace_s=0)

    def restart(self) -> None:
        """Start again on the same port with the same data, after stopping what still runs."""
        self._running().stop(_STOP_TIMEOUT_S)
        self._save_archive()
        self._fixed_port = True
        self._launch()

    def wait(self, timeout_s: float) -> int | None:
        """The exit code once the broker has ended (negative: a signal's number), None when it runs after `timeout_s`."""
        return self._running().wait(timeout_s)

    def __enter__(self) -> Self:
        """Start the broker."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Stop the broker."""
        self.stop()

    def _running(self) -> GuardedProcess:
        if self._process is None:
            raise BrokerError("the broker is not started; call start or use it in a with statement")
        return self._process

    def _open_data_dir(self) -> None:
        if self._named_dir is None:
            self._data_dir = Path(tempfile.mkdtemp(prefix="callstream-kafka-"))
            self._process = GuardedProcess(remove=self._data_dir)
        else:
            self._data_dir = self._named_dir
            try:
                self._data_dir.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BrokerError(f"cannot use the data folder {self._data_dir}: {error.strerror}") from None
            self._process = GuardedProcess(lock=self._data_dir / "lock", grace_s=_STOP_TIMEOUT_S)

    def _launch(self) -> None:
        for tries_left in reversed(range(_PORT_TRIES)):
            self._write_configuration()
            self._format_storage()
            self._log_start_bytes = _size(self._log)
            self._on_progress("starting Apache Kafka")
            main = ["kafka.Kafka", config.CONFIG_FILE]
            self._running().start([*self._java(), *self._training_flags(), *main], self._output)
            if self._becomes_ready():
                return
            late = self._running().wait(0) is None
            self._running().stop(grace_s=0)
            self._new_archive = None  # of a failed start it would be poor
            port_was_lost = any("Address already in use" in line for line in self._said())
            if tries_left == 0 or not port_was_lost:
                what = f"did not answer within {_START_TIMEOUT_S:.0f} s" if late else "did not start"
                raise BrokerError(f"Apache Kafka {what}: {self._last_words()}")
            time.sleep(0.2)

    def _becomes_ready(self) -> bool:
        deadline = time.monotonic() + _START_TIMEOUT_S
        process = self._running()

        def is_coming() -> bool:
            return process.wait(0) is None and time.monotonic() < deadline

        return answers(self.bootstrap, is_coming, self._cluster_id())

    def _cluster_id(self) -> str:
        text = self._identity.read_text(encoding="ascii")
        return next(line.partition("=")[2] for line in text.splitlines() if line.startswith("cluster.id="))

    def _write_configuration(self) -> None:
        if not self._fixed_port:
            self._port = free_port()
        alone = Node(_NODE_ID, self._port, free_port(self._port))
        node, quorum = (alone, [alone]) if self._membership is None else (self._membership.node, self._membership.quorum)
        (self._data_dir / config.TMP_DIR).mkdir(exist_ok=True)
        shutil.copyfile(_HERE / config.LOG_CONFIG_FILE, self._data_dir / config.LOG_CONFIG_FILE)
        text = render(server_properties(node, quorum, self._properties))
        (self._data_dir / config.CONFIG_FILE).write_text(text, encoding="ascii")

    def _format_storage(self) -> None:
        """Give a new data folder its cluster id, as kafka-storage.sh does."""
        if self._identity.exists():
            return
        cluster_id = new_cluster_id() if self._membership is None else self._membership.cluster_id
        main = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "--config", config.CONFIG_FILE]
        if self._running().run([*self._java(), *main], self._output, _START_TIMEOUT_S) != 0:
            raise BrokerError(f"Apache Kafka cannot format {self._data_dir}: {self._last_words()}")

    def _java(self) -> list[str]:
        shared = [f"-XX:SharedArchiveFile={self._archive}"] if self._archive.exists() else []
        return [self._command[0], *config.JAVA_FLAGS, *shared, *self._command[1:]]

    def _training_flags(self) -> list[str]:
        """The first run writes down the loaded classes at its end (JEP 350), which takes a second off every later start."""
        if self._archive.exists():
            self._new_archive = None
            return []
        made = self._data_dir / config.TMP_DIR / "classes.jsa"
        self._new_archive = (made, self._archive)
        return [f"-XX:ArchiveClassesAtExit={made.relative_to(self._data_dir)}"]

    def _save_archive(self) -> None:
        if self._new_archive is not None and self._new_archive[0].exists():
            keep_archive(*self._new_archive)
        self._new_archive = None

    def _said(self) -> list[str]:
        """What the broker wrote since its start."""
        return _lines(self._output, 0) + _lines(self._log, self._log_start_bytes)

    def _last_words(self) -> str:
        """The end of what it wrote, on one line."""
        lines = self._said()
        faults = [line for line in lines if "ERROR" in line or "FATAL" in line or "Exception" in line]
        return " | ".join((faults or lines)[-3:])[:600] or f"no word from it; see {self._log}"

    @property
    def _identity(self) -> Path:
        return self._data_dir / config.LOG_DIR / "meta.properties"

    @property
    def _log(self) -> Path:
        return self._data_dir / config.LOG_FILE

    @property
    def _output(self) -> Path:
        return self._data_dir / config.OUTPUT_FILE


def new_cluster_id() -> str:
    """A cluster id in Kafka's form: 16 random bytes in URL-safe Base64."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).decode("ascii").rstrip("=")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _lines(path: Path, start_bytes: int) -> list[str]:
    if not path.exists():
        return []
    text = path.read_bytes()[start_bytes:].decode("utf-8", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("\tat ")]
