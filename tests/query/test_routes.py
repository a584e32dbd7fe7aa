"""One table of requests and answers, against the real application."""

import hashlib
import json
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec
import pytest

from pipeline.blobs import FOLDER_NAME, open_blobs, result_name
from pipeline.query import tasks
from pipeline.query.app import Service
from pipeline.query.edge import MAX_ID_CHARS
from pipeline.query.records import read_change
from pipeline.query.view import TaskRow, now_ms
from pipeline.settings import Settings
from schemas.errors import RequestError
from schemas.tasks import TaskState, Technology
from tests.query.conftest import alone, client_of, replaced

API = "/api/technology"
KNOWN = "123e4567-e89b-12d3-a456-426614174000"
UNKNOWN = "123e4567-e89b-12d3-a456-426614174001"
GENDER = f"{API}/gender-identification-voiceprints"
COMPARISON = f"{API}/speaker-identification-voiceprint-comparison"
EXAMPLES = Path(__file__).parent / "answers.json"
SEEDS = Path(__file__).parents[2].parent / "shared" / "seeds" / "examples.json"


class Case(NamedTuple):
    method: str
    path: str
    body: bytes | None
    status: int
    type: str
    locations: Sequence[list[str | int]] = ()
    detail_types: Sequence[str] = ()


def body_of(**fields: object) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def gender(voiceprints: object, *faults: tuple[list[str | int], str]) -> Case:
    return refused(GENDER, body_of(voiceprints=voiceprints), *faults)


def refused(path: str, body: bytes, *faults: tuple[list[str | int], str]) -> Case:
    return Case("POST", path, body, 422, VALIDATION, [where for where, _ in faults], [what for _, what in faults])


VALIDATION = "request.validation-error"
LISTS: list[str | int] = ["body", "voiceprints"]
NO_LISTS: Sequence[object] = (None, "QQ==", 3, {}, True)
NOWHERE = ("/", "/nothing", API, f"{API}/nothing/{KNOWN}", f"{GENDER}/a/b")
MANY = body_of(voiceprints=["QQ=="] * 60_000)
INVALID_JSON = [b"", b"{", b"nonsense", b'{"voiceprints": [NaN]}', b'{"voiceprints": ["QQ=="]} x', b'"\xff"', b"[" * 100_000]
WRONG_BASE64 = ["QQ", "QQ=", "QQ==\n", " QQ==", "Q Q=", "QQ==QQ==", "vp_a_1", "_-__", "é===", "Q===", "===="]
CASES = [
    *[Case("GET", path, None, 404, "resource.not-found") for path in NOWHERE],
    *[Case("POST", path, b"{}", 404, "resource.not-found") for path in ("/nothing", f"{API}/nothing")],
    *[
        Case("GET", f"{API}/{word.value}/{UNKNOWN}", None, 404, "resource.not-found", [["root"]], ["task.not-found"])
        for word in Technology
    ],
    *[
        Case("GET", f"{API}/{word.value}/{text}", None, 422, VALIDATION, [["path", "task_id"]], ["task-id.invalid"])
        for word in Technology
        for text in ("1", "123e4567-e89b-12d3-a456-42661417400g", f"{KNOWN}0")
    ],
    *[Case(method, f"{GENDER}/{KNOWN}", b"", 405, "method.invalid") for method in ("POST", "PUT", "PATCH", "DELETE")],
    *[Case(method, GENDER, None, 405, "method.invalid") for method in ("GET", "PUT", "PATCH", "DELETE")],
    *[Case("DELETE", path, None, 405, "method.invalid") for path in ("/health", "/ready", "/metrics", "/schema")],
    *[refused(f"{API}/{word}", b"", (["body", "file"], "value.missing")) for word in list(Technology)[:3]],
    *[Case("POST", path, body, 400, "request.invalid") for path in (GENDER, COMPARISON) for body in INVALID_JSON],
    *[refused(GENDER, body, (["body"], "value.type-invalid")) for body in (b"null", b"1", b'"text"', b"[]")],
    refused(GENDER, b"{}", (LISTS, "value.missing")),
    *[gender(value, (LISTS, "value.type-invalid")) for value in NO_LISTS],
    gender([], (LISTS, "list.empty")),
    gender(["QQ=="] * 50_001, (LISTS, "list.too-long")),
    gender(
        [1, "QQ==", None, "?"],
        ([*LISTS, 0], "value.type-invalid"),
        ([*LISTS, 2], "value.type-invalid"),
        ([*LISTS, 3], "base64.invalid"),
    ),
    *[gender(["QQ==", text], ([*LISTS, 1], "base64.invalid")) for text in WRONG_BASE64],
    gender(["!"] * 1001, *[([*LISTS, at], "base64.invalid") for at in range(1000)]),
    refused(COMPARISON, b"{}", (["body", "voiceprints_a"], "value.missing"), (["body", "voiceprints_b"], "value.missing")),
    refused(
        COMPARISON,
        body_of(voiceprints_a=["QQ==", "QQ==", "QQ==", 4], voiceprints_b=[]),
        (["body", "voiceprints_a", 3], "value.type-invalid"),
        (["body", "voiceprints_b"], "list.empty"),
    ),
    refused(COMPARISON, body_of(voiceprints_a=["QQ=="] * 1001, voiceprints_b=["QQ=="] * 1000), (["body"], "matrix.too-large")),
    Case("POST", GENDER, MANY, 413, "request.size-limit-exceeded", [["body"]], ["body.too-large"]),
    # Kafka is away in these tests: what reaches it is a fault of ours, not the client's
    *[Case("POST", GENDER, body_of(voiceprints=[text]), 500, "internal") for text in ("QQ==", "QUI=", "QUJD", "", "+/+/")],
    Case("POST", COMPARISON, body_of(voiceprints_a=["QQ=="] * 1000, voiceprints_b=["QQ=="] * 1000), 500, "internal"),
]  # fmt: skip


