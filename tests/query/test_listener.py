"""More connections than there are file descriptors for."""

import contextlib
import os
import resource
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from pipeline.query.listener import Listener, max_connections
from pipeline.settings import Settings
from tests.query.test_tls import Pair, make, trusting

PATIENCE_S = 60.0
FILES = 256
HALF_OPEN = 300
PROGRAM = """
import sys
from pipeline.query import server
from pipeline.settings import load
server.HANDSHAKE_TIMEOUT_S = 2.0
sys.exit(server.run(load()))
"""


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES // 2, FILES))


@contextlib.contextmanager
def running(settings: Settings, log: Path, pair: Pair | None) -> Iterator[str]:
    variables = {"BROKER": settings.broker, "DATA_DIR": settings.data_dir, "PORT": "0", "HEAD_TIMEOUT_S": "2"}
    if pair is not None:
        variables |= {"TLS_CERT_FILE": str(pair.cert), "TLS_KEY_FILE": str(pair.key)}
    environment = os.environ | {f"CALLSTREAM_{name}": value for name, value in variables.items()}
    with (
        log.open("wb") as stderr,
        subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stderr=stderr, preexec_fn=few_files) as program,
    ):
        try:
            yield address(log)
        finally:
            program.terminate()
            assert program.wait(PATIENCE_S) == 0


def address(log: Path) -> str:
    until_s = time.monotonic() + PATIENCE_S
    while True:
        for line in log.read_text().splitlines():
            if line.startswith("listening on "):
                return line.removeprefix("listening on ")
        assert time.monotonic() < until_s
        time.sleep(0.05)


def health(url: str, verify: ssl.SSLContext | bool) -> int:
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            status = httpx.get(f"{url}/health", verify=verify, timeout=5).status_code
        except httpx.TransportError:
            status = 0
        if status == 200 or time.monotonic() > until_s:
            return status
        time.sleep(0.1)


@pytest.mark.parametrize("has_tls", [False, True])
def test_half_open_connections_do_not_stop_the_service(settings: Settings, tmp_path: Path, has_tls: bool) -> None:
    if has_tls and shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    pair, log = make(tmp_path, "query") if has_tls else None, tmp_path / "log"
    with running(settings, log, pair) as url, contextlib.ExitStack() as stack:
        port = urlsplit(url).port or 0
        for _ in range(HALF_OPEN):
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
        assert health(url, trusting(pair) if pair else True) == 200  # while all of them are still open here
    said = log.read_text()
    assert "Traceback" not in said
    assert "Too many open files" not in said


def test_a_place_is_free_again_once_its_connection_is_closed() -> None:
    with Listener(socket.AF_INET, 1) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        for _ in range(3):
            with socket.create_connection(listener.getsockname()), socket.create_connection(listener.getsockname()) as second:
                accepted, _ = listener.accept()
                with pytest.raises(ConnectionAbortedError):
                    listener.accept()
                assert second.recv(1) == b""
                accepted.close()
                accepted.close()
                assert listener.open_connections == 0


def test_how_many_connections_there_is_room_for() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = {}
    try:
        for files in (100, 512):
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
            found[files] = max_connections()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert found == {100: 50, 512: 312}
