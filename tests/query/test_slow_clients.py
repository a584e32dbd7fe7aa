"""Clients that are slow, greedy or confused, behind real sockets."""

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from pipeline.query import listener, protocol, server
from pipeline.query.protocol import _Pace
from pipeline.query.server import serving
from pipeline.settings import Settings
from tests.query.conftest import replaced

GENDER = "/api/technology/gender-identification-voiceprints"
PATIENCE_S = 60
HEAD = f"POST {GENDER} HTTP/1.1\r\nhost: localhost\r\n".encode()
GET = b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n"


class Connection(NamedTuple):
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def rest(self) -> bytes:
        """What comes until the connection ends."""
        found = b""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(65_536):
                    found += piece
        return found

    async def dribble(self, piece: bytes, every_s: float) -> float:
        """Sends a piece again and again until the connection ends; after how long that was."""
        began_s, rest = time.monotonic(), asyncio.create_task(self.rest())
        while not rest.done():
            with contextlib.suppress(ConnectionError):
                await self.send(piece)
            await asyncio.wait({rest}, timeout=every_s)
        return time.monotonic() - began_s


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(url).port)
    try:
        yield Connection(reader, writer)
    finally:
        writer.close()


@pytest.fixture
async def url(settings: Settings) -> AsyncIterator[str]:
    async with serving(replaced(settings, head_timeout_s=0.6, body_timeout_s=0.9)) as (at, _):
        yield at


