"""GET that waits for a task's next state, with the real view and hub."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from pipeline.query.app import Service
from pipeline.settings import Settings
from schemas.tasks import Technology
from tests.query.arrivals import IDS, PATIENCE_S, RESULT, arrival, done, eventually, ingest, path_of, record, running
from tests.query.conftest import alone, client_of, replaced
from tests.query.exchange import Exchange

GENDER = Technology.GENDER_IDENTIFICATION


@asynccontextmanager
async def waiting(
    service: Service, client: httpx.AsyncClient, task_id: str, wait: float = 60, count: int = 1
) -> AsyncIterator[list[httpx.Response]]:
    """So many GETs that are held inside the block; the answers are there after it."""
    answers: list[httpx.Response] = []
    asked = asyncio.gather(*[client.get(path_of(task_id), params={"wait": wait}) for _ in range(count)])
    await eventually(lambda: service.hub.listeners == count)
    yield answers
    async with asyncio.timeout(PATIENCE_S):
        answers += await asked
    assert service.hub.listeners == 0


def state_of(answer: httpx.Response) -> str:
    assert answer.status_code == 200
    state: str = answer.json()["task"]["state"]
    return state


async def test_an_answer_is_held_until_the_state_changes(service: Service, client: httpx.AsyncClient) -> None:
    ingest(service, running(IDS[0], 1))
    async with waiting(service, client, IDS[0], count=50) as answers:
        ingest(service, running(IDS[1], 0), running(IDS[0], 2, partial=RESULT))
        ingest(service, arrival(IDS[0], record(IDS[0], 0, "pending")))  # again: the view knows better
        for _ in range(20):
            await asyncio.sleep(0)
        assert service.hub.listeners == 50
        ingest(service, done(IDS[0], 3))
    plain = await client.get(path_of(IDS[0]))
    assert {answer.content for answer in answers} == {plain.content}
    assert plain.json() == {"task": {"task_id": IDS[0], "state": "done"}, "result": RESULT}


async def test_pending_to_running_is_a_change(service: Service, client: httpx.AsyncClient) -> None:
    ingest(service, arrival(IDS[0], record(IDS[0], 0, "pending")))
    async with waiting(service, client, IDS[0]) as answers:
        ingest(service, running(IDS[0], 1))
    assert [state_of(answer) for answer in answers] == ["running"]


@pytest.mark.parametrize("wait", ["0.2", "0.20000"])
async def test_the_wait_ends_with_what_is_known(service: Service, client: httpx.AsyncClient, wait: str) -> None:
    ingest(service, running(IDS[0], 1))
    began_s = asyncio.get_running_loop().time()
    assert state_of(await client.get(path_of(IDS[0]), params={"wait": wait})) == "running"
    assert 0.19 <= asyncio.get_running_loop().time() - began_s < PATIENCE_S
    assert service.hub.listeners == 0


async def test_what_is_final_or_unknown_is_answered_at_once(service: Service, client: httpx.AsyncClient) -> None:
    ingest(service, done(IDS[0], 1), running(IDS[1], 1))
    async with asyncio.timeout(PATIENCE_S):
        assert state_of(await client.get(path_of(IDS[0]), params={"wait": "60"})) == "done"
        assert (await client.get(path_of(IDS[2]), params={"wait": "60"})).status_code == 404
        assert (await client.get(path_of(IDS[1], GENDER), params={"wait": "60"})).status_code == 404
        assert (await client.get(path_of("1"), params={"wait": "60"})).status_code == 422
        assert state_of(await client.get(path_of(IDS[1]), params={"wait": "0"})) == "running"


async def test_a_change_between_the_commit_and_the_word_of_it(service: Service, client: httpx.AsyncClient) -> None:
    ingest(service, arrival(IDS[0], record(IDS[0], 0, "pending")))
    news = running(IDS[0], 1)
    async with waiting(service, client, IDS[0]) as early:
        service.view.apply([news.change], {})
        late = asyncio.create_task(client.get(path_of(IDS[0]), params={"wait": 60}))
        await eventually(lambda: service.hub.listeners == 2)
        service.hub.publish([news])
        await eventually(lambda: service.hub.listeners == 1)  # the other has seen it already
        assert not late.done()
        ingest(service, done(IDS[0], 2))
        assert state_of(await late) == "done"
    assert [state_of(answer) for answer in early] == ["running"]


async def test_no_wake_up_is_lost_to_commits_in_a_thread(service: Service, client: httpx.AsyncClient) -> None:
    states = ["pending", *["running"] * 3, "done"]
    for number in range(25):
        task_id = str(uuid.UUID(int=1000 + number))
        history = [arrival(task_id, record(task_id, at, state, result=RESULT)) for at, state in enumerate(states)]
        ingest(service, history[0])

        async def poll(task_id: str = task_id) -> list[str]:
            seen = ["pending"]
            while seen[-1] != "done":
                seen.append(state_of(await client.get(path_of(task_id), params={"wait": 60})))
            return seen

        polls = asyncio.gather(*[poll() for _ in range(4)])
        for each in history[1:]:
            await asyncio.to_thread(service.view.apply, [each.change], {})
            service.hub.publish([each])
        async with asyncio.timeout(PATIENCE_S):
            for seen in await polls:
                assert seen in (["pending", "running", "done"], ["pending", "done"])


async def test_a_task_that_is_removed_is_not_found(service: Service, client: httpx.AsyncClient) -> None:
    ingest(service, running(IDS[0], 1))
    async with waiting(service, client, IDS[0]) as answers:
        ingest(service, arrival(IDS[0], None))
    assert [answer.status_code for answer in answers] == [404]


async def test_a_task_that_is_swept_is_not_found(settings: Settings) -> None:
    service = alone(replaced(settings, task_ttl_s=0.5))
    sweeping = asyncio.create_task(service._sweep_for_ever())
    async with client_of(service) as client:
        ingest(service, running(IDS[0], 1))
        async with waiting(service, client, IDS[0]) as answers:
            pass
    assert [answer.status_code for answer in answers] == [404]
    sweeping.cancel()
    await service.close()


async def test_a_view_that_is_rebuilt_keeps_its_waiters(service: Service, client: httpx.AsyncClient) -> None:
    ingest(service, running(IDS[0], 1))
    async with waiting(service, client, IDS[0]) as answers:
        service.view.rebuild()
        ingest(service, running(IDS[0], 1), done(IDS[0], 2))
    assert [state_of(answer) for answer in answers] == ["done"]


async def test_at_the_end_everybody_is_answered_at_once(service: Service, client: httpx.AsyncClient) -> None:
    ingest(service, running(IDS[0], 1))
    async with waiting(service, client, IDS[0], count=20) as answers:
        service.hub.close()
    assert [state_of(answer) for answer in answers] == ["running"] * 20
    async with asyncio.timeout(PATIENCE_S):
        assert state_of(await client.get(path_of(IDS[0]), params={"wait": 60})) == "running"


async def test_a_client_that_goes_away_leaves_nothing_behind(service: Service) -> None:
    ingest(service, running(IDS[0], 1))
    before = asyncio.all_tasks()
    waits = [Exchange(service, path_of(IDS[0]), "wait=60") for _ in range(10)]
    await eventually(lambda: service.hub.listeners == 10)
    for wait in waits:
        wait.gone.set()
        await wait.end()
    assert service.hub.listeners == 0
    await eventually(lambda: asyncio.all_tasks() == before)


async def test_one_wait_too_many(service: Service, client: httpx.AsyncClient) -> None:
    service.hub._max_listeners = 1
    ingest(service, running(IDS[0], 1))
    async with waiting(service, client, IDS[0]):
        for path in (f"{path_of(IDS[0])}?wait=1", "/api/events?call_id=call"):
            refused = await client.get(path)
            assert (refused.status_code, refused.json()["type"]) == (503, "internal")
            assert refused.headers["retry-after"] == "5"
        assert state_of(await client.get(path_of(IDS[0]))) == "running"
        ingest(service, done(IDS[0], 2))


NO_NUMBERS = ["x", "", " 5", "5 ", "01", "nan", "inf", "1_0", "٣", "0x1", "5.", ".5", "5&wait=6", "--1"]
OUT_OF_RANGE = ["60.001", "61", "999999999", "-1", "-0.5"]


@pytest.mark.parametrize(
    ("wait", "kind"),
    [*[(wait, "value.type-invalid") for wait in NO_NUMBERS], *[(wait, "value.invalid") for wait in OUT_OF_RANGE]],
)
async def test_a_wait_that_is_none(service: Service, client: httpx.AsyncClient, wait: str, kind: str) -> None:
    ingest(service, done(IDS[0], 1))
    answer = await client.get(f"{path_of(IDS[0])}?wait={wait}")
    assert (answer.status_code, answer.json()["type"]) == (422, "request.validation-error")
    [detail] = answer.json()["detail"]
    assert (detail["location"], detail["type"]) == (["query", "wait"], kind)


async def test_time_held_does_not_count_as_time_to_answer(service: Service, client: httpx.AsyncClient) -> None:
    ingest(service, running(IDS[0], 1))
    for wait in ("0", "0.01", "0.01"):
        await client.get(path_of(IDS[0]), params={"wait": wait})
    text = (await client.get("/metrics")).text
    route = path_of("{task_id}")
    assert f'callstream_http_requests_total{{method="GET",route="{route}",status="200"}} 3.0' in text
    assert f'callstream_http_request_seconds_count{{route="{route}"}} 1.0' in text
    assert "callstream_http_listeners 0.0" in text
