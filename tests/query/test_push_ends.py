"""Open waits and event streams when the program is told to end."""

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from pipeline.query.app import Service, create_app
from pipeline.query.app import running as running_service
from pipeline.query.server import Access, _listen, _server
from pipeline.query.view import View
from pipeline.settings import Settings
from tests.query.arrivals import IDS, eventually, ingest, path_of, running
from tests.query.conftest import DAY_S

PROGRAM = "import sys; from pipeline.query.server import run; from pipeline.settings import load; sys.exit(run(load()))"
PATIENCE_S = 60.0
AT_ONCE_S = 5.0  # on a busy machine; the waits last 60 s, and the grace period 30 s
STREAMS = WAITS = 10
BODY = {"task": {"task_id": IDS[0], "state": "running"}}


@pytest.fixture
def url(settings: Settings) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The program, which knows one task that goes on, and its address."""
    view = View(Path(settings.data_dir), DAY_S)
    view.apply([running(IDS[0], 1).change], {})
    view.close()
    variables = {"CALLSTREAM_BROKER": settings.broker, "CALLSTREAM_DATA_DIR": settings.data_dir, "CALLSTREAM_PORT": "0"}
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True
    )
    with started:
        assert started.stderr is not None
        lines = iter(started.stderr.readline, "")
        yield started, next(line for line in lines if line.startswith("listening on ")).split()[-1]
        started.kill()


def listeners(url: str) -> int:
    text = httpx.get(f"{url}/metrics").text
    return int(float(next(line for line in text.splitlines() if line.startswith("callstream_http_listeners ")).split()[1]))


def streamed(url: str) -> bytes:
    """All of a stream until the service ends it; raises when the connection is just broken."""
    with httpx.stream("GET", f"{url}/api/events", params={"call_id": "call"}, timeout=PATIENCE_S) as answer:
        return answer.read()


def waited(url: str) -> object:
    return httpx.get(f"{url}{path_of(IDS[0])}", params={"wait": 60}, timeout=PATIENCE_S).json()


def test_open_waits_and_streams_do_not_hold_up_the_end(url: tuple[subprocess.Popen[str], str]) -> None:
    program, address = url
    with ThreadPoolExecutor(STREAMS + WAITS) as threads:
        streams = [threads.submit(streamed, address) for _ in range(STREAMS)]
        waits = [threads.submit(waited, address) for _ in range(WAITS)]
        while listeners(address) < STREAMS + WAITS:
            time.sleep(0.05)
        began_s = time.monotonic()
        program.send_signal(signal.SIGTERM)
        assert program.wait(PATIENCE_S) == 0
        assert time.monotonic() - began_s < AT_ONCE_S
        assert [wait.result() for wait in waits] == [BODY] * WAITS
        for stream in streams:
            assert stream.result().startswith(f"id: {IDS[0]}/1\nevent: running\ndata: {{".encode())
    assert program.stderr is not None
    assert "Traceback" not in program.stderr.read()


@asynccontextmanager
async def stuck_reader(settings: Settings) -> AsyncIterator[tuple[Service, Callable[[], int]]]:
    """The service, and how many connections it has: one, of a stream whose reader has stopped reading."""
    access = Access(settings)
    with _listen(settings, access) as listener, socket.socket() as reader:
        async with running_service(settings) as service:
            server = _server(create_app(service), settings, access.tls)
            work = asyncio.create_task(server.serve(sockets=[listener]))
            await server.listening.wait()
            reader.connect(listener.getsockname())
            reader.sendall(b"GET /api/events?call_id=call HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await eventually(lambda: service.hub.listeners == 1)
            yield service, lambda: len(server.server_state.connections)
            service.hub.close()
            server.should_exit = True
            await work


def ingest_much(service: Service, first: int) -> None:
    ingest(service, *[running(IDS[0], first + n, note="x" * 1_000_000) for n in range(6)])


async def test_a_reader_that_takes_nothing_does_not_hold_up_the_end(settings: Settings) -> None:
    async with stuck_reader(settings) as (service, _):
        for batch in range(2):  # more than the buffers of the sockets take
            ingest_much(service, 6 * batch)
            await asyncio.sleep(0.1)
        assert service.hub.listeners == 1
        began_s = time.monotonic()
    assert time.monotonic() - began_s < AT_ONCE_S


async def test_a_reader_too_far_behind_is_disconnected(settings: Settings) -> None:
    async with stuck_reader(settings) as (service, connections):
        async with asyncio.timeout(PATIENCE_S):
            for batch in itertools.count():
                ingest_much(service, 6 * batch)
                await asyncio.sleep(0.05)
                if connections() == 0:
                    break
        assert service.hub.listeners == 0