def _name(case: Case) -> str:
    return f"{case.method} {case.path[-40:]} {(case.body or b'')[:20]!r} {case.status}"


@pytest.mark.parametrize("case", CASES, ids=_name)
async def test_a_refused_request(client: httpx.AsyncClient, service: Service, case: Case) -> None:
    answer = await client.request(case.method, case.path, content=case.body, headers={"x-request-id": "r-1"})
    assert answer.status_code == case.status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "r-1"
    assert answer.headers["x-correlation-id"]
    error = msgspec.json.decode(answer.content, type=RequestError)
    assert error.type == case.type
    assert [detail.location for detail in error.detail] == list(case.locations)
    assert [detail.type for detail in error.detail] == list(case.detail_types)
    assert "Traceback" not in answer.text
    assert service.view.count() == 0  # nothing was half started


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", f"{GENDER}/{KNOWN}", {"GET", "OPTIONS"}),
        ("GET", COMPARISON, {"POST", "OPTIONS"}),
        ("POST", "/health", {"GET", "OPTIONS"}),
        ("GET", f"{API}/voice-activity-detection", {"POST", "OPTIONS"}),
    ],
)
async def test_405_says_what_is_allowed(client: httpx.AsyncClient, method: str, path: str, allowed: set[str]) -> None:
    answer = await client.request(method, path)
    assert set(answer.headers["allow"].split(", ")) == allowed
    options = await client.options(path)
    assert options.status_code == 204
    assert set(options.headers["allow"].split(", ")) == allowed


def answered_examples() -> list[tuple[str, dict[str, object]]]:
    return [(word, body) for word, bodies in json.loads(EXAMPLES.read_text()).items() for body in bodies]


def store(service: Service, technology: str, body: Mapping[str, object], **extra: object) -> None:
    record = {"technology": technology, "revision": 2, **body, **extra}
    change = read_change(None, json.dumps(record).encode(), now_ms())
    service.view.apply([change], {})


@pytest.mark.parametrize(("word", "body"), answered_examples())
async def test_a_task_is_answered_as_its_record_says(
    client: httpx.AsyncClient, service: Service, word: str, body: dict[str, object]
) -> None:
    store(service, word, body)
    answer = await client.get(f"{API}/{word}/{KNOWN}")
    assert answer.status_code == 200
    assert answer.json() == body
    assert answer.headers["content-type"] == "application/json"
    assert (await client.get(f"{API}/{word}/{KNOWN.upper()}")).content == answer.content
    others = [each.value for each in Technology if each.value != word]
    assert [(await client.get(f"{API}/{each}/{KNOWN}")).status_code for each in others] == [404] * 4


