"""API keys: how they are configured, who gets in, and who sees what."""

import logging
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from litestar import Litestar

from pipeline.query import tasks
from pipeline.query.app import Service, create_app
from pipeline.query.edge import Edge
from pipeline.query.owners import Caller, is_visible
from pipeline.query.server import ExposedError, run, serving
from pipeline.query.view import TaskRow, now_ms
from pipeline.settings import Settings
from schemas.errors import RequestError
from schemas.requests import StartTask
from schemas.tasks import TaskState, Technology
from tests.query.conftest import alone, replaced
from tests.query.keyrings import KEYS, bearer, digest, keys_toml

API = "/api/technology"
WORD = Technology.LANGUAGE_IDENTIFICATION
CLI = [sys.executable, "-m", "pipeline.cli"]
PROGRAM = "import sys; from pipeline.query.server import run; from pipeline.settings import load; sys.exit(run(load()))"
ELSEWHERE = ("192.0.2.7", 1)
PATIENCE_S = 60


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.toml"
    file.write_text(keys_toml("one", "two", "nocalls", nocalls="calls = false"))
    return file


@pytest.fixture
def settings(settings: Settings, keys_file: Path) -> Settings:
    return replaced(settings, api_keys_file=str(keys_file))


def client_at(service: Service, address: tuple[str, int] = ELSEWHERE) -> httpx.AsyncClient:
    app: Any = create_app(service)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app, client=address), base_url="http://localhost")


async def test_every_route_asks_for_a_key(service: Service) -> None:
    edge = create_app(service)
    assert isinstance(edge, Edge)
    assert isinstance(edge.app, Litestar)
    paths = {re.sub(r"\{[^}]*\}", str(uuid.uuid4()), route.path) for route in edge.app.routes}
    assert len(paths) > 10
    paths |= {"/nothing", "//api/events", "/health/../schema", "/HEALTH", "/health/x", "/schema/openapi.json", ""}
    async with client_at(service) as client:
        for path in paths - {"/health", "/ready"}:
            for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
                answer = await client.request(method, path)
                assert (method, path, answer.status_code) == (method, path, 401)
        assert (await client.get("/health")).status_code == 200
        assert (await client.get("/ready")).status_code == 503


async def test_openapi_says_where_a_key_is_asked_for(service: Service) -> None:
    async with client_at(service) as client:
        document = (await client.get("/schema", headers=bearer("one"))).json()
    answer = document["paths"]["/metrics"]["get"]["responses"]["401"]
    assert set(answer["headers"]) == {"WWW-Authenticate", "x-correlation-id", "x-request-id"}
    operations = {path: operation for path, each in document["paths"].items() for operation in each.values()}
    assert len(operations) > 10
    for path, operation in operations.items():
        is_open = path in {"/health", "/ready"}
        assert (operation.get("security") == []) is is_open
        assert ("401" in operation["responses"]) is not is_open
    assert document["security"] == [{"key": []}]
    comparison = document["paths"]["/api/technology/speaker-identification-voiceprint-comparison"]
    assert "403" in comparison["post"]["responses"]
    assert "403" not in document["paths"]["/api/technology/voice-activity-detection"]["post"]["responses"]


@pytest.fixture
def no_failure_limit(settings: Settings) -> Settings:
    return replaced(settings, key_failure_limit=0)


@pytest.fixture
async def service(no_failure_limit: Settings) -> Any:
    made = alone(no_failure_limit)
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ([], "api-key.missing"),
        ([("authorization", "Basic b25lOmNzX29uZQ==")], "api-key.missing"),
        ([("authorization", "Bearer ")], "api-key.missing"),
        ([("authorization", "cs_one")], "api-key.missing"),
        ([("authorization", "Bearer cs_on")], "api-key.invalid"),
        ([("authorization", f"Bearer {digest('one')}")], "api-key.invalid"),
        ([("x-api-key", "cs_One")], "api-key.invalid"),
        ([("x-api-key", "cs_one cs_one")], "api-key.invalid"),
        ([("x-api-key", "cs_one"), ("authorization", "Bearer cs_two")], "api-key.invalid"),
        ([("x-api-key", "cs_one"), ("x-api-key", "cs_two")], "api-key.invalid"),
        ([("x-api-key", "\xff\xfe")], "api-key.invalid"),
    ],
)
async def test_no_key_or_a_wrong_one(service: Service, headers: list[tuple[str, str]], kind: str) -> None:
    async with client_at(service) as client:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        answer = await client.get("/schema", headers=raw)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"]
    error = msgspec.json.decode(answer.content, type=RequestError)
    assert (error.type, error.message) == ("request.forbidden", "Request is forbidden.")
    [detail] = error.detail
    assert (detail.location, detail.type) == (["header", "authorization"], kind)


