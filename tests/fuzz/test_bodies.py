"""Thousands of damaged HTTP requests to the real service on real Kafka: each is refused in our words or starts one task.

CALLSTREAM_FUZZ scales how many (20,000 there are 5,000 here). A request that fails is named by its number: `request(number)`
of tests/fuzz/forms.py makes it again, `on_the_wire(number)` as bytes.
"""

import asyncio
import collections
import hashlib
import json
import logging
import os
import re
import time
import urllib.parse
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.blobs import LocalBlobs
from pipeline.query.app import Service, create_app
from pipeline.query.app import running as running_service
from pipeline.query.server import serving
from pipeline.settings import Settings
from pipeline.start_tasks import with_lists
from schemas.errors import DetailType, RequestError
from schemas.requests import BlobRef, StartTask
from schemas.tasks import Technology
from tests.fuzz.forms import GENDER, LARGE_FILE_BYTES, Sent, on_the_wire, request
from tests.query.conftest import client_of, replaced
from tests.system import System, open_system

pytestmark = pytest.mark.broker

COUNT = max(100, int(os.environ.get("CALLSTREAM_FUZZ", "20000")) // 4)
WIRE_COUNT = COUNT // 10
MOST_CPU_S = 1.0
AT_ONCE = 25
UNFINISHED_S = 0.3
WATCHDOG_S = 60.0  # of the wall clock, where others may be at work
MOST_GROWTH_BYTES = 100 << 20
REFUSALS = {400, 403, 404, 405, 413, 422}
_DETAIL_KEYS = {"location", "message", "type", "context"}


class Answered:
    """What came back."""

    def __init__(self) -> None:
        self.status = 0
        self.body = bytearray()

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")


def scope_of(sent: Sent) -> dict[str, Any]:
    """As uvicorn words it."""
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": sent.method, "scheme": "http",
        "path": urllib.parse.unquote(sent.path.decode("ascii")), "raw_path": sent.path, "query_string": sent.query,
        "root_path": "", "headers": sent.headers, "client": ("127.0.0.1", 1), "server": ("query", 80), "state": {},
    }  # fmt: skip