@pytest.mark.skipif(not SEEDS.exists(), reason="the reference platform's pages are not beside the repository")
async def test_every_answer_of_the_reference_pages_can_be_given(client: httpx.AsyncClient, service: Service) -> None:
    words = {
        "Voiceprint Extraction: get result": Technology.VOICEPRINT_EXTRACTION,
        "Voice Activity Detection: get result": Technology.VOICE_ACTIVITY_DETECTION,
        "Language Identification: get result": Technology.LANGUAGE_IDENTIFICATION,
    }
    seen = 0
    for page, word in words.items():
        for example in json.loads(SEEDS.read_text())[page]:
            if "task" not in example or example.get("result") == {}:
                continue  # an error, or an auto-generated placeholder
            service.view.apply([read_change(KNOWN.encode(), None, 0)], {})
            store(service, word, example)
            assert (await client.get(f"{API}/{word.value}/{KNOWN}")).json() == example
            seen += 1
        not_found = next(each for each in json.loads(SEEDS.read_text())[page] if each.get("type") == "resource.not-found")
        service.view.apply([read_change(KNOWN.encode(), None, 0)], {})
        assert (await client.get(f"{API}/{word.value}/{KNOWN}")).json() == not_found
    assert seen == 9


async def test_a_running_task_shows_no_partial_result(client: httpx.AsyncClient, service: Service) -> None:
    task = {"task": {"task_id": KNOWN, "state": "running"}}
    store(service, "voice-activity-detection", task, partial={"channels": []}, call_id="call")
    assert (await client.get(f"{API}/voice-activity-detection/{KNOWN}")).json() == task


async def test_a_task_that_may_be_there_is_not_said_to_be_unknown(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "CATCH_UP_S", 0.05)
    service = Service(settings)
    store(service, "voice-activity-detection", {"task": {"task_id": KNOWN, "state": "running"}})
    async with client_of(service) as client:
        assert (await client.get(f"{API}/voice-activity-detection/{KNOWN}")).status_code == 200
        assert (await client.get(f"{API}/language-identification/{KNOWN}")).status_code == 404
        answer = await client.get(f"{API}/voice-activity-detection/{UNKNOWN}")
        assert (answer.status_code, answer.json()["type"], answer.headers["retry-after"]) == (503, "internal", "5")
        service.follower.complete.set()
        assert (await client.get(f"{API}/voice-activity-detection/{UNKNOWN}")).status_code == 404
    await service.close()


async def test_an_expired_task_is_not_found(settings: Settings) -> None:
    service = alone(replaced(settings, task_ttl_s=3600.0))
    old = TaskRow(KNOWN, Technology.LANGUAGE_IDENTIFICATION, 1, TaskState.DONE, b"{}", None, now_ms() - 3_600_001)
    service.view.apply([old], {})
    async with client_of(service) as client:
        assert (await client.get(f"{API}/language-identification/{KNOWN}")).status_code == 404
    await service.close()


@pytest.mark.parametrize("is_new", [True, False])
async def test_a_result_kept_outside_the_record(
    client: httpx.AsyncClient, service: Service, settings: Settings, is_new: bool
) -> None:
    content = b'{"scores":{"columns_count":1,"rows_count":1,"values":[3]}}'
    name = result_name("topics", KNOWN, content) if is_new else f"sha256-{hashlib.sha256(content).hexdigest()}"
    if is_new:
        open_blobs(settings).put(name, content)
    else:  # as the previous release did
        (Path(settings.data_dir) / FOLDER_NAME / name).write_bytes(content)
    word = Technology.VOICEPRINT_COMPARISON
    store(service, word, {"task": {"task_id": KNOWN, "state": "done"}}, result_ref=name)
    answer = await client.get(f"{COMPARISON}/{KNOWN}")
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert answer.json() == {
        "task": {"task_id": KNOWN, "state": "done"},
        "result": {"scores": {"columns_count": 1, "rows_count": 1, "values": [3]}},
    }