@pytest.mark.parametrize(
    "headers", [{"authorization": "Bearer cs_one"}, {"authorization": "bearer   cs_one "}, {"x-api-key": "cs_one"}]
)
async def test_a_key_is_taken_from_either_header(service: Service, headers: dict[str, str]) -> None:
    async with client_at(service) as client:
        assert (await client.get("/schema", headers=headers)).status_code == 200
        both = await client.get("/schema", headers={"authorization": "Basic x", "x-api-key": "cs_one"})
        assert both.status_code == 200


@pytest.mark.parametrize(
    ("address", "status"), [("127.0.0.1", 200), ("127.9.9.9", 200), ("::1", 200), ("::ffff:127.0.0.1", 200), ("192.0.2.7", 401)]
)
async def test_metrics_are_open_to_this_machine(service: Service, address: str, status: int) -> None:
    async with client_at(service, (address, 1)) as client:
        assert (await client.get("/metrics")).status_code == status
        assert (await client.get("/metrics", headers=bearer("one"))).status_code == 200
        assert (await client.get("/schema")).status_code == 401


def row(owner: str | None, call_id: str | None = None) -> TaskRow:
    task_id = str(uuid.uuid4())
    body = msgspec.json.encode({"task": {"task_id": task_id, "state": "running"}})
    return TaskRow(task_id, WORD, 1, TaskState.RUNNING, body, None, now_ms(), call_id, owner)


async def test_who_sees_what(service: Service) -> None:
    tasks = {"one": row("one"), "two": row("two"), "call": row(None, "call-1"), "request": row(None), "gone": row("left")}
    service.view.apply(list(tasks.values()), {})
    seen = {"one": {"one", "call", "request"}, "two": {"two", "call", "request"}, "nocalls": set()}
    async with client_at(service) as client:
        for name, visible in seen.items():
            unknown = str(uuid.uuid4())
            nobodys = (await client.get(f"{API}/{WORD}/{unknown}", headers=bearer(name))).text
            for what, task in tasks.items():
                answer = await client.get(f"{API}/{WORD}/{task.task_id}", headers=bearer(name))
                assert (name, what, answer.status_code) == (name, what, 200 if what in visible else 404)
                if what not in visible:
                    assert answer.text.replace(task.task_id, unknown) == nobodys


