"""The service behind a real socket."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from pipeline.query.server import Access, _listen, run, serve, serving
from pipeline.query.view_file import FILE_NAME
from pipeline.settings import Settings
from tests.query.conftest import replaced

PROGRAM = "import sys; from pipeline.query.server import run; from pipeline.settings import load; sys.exit(run(load()))"
PATIENCE_S = 60
GENDER = "/api/technology/gender-identification-voiceprints"


async def test_a_free_port_is_taken_and_given_back(settings: Settings) -> None:
    async with serving(settings) as (url, _), httpx.AsyncClient(base_url=url) as client:
        assert urlsplit(url).hostname == "127.0.0.1"
        answer = await client.get("/health")
        assert (answer.status_code, answer.json()) == (200, {"status": "up"})
        assert "server" not in answer.headers
    with socket.create_server(("127.0.0.1", urlsplit(url).port or 0)):
        pass


def test_small_answers_are_not_held_back(settings: Settings) -> None:
    with _listen(settings, Access(settings)) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP  # what asyncio looks at before it sets TCP_NODELAY


async def test_serve_in_another_event_loop(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    ready, stop = asyncio.Event(), asyncio.Event()
    before = signal.getsignal(signal.SIGTERM)
    work = asyncio.create_task(serve(settings, ready, stop))
    await ready.wait()
    assert signal.getsignal(signal.SIGTERM) == before
    url = capfd.readouterr().err.removeprefix("listening on ").strip()
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/health")).status_code == 200
    stop.set()
    await work


async def test_serve_ends_when_it_is_cancelled(settings: Settings) -> None:
    ready = asyncio.Event()
    work = asyncio.create_task(serve(settings, ready))
    await ready.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    async with serving(settings):  # nothing holds the view any more
        pass


async def _answer_to(url: str, *pieces: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
    for piece in pieces:
        writer.write(piece)
    await writer.drain()
    async with asyncio.timeout(PATIENCE_S):
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    return head


async def test_a_chunked_body_is_refused_before_its_end(settings: Settings) -> None:
    head = f"POST {GENDER} HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n".encode()
    chunks = [b"2710\r\n" + b" " * 10_000 + b"\r\n"] * (settings.max_body_bytes // 10_000 + 1)
    async with serving(settings) as (url, _):
        answer = await _answer_to(url, head, *chunks)  # no last chunk: the answer cannot wait for it
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_an_announced_length_is_refused_before_the_body(settings: Settings) -> None:
    head = f"POST {GENDER} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {settings.max_body_bytes + 1}\r\n\r\n".encode()
    async with serving(settings) as (url, _):
        assert (await _answer_to(url, head)).startswith(b"HTTP/1.1 413 ")


async def test_a_forwarded_address_does_not_escape_the_rate_limit(settings: Settings) -> None:
    async with (
        serving(replaced(settings, rate_limit=1, rate_window_s=3600)) as (url, _),
        httpx.AsyncClient(base_url=url) as client,
    ):
        answers = [await client.get("/nothing", headers={"x-forwarded-for": f"192.0.2.{n}"}) for n in range(2)]
    assert [each.status_code for each in answers] == [404, 429]


def test_a_port_in_use_is_one_clear_line(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(replaced(settings, port=port)) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith(f"callstream query: cannot listen on 127.0.0.1:{port} (")


def test_a_data_folder_that_cannot_be_one_is_one_clear_line(
    settings: Settings, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(replaced(settings, data_dir=str(tmp_path / "file"))) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert str(tmp_path / "file") in line


def test_a_view_that_cannot_be_opened_is_one_line_with_its_path(settings: Settings, capfd: pytest.CaptureFixture[str]) -> None:
    file = Path(settings.data_dir) / FILE_NAME
    file.mkdir(parents=True)
    assert run(settings) == 1
    [line] = capfd.readouterr().err.splitlines()
    assert line == f"callstream query: {file}: unable to open database file; check CALLSTREAM_DATA_DIR and its disk"


@pytest.fixture
def program(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    variables = {"CALLSTREAM_BROKER": settings.broker, "CALLSTREAM_DATA_DIR": settings.data_dir, "CALLSTREAM_PORT": "0"}
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True
    )
    with started:
        yield started
        started.kill()


def test_a_hangup_with_nothing_to_read_anew_ends_nothing(program: subprocess.Popen[str]) -> None:
    assert program.stderr is not None
    lines = iter(program.stderr.readline, "")
    url = next(line for line in lines if line.startswith("listening on ")).removeprefix("listening on ").strip()
    program.send_signal(signal.SIGHUP)
    assert httpx.get(f"{url}/health").status_code == 200
    program.send_signal(signal.SIGTERM)
    assert program.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_program_cleanly(program: subprocess.Popen[str], number: signal.Signals) -> None:
    assert program.stderr is not None
    lines = iter(program.stderr.readline, "")
    url = next(line for line in lines if line.startswith("listening on ")).removeprefix("listening on ").strip()
    assert httpx.get(f"{url}/health").status_code == 200
    program.send_signal(number)
    assert program.wait(PATIENCE_S) == 0
    assert "Traceback" not in program.stderr.read()
