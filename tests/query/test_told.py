"""What the service tells of itself: whether it is ready, metrics, and the OpenAPI document."""

from pathlib import Path

import httpx
import msgspec
import pytest

from pipeline.query.app import Service
from pipeline.query.view_file import FILE_NAME, ViewGoneError
from schemas.http import ANSWERS, TaskAnswer
from schemas.tasks import TaskInfo, TaskState, Technology
from tests.query.test_routes import API, COMPARISON, GENDER, IDS, KNOWN, UNKNOWN, store


async def test_readiness_names_what_is_missing(client: httpx.AsyncClient) -> None:
    answer = await client.get("/ready")
    assert answer.status_code == 503
    body = answer.json()
    assert body["ready"] is False
    assert body["checks"]["store"] == "ok"
    assert body["checks"]["kafka"] != "ok"
    assert body["checks"]["view"] != "ok"


@pytest.mark.parametrize("is_made_anew", [False, True])
async def test_not_ready_when_the_views_file_was_deleted(
    service: Service, client: httpx.AsyncClient, is_made_anew: bool
) -> None:
    file = Path(service.settings.data_dir) / FILE_NAME
    assert FILE_NAME not in (await client.get("/ready")).json()["checks"]["view"]
    file.unlink()
    if is_made_anew:
        file.touch()
    else:
        with pytest.raises(ViewGoneError):
            service.view.count()
    answer = await client.get("/ready")
    assert answer.status_code == 503
    assert f"{file} is {'another' if is_made_anew else 'gone'}" in answer.json()["checks"]["view"]


async def test_metrics_count_requests_by_route_and_status(client: httpx.AsyncClient, service: Service) -> None:
    store(service, "language-identification", {"task": {"task_id": KNOWN, "state": "running"}})
    for path in (f"{GENDER}/{KNOWN}", f"{GENDER}/{UNKNOWN}", "/secret-path"):
        await client.get(path)
    text = (await client.get("/metrics")).text
    route = f"{GENDER}/{{task_id}}"
    assert f'callstream_http_requests_total{{method="GET",route="{route}",status="404"}} 2.0' in text
    assert 'callstream_http_requests_total{method="GET",route="none",status="404"} 1.0' in text
    assert "callstream_view_tasks 1.0" in text
    assert "secret-path" not in text


async def test_metrics_of_what_never_happened_are_there(client: httpx.AsyncClient) -> None:
    """Whoever asks how much a series grew misses its first event where it begins with that."""
    text = (await client.get("/metrics")).text
    assert 'callstream_results_ingested_total{outcome="skipped"} 0.0' in text
    assert 'callstream_task_states_total{state="rejected",technology="voice-activity-detection"} 0.0' in text
    assert 'callstream_tasks_started_total{technology="voice-activity-detection"} 0.0' in text


def delete_view(service: Service) -> None:
    for file in Path(service.settings.data_dir).glob("view.sqlite*"):
        file.unlink()


async def test_metrics_are_told_when_the_view_is_gone(client: httpx.AsyncClient, service: Service) -> None:
    delete_view(service)
    text = (await client.get("/metrics")).text
    assert "callstream_view_tasks NaN" in text
    assert "callstream_http_requests_total" in text


async def test_openapi_describes_every_route(client: httpx.AsyncClient) -> None:
    answer = await client.get("/schema")
    document = answer.json()
    assert document["info"]["title"] == "callstream"
    reads = {f"{API}/{word.value}/{{task_id}}" for word in Technology}
    starts = {f"{API}/{word.value}" for word in Technology}
    assert set(document["paths"]) == reads | starts | {"/health", "/ready", "/metrics"}
    for path in reads:
        assert set(document["paths"][path]["get"]["responses"]) == {"200", "400", "403", "404", "422", "429", "500", "503"}
        answers = document["paths"][path]["get"]["responses"]
        assert set(answers["429"]["headers"]) == {
            *IDS,
            "Retry-After",
            "X-RateLimit-Limit",
            "X-RateLimit-Remaining",
            "X-RateLimit-Reset",
        }
        assert set(answers["503"]["headers"]) == {*IDS, "Retry-After"}
        assert all(set(IDS) <= set(answer["headers"]) for answer in answers.values())
    for path in starts:
        answers = document["paths"][path]["post"]["responses"]
        assert set(answers["202"]["headers"]) == {*IDS, "Location", "X-Location"}
        assert "403" in answers
    assert set(document["paths"]["/ready"]["get"]["responses"]) == {"200", "503"}
    body = document["paths"][COMPARISON]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["required"] == ["voiceprints_a", "voiceprints_b"]
    assert "http://" not in answer.text
    assert "https://" not in answer.text


def test_the_described_answers_have_the_shape_of_the_real_one() -> None:
    described = {name for answers in ANSWERS.values() for each in answers for name in each.__struct_fields__}
    assert described == set(TaskAnswer.__struct_fields__)
    assert set(ANSWERS) == set(Technology)
    assert (
        msgspec.json.encode(TaskAnswer(TaskInfo(KNOWN, TaskState.PENDING)))
        == f'{{"task":{{"task_id":"{KNOWN}","state":"pending"}}}}'.encode()
    )
