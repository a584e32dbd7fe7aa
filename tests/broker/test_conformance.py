"""Every endpoint of the reference pages answers with every status of its page, word by word; the table reads like the pages."""

import json
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from pipeline.query.app import running
from pipeline.query.records import read_change
from pipeline.query.view import now_ms
from pipeline.settings import Settings
from schemas.tasks import Technology
from tests.query.conftest import client_of, replaced
from tests.system import open_system

pytestmark = pytest.mark.broker

API = "/api/technology"
TASK = "123e4567-e89b-12d3-a456-426614174000"
OTHER = "123e4567-e89b-12d3-a456-426614174001"
VAD, EXTRACTION, LANGUAGE, GENDER, COMPARISON = (f"{API}/{technology.value}" for technology in Technology)
EXAMPLES: dict[str, list[dict[str, Any]]] = json.loads((Path(__file__).parents[1] / "schemas" / "examples.json").read_text())


class Page(NamedTuple):
    """A page of the reference, by its title: a request of it, and how each status that the page lists is provoked."""

    title: str
    method: str
    path: str
    statuses: dict[int, str]  # status -> a way of `WAYS`


READS = {200: "read", 400: "unparsable query", 404: "unknown task", 422: "no task id", 429: "too often"}
PAGES = [
    Page("Voice Activity Detection: get result", "GET", VAD, READS),
    Page("Voiceprint Extraction: get result", "GET", EXTRACTION, READS),
    Page("Language Identification: get result", "GET", LANGUAGE, READS),
    Page(
        "Voiceprint Comparison: start task",
        "POST",
        COMPARISON,
        {202: "start", 400: "unparsable body", 403: "licence", 422: "empty object", 429: "too often"},
    ),
    Page(
        "Gender Identification from voiceprints: start task",
        "POST",
        GENDER,
        {
            202: "start",
            400: "unparsable body",
            403: "licence",
            413: "too large",
            422: "empty object",
            429: "too often",
            507: "full",
        },
    ),
]
# Not among the five pages, but told by their siblings: starts from a file.
SIBLINGS = [
    Page("Voice Activity Detection: start task", "POST", VAD, {202: "file", 400: "no form", 413: "too large a file"}),
    Page("Voice Activity Detection: start task", "POST", VAD, {422: "no file", 429: "too often", 507: "full of a file"}),
    Page(
        "Voiceprint Extraction: start task",
        "POST",
        EXTRACTION,
        {202: "file", 403: "licence of a file", 413: "too large a file"},
    ),
    Page("Voiceprint Extraction: start task", "POST", EXTRACTION, {400: "no form", 422: "no file", 507: "full of a file"}),
    Page(
        "Language Identification: start task",
        "POST",
        LANGUAGE,
        {202: "file", 403: "licence of a file", 413: "too large a file"},
    ),
    Page("Language Identification: start task", "POST", LANGUAGE, {400: "no form", 422: "no file", 507: "full of a file"}),
]
EVERYWHERE = [
    Page("any", "DELETE", f"{path}/{TASK}", {405: "method"}) for path in (VAD, EXTRACTION, LANGUAGE, GENDER, COMPARISON)
]

LISTS = {GENDER: {"voiceprints": ["AAAA"]}, COMPARISON: {"voiceprints_a": ["AAAA"], "voiceprints_b": ["AAAA"]}}
FORM = {"content-type": "multipart/form-data; boundary=x"}
Request = Callable[[Page], dict[str, Any]]


def form(size_bytes: int) -> bytes:
    head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="call.wav"\r\n\r\n'
    return head + b"x" * size_bytes + b"\r\n--x--\r\n"


class Way(NamedTuple):
    """How a status is provoked: what is sent, in how many requests, and with which settings."""

    request: Request
    settings: dict[str, object] | None = None
    times: int = 1
    answer: dict[str, Any] | None = None  # word by word; None where the page's own text is elsewhere in this file


def at(task_id: str) -> Request:
    return lambda page: {"url": f"{page.path}/{task_id}"}


def error(kind: str, message: str, *detail: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "message": message, "detail": list(detail)}


def lists(page: Page) -> dict[str, Any]:
    return {"url": page.path, "json": LISTS[page.path]}


def file(page: Page) -> dict[str, Any]:
    return {"url": page.path, "content": form(100), "headers": FORM}