def messages_of(sent: Sent) -> Iterator[dict[str, Any]]:
    """The body in pieces; then the client goes away, and early when it is cut."""
    size = max(1, -(-len(sent.body) // sent.pieces))
    pieces = [sent.body[at : at + size] for at in range(0, len(sent.body), size)] or [b""]
    if sent.is_cut:
        pieces = [sent.body[: len(sent.body) // 2]]
    for number, piece in enumerate(pieces):
        yield {"type": "http.request", "body": piece, "more_body": sent.is_cut or number < len(pieces) - 1}
    while True:
        yield {"type": "http.disconnect"}


async def answer(app: Any, sent: Sent) -> Answered:
    messages = messages_of(sent)
    answered = Answered()

    async def receive() -> dict[str, Any]:
        return next(messages)

    async with asyncio.timeout(WATCHDOG_S):
        await app(scope_of(sent), receive, answered.send)
    return answered


def fault_of(status: int, body: bytes) -> str | None:
    """What is wrong with an answer, if anything is."""
    if status in (200, 202, 204):
        return None
    if status not in REFUSALS:
        return f"status {status}: {body[:200]!r}"
    raw = json.loads(body)
    told = msgspec.json.decode(body, type=RequestError)
    if raw.keys() != {"type", "message", "detail"} or any(detail.keys() - _DETAIL_KEYS for detail in raw["detail"]):
        return f"status {status} with other keys: {body[:200]!r}"
    unknown = [detail.type for detail in told.detail if detail.type not in list(DetailType)]
    return f"details of unknown types {unknown}" if unknown else None


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Fuzzer:
    """One request after another at one application."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.outcomes: collections.Counter[int] = collections.Counter()
        self.faults: list[str] = []
        self.most_cpu_s = 0.0

    async def run(self, cases: range) -> None:
        for case in cases:
            await self._one(case, request(case))

    async def _one(self, case: int, sent: Sent) -> None:
        began_s = time.process_time()
        try:
            answered = await answer(self._app, sent)
            fault = fault_of(answered.status, bytes(answered.body)) if sent.method != "HEAD" else None
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            self.faults.append(f"request({case}): {error!r}")
            return
        cpu_s = time.process_time() - began_s
        self.most_cpu_s = max(self.most_cpu_s, cpu_s)
        self.outcomes[int(answered.status)] += 1
        if fault is not None:
            self.faults.append(f"request({case}): {fault}")
        if cpu_s > MOST_CPU_S:
            self.faults.append(f"request({case}): {cpu_s:.2f} s of computing time")


@pytest.fixture
def system(broker_bootstrap: str, tmp_path: Path) -> Iterator[System]:
    prefix = f"z{uuid.uuid4().hex[:10]}."
    settings = Settings(broker=broker_bootstrap, topic_prefix=prefix, partitions=1, port=0, concurrency=0)
    settings = replaced(settings, data_dir=str(tmp_path / "data"), max_body_bytes=100_000, max_media_bytes=LARGE_FILE_BYTES + 9)
    with open_system(settings, tmp_path / "logs") as opened:
        yield opened


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is written but into the data folder, and nothing is left in the scratch folder."""
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    root = set(Path("/").iterdir())
    yield
    assert {one.name for one in tmp_path.iterdir()} == {"data", "logs", "working"}
    assert not list((tmp_path / "working").iterdir())
    assert not [one for one in tmp_path.rglob("upload-*") if one.is_file()]
    assert set(Path("/").iterdir()) == root


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def check_started(system: System, accepted: int) -> None:
    """Whoever was accepted started one task, whoever was refused none."""
    values = [message.value() or b"" for message in system.read("requests")]
    assert len(values) == accepted
    for value in values:
        msgspec.json.decode(value, type=StartTask)


@pytest.mark.usefixtures("folders")
async def test_damaged_requests_are_refused_or_start_one_task(system: System, caplog: pytest.LogCaptureFixture) -> None:
    async with running_service(system.settings) as service:
        await until_ready(service)
        fuzzer = Fuzzer(create_app(service))
        warm = COUNT // 5
        await fuzzer.run(range(warm))
        before_bytes, began_s = rss_bytes(), time.monotonic()
        await fuzzer.run(range(warm, COUNT))
        growth_bytes = rss_bytes() - before_bytes
        took_s = time.monotonic() - began_s
        scratch, problem = list(service.keeper.scratch.iterdir()), service.work is None or service.work.done()
        await check_quiet(service)
    spent = f"at most {fuzzer.most_cpu_s:.3f} s each; {growth_bytes / 1e6:.1f} MB more"
    print(f"{COUNT - warm} requests in {took_s:.1f} s; {spent}")  # noqa: T201
    print(sorted(fuzzer.outcomes.items()))  # noqa: T201
    assert not fuzzer.faults
    assert not logged(caplog)
    assert not problem
    assert scratch == []
    assert growth_bytes < MOST_GROWTH_BYTES
    check_started(system, fuzzer.outcomes[202])
    assert fuzzer.outcomes[202] > COUNT / 50  # or nothing but the doors was reached
    assert all(fuzzer.outcomes[status] for status in (200, *REFUSALS))


async def until_ready(service: Service) -> None:
    for _ in range(int(WATCHDOG_S / 0.05)):
        if (await service.readiness()).ready:
            return
        await asyncio.sleep(0.05)
    pytest.fail("not ready in time")


async def check_quiet(service: Service) -> None:
    """The service is as it was: nothing is reserved in its store, nobody listens."""
    assert service.keeper._reserved_bytes == 0
    assert service.hub.listeners == 0


async def _exchanged(port: int, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent)
        await writer.drain()
        async with asyncio.timeout(WATCHDOG_S):
            reading = asyncio.create_task(reader.read())
            if not (await asyncio.wait([reading], timeout=UNFINISHED_S))[0]:
                writer.write_eof()  # the service waits for the rest of it, and has the patience
            return await reading
    except ConnectionError:
        return b""  # refused before all was sent, and broken off
    finally:
        writer.close()


def _split(raw: bytes) -> tuple[int, bytes]:
    """Status and body of the first answer on the wire: bytes behind a damaged head may be another request."""
    final = re.sub(rb"^HTTP/1.1 100 .*?\r\n\r\n", b"", raw, flags=re.DOTALL)
    if not final:
        return 0, b""  # it was asked to go on, did not, and was dropped
    head, _, body = final.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length: ([0-9]+)", head)
    return int(head.split(b" ", 2)[1]), body if length is None else body[: int(length[1])]


async def _wired(port: int) -> AsyncIterator[tuple[int, bytes]]:
    for first in range(0, WIRE_COUNT, AT_ONCE):
        cases = range(first, min(first + AT_ONCE, WIRE_COUNT))
        for case, raw in zip(cases, await asyncio.gather(*(_exchanged(port, on_the_wire(one)) for one in cases)), strict=True):
            yield case, raw


@pytest.mark.usefixtures("folders")
async def test_damaged_bytes_on_the_wire_are_answered_or_dropped(system: System, caplog: pytest.LogCaptureFixture) -> None:
    outcomes: collections.Counter[int] = collections.Counter()
    faults = []
    async with serving(system.settings) as (url, work):
        async for case, raw in _wired(urllib.parse.urlsplit(url).port or 0):
            status, body = _split(raw)
            outcomes[status] += 1
            if status and body and (fault := fault_of(status, body)):
                faults.append(f"on_the_wire({case}): {fault}")
        alive = await _exchanged(
            urllib.parse.urlsplit(url).port or 0, b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
        )
        assert not work.done()
    print(sorted(outcomes.items()))  # noqa: T201
    assert alive.startswith(b"HTTP/1.1 200")
    assert not faults
    assert not logged(caplog)
    assert outcomes[400] > WIRE_COUNT / 20
    assert sum(count for status, count in outcomes.items() if status) > WIRE_COUNT / 2


def test_the_damage_can_be_repeated() -> None:
    assert [request(case) for case in range(200)] == [request(case) for case in range(200)]
    assert len({on_the_wire(case) for case in range(500)}) > 490


BESIDE = b'{"voiceprints": 3, "voiceprints_a": {}, "technology": 5, "owner": [], "lists": 1, "voiceprints": ["AAAA"]}'


async def test_what_stands_beside_the_lists_is_not_looked_at(system: System) -> None:
    async with running_service(system.settings) as service, client_of(service) as client:
        assert (await client.post(GENDER, content=BESIDE)).status_code == 202
    [message] = system.read("requests")
    request = msgspec.json.decode(message.value() or b"", type=StartTask)
    assert request == StartTask(Technology.GENDER_IDENTIFICATION, voiceprints=["AAAA"])


def test_what_stands_beside_the_lists_of_a_blob_is_not_looked_at(tmp_path: Path) -> None:
    store, name = LocalBlobs(tmp_path), "requests/service/task"
    store.put(name, BESIDE)
    lists = BlobRef(name, hashlib.sha256(BESIDE).hexdigest(), len(BESIDE))
    request = with_lists(Technology.GENDER_IDENTIFICATION, StartTask(lists=lists), store)
    assert request.voiceprints == ["AAAA"]