async def test_nothing_tells_anothers_task_from_none_while_not_all_are_known(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def incomplete(_: float) -> bool:
        return False

    monkeypatch.setattr(service.tasks, "_until_complete", incomplete)
    anothers = row("two")
    service.view.apply([anothers], {})
    async with client_at(service) as client:
        for task_id in (anothers.task_id, str(uuid.uuid4())):
            assert (await client.get(f"{API}/{WORD}/{task_id}", headers=bearer("one"))).status_code == 503


def test_without_word_of_the_gate_nothing_is_seen() -> None:
    assert not is_visible(None, {})
    assert not is_visible("one", {})
    assert not is_visible(None, {"callstream_caller": Caller("one")})


async def test_a_wrong_key_costs(settings: Settings) -> None:
    service = alone(replaced(settings, key_failure_limit=3))
    async with client_at(service) as client, client_at(service, ("192.0.2.8", 1)) as neighbour:
        wrong = [await client.get("/schema", headers={"x-api-key": f"cs_{n}"}) for n in range(5)]
        assert [answer.status_code for answer in wrong] == [401, 401, 401, 429, 429]
        assert wrong[-1].headers["x-ratelimit-limit"] == "3"
        assert (await client.get("/schema", headers=bearer("one"))).status_code == 429  # not even looked at
        assert (await client.get("/health")).status_code == 200
        assert (await neighbour.get("/schema", headers=bearer("one"))).status_code == 200
    await service.close()


async def test_neighbours_in_an_ipv6_network_are_one_client(settings: Settings) -> None:
    service = alone(replaced(settings, key_failure_limit=3))
    statuses = []
    for number in range(5):
        async with client_at(service, (f"2001:db8::{number + 1}", 1)) as client:
            statuses.append((await client.get("/schema")).status_code)
    assert statuses == [401, 401, 401, 429, 429]
    await service.close()


async def test_logs_hold_no_key(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with client_at(service) as client:
        for headers in (bearer("one"), {"x-api-key": "cs_wrong"}):
            await client.get(f"{API}/{WORD}/{uuid.uuid4()}", headers=headers)
        service.view._reader.close()
        assert (await client.get(f"{API}/{WORD}/{uuid.uuid4()}", headers=bearer("one"))).status_code == 500
    assert "met a fault" in caplog.text
    for secret in (KEYS["one"], "cs_wrong", digest("one")):
        assert secret not in caplog.text


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_without_keys_nobody_else_is_let_in(settings: Settings, host: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(replaced(settings, api_keys_file="", host=host)) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert "CALLSTREAM_API_KEYS_FILE" in line
    assert "callstream keys new" in line


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
async def test_without_keys_this_machine_is(settings: Settings, host: str) -> None:
    async with serving(replaced(settings, api_keys_file="", host=host)) as (url, _), httpx.AsyncClient() as client:
        assert (await client.get(f"{url}/schema")).status_code == 200


async def test_with_keys_everybody_may_try(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(replaced(settings, host="0.0.0.0")) as (url, _), httpx.AsyncClient() as client:
        at = url.replace("0.0.0.0", "127.0.0.1")
        assert (await client.get(f"{at}/schema")).status_code == 401
        assert (await client.get(f"{at}/schema", headers=bearer("one"))).status_code == 200
    assert "clear text" in caplog.text
    with pytest.raises(ExposedError):
        async with serving(replaced(settings, host="0.0.0.0", api_keys_file="")):
            pass


@pytest.fixture
def program(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    variables = {
        "CALLSTREAM_BROKER": settings.broker,
        "CALLSTREAM_DATA_DIR": settings.data_dir,
        "CALLSTREAM_PORT": "0",
        "CALLSTREAM_API_KEYS_FILE": settings.api_keys_file,
    }
    started = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True
    )
    with started:
        yield started
        started.kill()


def eventually(condition: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_a_hangup_reads_the_file_anew(program: subprocess.Popen[str], keys_file: Path) -> None:
    assert program.stderr is not None
    lines = iter(program.stderr.readline, "")
    url = next(line for line in lines if line.startswith("listening on ")).removeprefix("listening on ").strip()

    def status(name: str) -> int:
        return httpx.get(f"{url}/schema", headers=bearer(name)).status_code

    assert (status("one"), status("two")) == (200, 200)
    keys_file.write_text(keys_toml("two"))
    program.send_signal(signal.SIGHUP)
    eventually(lambda: status("one") == 401)
    keys_file.write_text("nonsense")
    program.send_signal(signal.SIGHUP)
    assert "stay as they were" in next(line for line in lines if "API keys" in line)
    assert (status("one"), status("two")) == (401, 200)
    program.send_signal(signal.SIGTERM)
    assert program.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("inline_bytes", [900_000, 0])
async def test_what_a_key_starts_is_its_owners_alone(
    service: Service, monkeypatch: pytest.MonkeyPatch, inline_bytes: int
) -> None:
    """In what the agents are told, from lists in the record, lists beside it and files; and in the view until they answer."""
    told: list[StartTask] = []

    async def start(_: uuid.UUID, request: StartTask, *__: object) -> None:
        told.append(request)

    monkeypatch.setattr(service.tasks._starter, "start", start)
    monkeypatch.setattr(tasks, "INLINE_BYTES", inline_bytes)
    gender = f"{API}/{Technology.GENDER_IDENTIFICATION}"
    async with client_at(service) as client:
        for sent in ({"json": {"voiceprints": ["QQ=="]}}, {"files": {"file": ("call.wav", b"audio")}}):
            path = gender if "json" in sent else f"{API}/{WORD}"
            answer = await client.post(path, headers=bearer("one"), **sent)
            task = f"{path}/{answer.json()['task']['task_id']}"
            seen = [(await client.get(task, headers=bearer(name))).status_code for name in ("one", "two")]
            assert (answer.status_code, seen) == (202, [200, 404])
    assert [one.owner for one in told] == ["one", "one"]
    assert told[1].media is not None
    assert told[1].media.options.owner == "one"