def error_of(answer: bytes) -> tuple[bytes, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/json" in head
    assert b"x-request-id" in head
    return head.split(b"\r\n")[0], json.loads(body)["type"]


BAD_REQUEST = (b"HTTP/1.1 400 Bad Request", "request.invalid")


async def test_a_connection_that_says_nothing_is_closed(url: str) -> None:
    async with connected(url) as connection:
        assert await connection.rest() == b""


@pytest.mark.parametrize("begin", [b"", b"GET /health HTTP/1.1\r\n"])
async def test_a_head_that_dribbles_in_is_ended(url: str, begin: bytes) -> None:
    async with connected(url) as connection:
        await connection.send(begin)
        assert await connection.dribble(b"X", 0.05) < PATIENCE_S / 4


async def test_a_head_that_stops_is_answered(url: str) -> None:
    async with connected(url) as connection:
        await connection.send(b"GET /health HTTP/1.1\r\nhost:")
        assert error_of(await connection.rest()) == BAD_REQUEST


async def test_a_later_head_that_stops_is_answered_too(url: str) -> None:
    async with connected(url) as connection:
        await connection.send(GET)
        assert (await connection.reader.readuntil(b'"up"}')).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(1.2)  # idle is not late
        await connection.send(GET[:10])
        assert error_of(await connection.rest()) == BAD_REQUEST


async def test_pipelined_requests_are_answered_and_the_last_half_is_not_waited_for(url: str) -> None:
    async with connected(url) as connection:
        await connection.send(GET * 3 + GET[:10])
        rest = await connection.rest()
    assert rest.count(b"HTTP/1.1 200") == 3
    assert rest.count(b"HTTP/1.1 400") == 1


async def test_a_body_that_stops_is_answered(url: str) -> None:
    async with connected(url) as connection:
        await connection.send(HEAD + b"content-length: 100\r\n\r\n{")
        assert error_of(await connection.rest()) == BAD_REQUEST


@pytest.mark.parametrize(
    "body", [b"content-length: 100\r\n\r\n{", b"transfer-encoding: chunked\r\n\r\nzz\r\n"], ids=["slow", "no chunk"]
)
async def test_whoever_sends_no_body_gets_the_ids_of_the_request_back(url: str, body: bytes) -> None:
    async with connected(url) as connection:
        await connection.send(HEAD + b"X-Correlation-Id: corr\r\nx-request-id: req\r\n" + body)
        answer = await connection.rest()
    assert error_of(answer) == BAD_REQUEST
    head = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert {b"x-correlation-id: corr", b"x-request-id: req"} <= set(head)
    assert [line for line in head if line.startswith(b"date: ")]


async def test_a_body_that_dribbles_in_is_ended(url: str, caplog: pytest.LogCaptureFixture) -> None:
    async with connected(url) as connection:
        await connection.send(HEAD + b"content-length: 100000\r\n\r\n")
        assert 0.9 < await connection.dribble(b" ", 0.05) < PATIENCE_S / 4
    assert not [
        each for each in caplog.records if each.levelno >= logging.ERROR and each.name.startswith(("pipeline", "uvicorn"))
    ]


async def test_a_body_that_comes_slowly_but_surely_is_taken(url: str) -> None:
    body = b'{"voiceprints": []}' + b" " * 4000
    async with connected(url) as connection:
        await connection.send(HEAD + f"content-length: {len(body)}\r\n\r\n".encode())
        for at in range(0, len(body), 400):
            await connection.send(body[at : at + 400])
            await asyncio.sleep(0.15)
        assert (await connection.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 422")


async def test_the_rest_of_a_refused_body_does_not_keep_the_connection(settings: Settings) -> None:
    async with serving(settings) as (url, _), connected(url) as connection:
        await connection.send(HEAD + f"content-length: {settings.max_body_bytes + 1}\r\n\r\n".encode())
        rest = asyncio.create_task(connection.rest())
        while not rest.done():
            with contextlib.suppress(ConnectionError):
                await connection.send(b" " * 2000)
            await asyncio.wait({rest}, timeout=0.2)
        assert rest.result().startswith(b"HTTP/1.1 413")


async def test_who_still_sends_gets_the_answer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "LINGER_SILENCE_S", 1.0)
    size = settings.max_body_bytes + 1
    async with serving(settings) as (url, _), connected(url) as connection:
        await connection.send(HEAD + f"content-length: {size}\r\n\r\n".encode())
        for _ in range(20):  # as a client that reads only behind its body
            await connection.send(b" " * (size // 20))
            await asyncio.sleep(0.2)
        rest = await connection.rest()
    assert error_of(rest)[0].startswith(b"HTTP/1.1 413")
    assert b"connection: close" in rest.lower()


async def test_answers_of_a_server_that_stops_say_so(settings: Settings) -> None:
    async with contextlib.AsyncExitStack() as stack:
        service = contextlib.AsyncExitStack()
        url, _ = await service.enter_async_context(serving(settings))
        connection = await stack.enter_async_context(connected(url))
        await connection.send(HEAD + b"content-length: 1\r\n\r\n")
        await asyncio.sleep(0.2)  # until the body is awaited
        ending = asyncio.create_task(service.aclose())
        await asyncio.sleep(0.2)
        await connection.send(b"{")
        assert b"connection: close" in (await connection.rest()).lower()
        await ending


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-long: " + b"1" * 100_000,
        b"GET /" + b"x" * 100_000,
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nx-long: " + b"1" * 40_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: localhost\r\n" + b"x: 1\r\n" * 150 + b"\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n" * 10,
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nnonsense\r\n",
    ],
    ids=lambda value: repr(value[:20]) + str(len(value)),
)
async def test_what_is_no_request_is_answered_in_our_envelope(url: str, request_bytes: bytes) -> None:
    async with connected(url) as connection:
        await connection.send(request_bytes)
        assert error_of(await connection.rest()) == BAD_REQUEST


async def test_a_client_that_does_not_read_its_answer_is_cut_off(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READ_TIMEOUT_S", 1.0)
    async with serving(settings) as (url, _):
        with socket.socket() as greedy:
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            greedy.connect(("127.0.0.1", urlsplit(url).port))
            greedy.setblocking(False)
            request = b"GET /schema HTTP/1.1\r\nhost: localhost\r\n\r\n"
            sent, ended = 0, False
            async with asyncio.timeout(PATIENCE_S):
                while not ended:
                    try:
                        sent += greedy.send(request)
                    except BlockingIOError:
                        await asyncio.sleep(0.05)
                    except ConnectionError:
                        ended = True
                    else:
                        await asyncio.sleep(0)
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/health")).status_code == 200


async def test_too_many_connections_get_503_in_our_envelope(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "MAX_CONNECTIONS", 2)
    async with serving(settings) as (url, _), contextlib.AsyncExitStack() as stack:
        first = [await stack.enter_async_context(connected(url)) for _ in range(2)]
        for connection in first:
            await connection.send(GET)
            await connection.reader.readuntil(b'"up"}')
        async with connected(url) as third:
            await third.send(GET)
            status, kind = error_of(await third.rest())
            assert (status, kind) == (b"HTTP/1.1 503 Service Unavailable", "internal")
        await first[0].send(GET)
        assert (await first[0].reader.readuntil(b'"up"}')).startswith(b"HTTP/1.1 200")


def test_the_pace_of_a_body() -> None:
    pace = _Pace(0.0)
    assert not pace.is_late(20.0, 20.0)
    assert pace.is_late(20.1, 20.0)
    for second in range(1, 30):
        pace.received(protocol.MIN_BODY_BYTES_PER_S, float(second))
    assert not pace.is_late(29.0, 20.0)
    assert pace.is_late(30.0, 20.0)  # too little on average
    pace.hold(100.0)  # nobody took anything meanwhile
    assert not pace.is_late(100.0, 20.0)