@pytest.mark.parametrize(
    "reference",
    ["results/no", "missing", "../secret", "..", "", "/etc/hostname", "results/../../secret", "results/link", "results/nul\0"],
)
async def test_a_reference_that_leads_nowhere_or_out(service: Service, settings: Settings, reference: str) -> None:
    root = Path(settings.data_dir) / FOLDER_NAME / "results"
    root.mkdir(parents=True)
    (Path(settings.data_dir) / "secret").write_text('"secret"')
    (root / "link").symlink_to(Path(settings.data_dir) / "secret")
    store(service, Technology.VOICEPRINT_COMPARISON, {"task": {"task_id": KNOWN, "state": "done"}}, result_ref=reference)
    async with client_of(service) as client:
        answer = await client.get(f"{COMPARISON}/{KNOWN}")
    assert (answer.status_code, answer.json()) == (500, {"type": "internal", "message": "Service error.", "detail": []})


async def test_an_unexpected_fault_is_logged_and_not_told(
    client: httpx.AsyncClient, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.view._reader.close()  # as when the file is pulled away
    answer = await client.get(f"{GENDER}/{KNOWN}", headers={"x-request-id": "the-one"})
    assert (answer.status_code, answer.json()) == (500, {"type": "internal", "message": "Service error.", "detail": []})
    assert "the-one" in caplog.text
    assert "ProgrammingError" in caplog.text


async def test_a_body_over_the_limit_is_found_while_reading(client: httpx.AsyncClient, settings: Settings) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100 * settings.max_body_bytes:
            sent += 10_000
            yield b" " * 10_000

    answer = await client.post(GENDER, content=endless())
    assert answer.status_code == 413
    assert answer.json()["detail"][0]["context"] == {"max_body_size": settings.max_body_bytes, "size_unit": "bytes"}
    assert sent <= settings.max_body_bytes + 20_000


IDS = ["x-correlation-id", "x-request-id"]


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("path", ["/health", "/nothing", f"{GENDER}/{KNOWN}"])
async def test_ids_are_echoed_or_made(client: httpx.AsyncClient, name: str, path: str) -> None:
    assert (await client.get(path, headers={name: "mine 1/2"})).headers[name] == "mine 1/2"
    made = [(await client.get(path)).headers[name] for _ in range(2)]
    assert made[0] != made[1]
    assert [str(uuid.UUID(each)) for each in made] == made


@pytest.mark.parametrize("name", IDS)
@pytest.mark.parametrize("value", [b"", b"x" * (MAX_ID_CHARS + 1), b"caf\xc3\xa9", b"a\tb", b"\x7f"])
async def test_an_id_that_must_not_be_echoed_is_replaced(client: httpx.AsyncClient, name: str, value: bytes) -> None:
    answer = await client.get("/health", headers=[(name.encode(), value)])
    assert str(uuid.UUID(answer.headers[name])) == answer.headers[name]


async def test_the_rate_limit(settings: Settings) -> None:
    service = alone(replaced(settings, rate_limit=1, rate_window_s=3600))
    async with client_of(service) as client:
        before_s = now_ms() / 1000
        assert (await client.get(f"{GENDER}/{KNOWN}")).status_code == 404
        refusal = await client.get("/nothing")
        assert refusal.status_code == 429
        assert refusal.json() == {
            "type": "request.rate-limit-exceeded",
            "message": "Rate limit exceeded: 1 per 3600 second.",
            "detail": [],
        }
        assert refusal.headers["x-ratelimit-limit"] == "1"
        assert refusal.headers["x-ratelimit-remaining"] == "0"
        assert before_s + 3600 <= float(refusal.headers["x-ratelimit-reset"]) <= now_ms() / 1000 + 3601
        assert 1 <= int(refusal.headers["retry-after"]) <= 3600
        assert refusal.headers["x-request-id"]
        statuses = [(await client.get(path)).status_code for path in ("/health", "/ready", "/metrics", "/schema")]
        assert statuses == [200, 503, 200, 429]
    await service.close()
