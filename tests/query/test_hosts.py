"""Without keys what is meant for another host, or sent by a page of one, is refused. Targets may be whole URLs."""

import asyncio
import socket
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.query.hosts import OwnHosts
from pipeline.query.server import serving
from pipeline.settings import Settings
from pipeline.settings_checks import fault_of
from schemas.errors import RequestError
from tests.query.conftest import alone, client_of, replaced
from tests.query.keyrings import bearer, keys_toml

EXTRACTION = "/api/technology/speaker-identification-voiceprint-extraction"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "localhost:8080"},
        {"host": "LOCALHOST."},
        {"host": "calls.localhost"},
        {"host": "127.0.0.1"},
        {"host": "127.8.9.10:1"},
        {"host": "[::1]:8080"},
        {"host": "calls.example:443"},
        {"host": f"{socket.gethostname()}:8080"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},
        {"sec-fetch-site": "none"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "cors", "origin": "http://127.0.0.1:3000"},
        {"origin": "http://localhost:3000"},
        {"origin": "http://[::1]"},
        {"origin": "https://calls.example"},
    ],
)
async def test_this_machines_own(settings: Settings, headers: dict[str, str]) -> None:
    service = alone(replaced(settings, host_names="other.example, Calls.Example"))
    async with client_of(service) as client:
        assert (await client.get("/schema", headers=headers)).status_code == 200
    await service.close()


FOREIGN = [
    {"host": "evil.example"},
    {"host": "evil.example:8080"},
    {"host": "localhost.evil.example"},
    {"host": "evillocalhost"},
    {"host": "127.0.0.1.evil.example"},
    {"host": "192.0.2.1"},
    {"host": "[::1"},
    {"host": ""},
    {"origin": "https://evil.example"},
    {"origin": "http://localhost@evil.example"},
    {"origin": "http://192.0.2.1"},
    {"origin": "null"},
    {"origin": "\xff"},
    {"host": "localhost", "origin": "http://evil.example"},
    {"sec-fetch-mode": "no-cors", "sec-fetch-site": "cross-site"},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_those_of_others(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    answer = await client.post(EXTRACTION, headers=raw, content=b"")
    assert answer.status_code == 403
    [detail] = msgspec.json.decode(answer.content, type=RequestError).detail
    assert (detail.type, detail.location) == ("host.foreign", ["header", list(headers)[-1]])
    assert (await client.get("/metrics", headers=raw)).status_code == 403
    assert (await client.get("/health", headers=raw)).status_code == 200


@pytest.mark.parametrize("headers", FOREIGN)
async def test_where_there_are_keys_they_alone_count(settings: Settings, tmp_path: Path, headers: dict[str, str]) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(keys_toml("one"))
    service = alone(replaced(settings, api_keys_file=str(file)))
    raw = [(name.encode(), value.encode("latin-1")) for name, value in {**bearer("one"), **headers}.items()]
    async with client_of(service) as client:
        assert (await client.get("/schema", headers=raw)).status_code == 200
        assert (await client.get("/metrics", headers=raw[1:])).status_code == 401  # without one only for this machine's own
        assert (await client.get("/metrics", headers=raw)).status_code == 200
        assert (await client.get("/metrics")).status_code == 200
    await service.close()


NAMES = st.from_regex(r"([a-z0-9]{1,5}[.-]){1,4}[a-z]{2,6}", fullmatch=True).filter(
    lambda name: not name.endswith(".localhost")
)


@given(
    st.sampled_from(["", "localhost.", "127.0.0.1.", "localhost@", "user:localhost@"]), NAMES, st.sampled_from(["", ":80", "."])
)
def test_no_other_name_gets_in(before: str, name: str, behind: str) -> None:
    hosts = OwnHosts(Settings(host_names="calls.example.org"))
    for header, value in ((b"host", f"{before}{name}{behind}"), (b"origin", f"http://{before}{name}{behind}")):
        assert hosts.foreign({"headers": [(header, value.encode())]}) == header.decode()  # type: ignore[arg-type]


async def ask(port: int, target: str, host: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {target} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n".encode())
    answer = await asyncio.wait_for(reader.read(), 60)
    writer.close()
    return answer.partition(b"\r\n")[0]


async def test_a_target_that_is_a_whole_url(settings: Settings) -> None:
    async with serving(settings) as (url, _):
        port = urlsplit(url).port or 0
        assert await ask(port, f"http://localhost:{port}/health", "localhost") == b"HTTP/1.1 200 OK"
        assert await ask(port, "HTTP://localhost/schema?x=y%20z", "evil.example") == b"HTTP/1.1 200 OK"
        assert await ask(port, "http://evil.example/schema", "localhost") == b"HTTP/1.1 403 Forbidden"
        assert await ask(port, "http://localhost%2Fhealth", "localhost") == b"HTTP/1.1 403 Forbidden"
        assert await ask(port, "http://localhost", "localhost") == b"HTTP/1.1 404 Not Found"


@pytest.mark.parametrize("name", ["calls.example:84", "https://calls.example", "[::1]", "*.example", "a;b", "bücher.de", "a b"])
def test_what_is_no_name_is_told_at_the_start(name: str) -> None:
    assert (fault_of(Settings(host_names=f"good.example, {name}")) or "").startswith(f"HOST_NAMES: {name!r} is no name")
    assert fault_of(Settings(host_names=" good.example, xn--bcher-kva.example., a_b,")) is None