INVALID = error("request.invalid", "Invalid request.")
FORBIDDEN = error(
    "request.forbidden",
    "Request is forbidden.",
    {
        "location": ["license"],
        "message": "Licensed processing capacity exceeded.",
        "type": "licensing.capacity-exceeded",
        "context": {},
    },
)
FULL = error("storage.capacity-exceeded", "Storage capacity exceeded.")
NOT_FOUND = error(
    "resource.not-found",
    "Resource not found.",
    {"location": ["root"], "message": "Task not found.", "type": "task.not-found", "context": {"task_id": OTHER}},
)
RATE = error("request.rate-limit-exceeded", "Rate limit exceeded: 1 per 5 second.")
WAYS = {
    "read": Way(at(TASK)),
    "unparsable query": Way(lambda page: {"url": f"{page.path}/{TASK}?wait=%ff"}, answer=INVALID),
    "unknown task": Way(at(OTHER), answer=NOT_FOUND),
    "no task id": Way(at("no-uuid")),
    "too often": Way(at(TASK), {"rate_limit": 1, "rate_window_s": 5}, times=2, answer=RATE),
    "start": Way(lists),
    "unparsable body": Way(lambda page: {"url": page.path, "content": b'{"voiceprints'}, answer=INVALID),
    "empty object": Way(lambda page: {"url": page.path, "json": {}}),
    "licence": Way(lists, {"open_tasks": 1}, times=2, answer=FORBIDDEN),
    "too large": Way(lambda page: {"url": page.path, "content": b" " * 1001}, {"max_body_bytes": 1000}),
    "full": Way(lists, {"blob_quota_bytes": 1}, answer=FULL),
    "file": Way(file),
    "no form": Way(lambda page: {"url": page.path, "content": b"nonsense", "headers": FORM}, answer=INVALID),
    "no file": Way(lambda page: {"url": page.path, "content": b"--x--\r\n", "headers": FORM}),
    "licence of a file": Way(file, {"open_tasks": 1}, times=2, answer=FORBIDDEN),
    "too large a file": Way(
        file,
        {"max_media_bytes": 99},
        answer=error(
            "request.size-limit-exceeded",
            "Request size limit exceeded.",
            {
                "location": ["body", "file"],
                "message": "Input media file too large.",
                "type": "media.too-large",
                "context": {"file_size": 100, "max_file_size": 99, "size_unit": "bytes"},
            },
        ),
    ),
    "full of a file": Way(file, {"blob_quota_bytes": 1}, answer=FULL),
    "method": Way(lambda page: {"url": page.path}, answer=error("method.invalid", "Invalid method.")),
}
ROWS = [(page, status) for page in (*PAGES, *SIBLINGS, *EVERYWHERE) for status in page.statuses]


@pytest.fixture(scope="module")
def settings(broker_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    made = Settings(broker=broker_bootstrap, topic_prefix=f"c{uuid.uuid4().hex[:10]}.", partitions=1, port=0)
    with open_system(made, tmp_path_factory.mktemp("conformance")):
        yield made


@asynccontextmanager
async def client_with(settings: Settings, folder: Path, **changed: object) -> AsyncIterator[tuple[httpx.AsyncClient, Any]]:
    async with running(replaced(settings, data_dir=str(folder), **changed)) as service, client_of(service) as client:
        yield client, service


def page_examples(page: Page) -> list[dict[str, Any]]:
    """The page's answers to a task that is final; the one with empty objects only shows the keys."""
    return [each for each in EXAMPLES[page.title] if "task" in each and each.get("result") != {}]


@pytest.mark.parametrize(("page", "status"), ROWS, ids=[f"{p.method} {p.title} {p.path[-6:]} {s}" for p, s in ROWS])
async def test_status(settings: Settings, tmp_path: Path, page: Page, status: int) -> None:
    way = WAYS[page.statuses[status]]
    async with client_with(settings, tmp_path, **(way.settings or {})) as (client, service):
        if status == 200:
            await assert_reads(client, service, page)
            return
        for _ in range(way.times):
            answer = await client.request(page.method, **way.request(page))
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-correlation-id"]
    assert answer.headers["x-request-id"]
    if way.answer is not None:
        assert answer.json() == way.answer
    assert_as_the_page_says(page, status, answer)


async def assert_reads(client: httpx.AsyncClient, service: Any, page: Page) -> None:
    for example in page_examples(page):
        record = {"technology": page.path.removeprefix(f"{API}/"), "revision": 2, **example}
        service.view.apply([read_change(TASK.encode(), None, 0), read_change(None, json.dumps(record).encode(), now_ms())], {})
        answer = await client.get(f"{page.path}/{TASK}")
        assert (answer.status_code, answer.json()) == (200, example)


def assert_as_the_page_says(page: Page, status: int, answer: httpx.Response) -> None:
    if status == 202:
        body = answer.json()
        assert set(body) == {"task"}
        assert body["task"]["state"] == "pending"
        assert answer.headers["x-location"] == answer.headers["location"] == f"{page.path}/{uuid.UUID(body['task']['task_id'])}"
        return
    told = [each for each in EXAMPLES.get(page.title, []) if each.get("type") == answer.json()["type"]]
    if page in PAGES:
        assert [each["message"] for each in told] == [answer.json()["message"]]
    if status == 429:
        names = ("retry-after", "x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset")
        values = [float(answer.headers[name]) for name in names]
        assert 1 <= values[0] <= 5
        assert values[1:3] == [1, 0]
        assert values[3] * 1000 > now_ms() - 5000


def test_every_status_of_every_page_is_in_the_table() -> None:
    statuses = {page.title: set(page.statuses) for page in PAGES}
    assert statuses == {
        "Voice Activity Detection: get result": {200, 400, 404, 422, 429},
        "Voiceprint Extraction: get result": {200, 400, 404, 422, 429},
        "Language Identification: get result": {200, 400, 404, 422, 429},
        "Voiceprint Comparison: start task": {202, 400, 403, 422, 429},
        "Gender Identification from voiceprints: start task": {202, 400, 403, 413, 422, 429, 507},
    }
    assert set(EXAMPLES) == set(statuses)
