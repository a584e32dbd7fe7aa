"""How often, how many at once, and how many open tasks."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from pipeline.query.app import Service
from pipeline.query.errors import RequestRefusedError
from pipeline.query.keys import Keyring
from pipeline.query.open_tasks import LOST_AFTER_MS, OpenTasks
from pipeline.query.rate_limit import AtOnce, RateLimiter
from pipeline.query.view import TaskRow, View, now_ms
from pipeline.settings import Settings
from schemas.tasks import TaskState, Technology
from tests.query.conftest import DAY_S, alone, replaced
from tests.query.keyrings import KEYS, bearer, keys_toml
from tests.query.test_keys import client_at

WORD = Technology.GENDER_IDENTIFICATION
PATH = f"/api/technology/{WORD}"
CAPACITY = {
    "type": "request.forbidden",
    "message": "Request is forbidden.",
    "detail": [
        {
            "location": ["license"],
            "message": "Licensed processing capacity exceeded.",
            "type": "licensing.capacity-exceeded",
            "context": {},
        }
    ],
}


def test_the_window_of_each_client() -> None:
    now_s = 1000.0
    limiter = RateLimiter(2, 10, lambda: now_s)
    for client in ("a", "b"):
        for _ in range(2):
            assert limiter.refusal(client) is None
            limiter.count(client)
        refusal = limiter.refusal(client)
        assert refusal is not None
        assert refusal.headers["x-ratelimit-reset"] == "1010"
    assert limiter.refusal("a", 3) is None
    assert limiter.refusal("a", 0) is None
    now_s = 1010.0
    assert limiter.refusal("a") is None


def test_as_many_at_once_as_may_be() -> None:
    at_once = AtOnce(2)
    at_once.enter("a")
    at_once.enter("a")
    with pytest.raises(RequestRefusedError):
        at_once.enter("a")
    at_once.enter("a", 3)
    at_once.enter("b", 1)
    with pytest.raises(RequestRefusedError):
        at_once.enter("b", 1)
    for client in ("a", "a", "a", "b"):
        at_once.leave(client)
    assert at_once._counts == {}


@asynccontextmanager
async def made(settings: Settings) -> AsyncIterator[Service]:
    service = alone(settings)
    yield service
    await service.close()


async def test_a_rate_limit_of_its_own(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(keys_toml("one", "two", "nocalls", one="rate_limit = 2", two="rate_limit = 0"))
    limited = replaced(settings, api_keys_file=str(file), rate_limit=1, rate_window_s=3600)
    async with made(limited) as service, client_at(service) as client, client_at(service, ("192.0.2.99", 1)) as other:
        statuses = {}
        for name in KEYS:
            statuses[name] = [(await each.get("/schema", headers=bearer(name))).status_code for each in (client, other, client)]
        assert statuses == {"one": [200, 200, 429], "two": [200, 200, 200], "nocalls": [200, 429, 429]}
        assert (await client.get("/schema", headers=bearer("one"))).headers["x-ratelimit-limit"] == "2"


async def test_waits_count_among_the_requests_at_once(settings: Settings) -> None:
    async with made(replaced(settings, concurrency=2)) as service, client_at(service) as client:
        task_id = uuid.uuid4()
        service.view.add_pending(task_id, WORD)
        waits = [asyncio.create_task(client.get(f"{PATH}/{task_id}?wait=60", timeout=90)) for _ in range(2)]
        async with asyncio.timeout(60):
            while service.hub.listeners < 2:  # noqa: ASYNC110  # nothing to wait on
                await asyncio.sleep(0.01)
        refused = await client.get(f"{PATH}/{task_id}")
        assert refused.status_code == 429
        assert (refused.headers["retry-after"], refused.headers["x-ratelimit-limit"]) == ("1", "2")
        assert {"x-ratelimit-remaining", "x-ratelimit-reset"} <= set(refused.headers)
        assert (await client.get("/health")).status_code == 200
        async with client_at(service, ("192.0.2.99", 1)) as other:
            assert (await other.get(f"{PATH}/{task_id}")).status_code == 200
        service.hub.close()
        assert [(await wait).status_code for wait in waits] == [200, 200]
        assert (await client.get(f"{PATH}/{task_id}")).status_code == 200


@pytest.mark.parametrize(("own", "limit"), [("", 64), ("concurrency = 2", 2), ("concurrency = 0", None)])
async def test_keys_have_a_limit_of_requests_at_once_and_others_none(
    settings: Settings, tmp_path: Path, own: str, limit: int | None
) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(keys_toml("one", one=own))
    for with_keys, most in ((settings, None), (replaced(settings, api_keys_file=str(file)), limit)):
        async with made(with_keys) as service, client_at(service) as client:
            task_id = uuid.uuid4()
            service.view.add_pending(task_id, WORD, "one")
            path = f"{PATH}/{task_id}?wait=60"
            waits = [asyncio.create_task(client.get(path, headers=bearer("one"), timeout=90)) for _ in range(100)]
            async with asyncio.timeout(60):
                while service.hub.listeners + sum(wait.done() for wait in waits) < 100:  # noqa: ASYNC110  # as above
                    await asyncio.sleep(0.01)
            assert service.hub.listeners == (100 if most is None else most)
            service.hub.close()
            statuses = sorted([(await wait).status_code for wait in waits])
            assert statuses == [200] * (most or 100) + [429] * (100 - (most or 100))


async def test_too_many_headers(settings: Settings) -> None:
    async with made(settings) as service, client_at(service) as client:
        many = [(f"x-{n}", "1") for n in range(101)]
        for headers in (many, [("x-long", "1" * 40_000)]):
            answer = await client.get("/health", headers=headers)
            assert (answer.status_code, answer.json()["type"]) == (400, "request.invalid")
            assert answer.json()["detail"][0]["type"] == "headers.too-large"


def finished(task_id: uuid.UUID, owner: str | None = None) -> TaskRow:
    return TaskRow(str(task_id), WORD, 2, TaskState.DONE, b"{}", None, now_ms(), None, owner)


def start(open_tasks: OpenTasks, view: View, owner: str | None = None) -> uuid.UUID:
    task_id = uuid.uuid4()
    with open_tasks.place(owner):
        view.add_pending(task_id, WORD, owner)
    return task_id


def test_open_tasks_are_counted_in_the_view(settings: Settings, tmp_path: Path) -> None:
    limited = replaced(settings, open_tasks=2)
    view = View(tmp_path / "view", DAY_S)
    open_tasks = OpenTasks(limited, view, Keyring(limited))
    live = TaskRow(str(uuid.uuid4()), WORD, 1, TaskState.RUNNING, b"{}", None, now_ms(), "call-1")
    view.apply([live], {})
    first = start(open_tasks, view)
    second = start(open_tasks, view)
    with pytest.raises(RequestRefusedError) as refused:
        start(open_tasks, view)
    assert refused.value.status == 403
    assert msgspec.json.decode(refused.value.body) == CAPACITY
    running = msgspec.structs.replace(live, task_id=str(first), call_id=None)
    view.apply([running], {})
    view.close()

    view = View(tmp_path / "view", DAY_S)  # after a restart
    open_tasks = OpenTasks(limited, view, Keyring(limited))
    with pytest.raises(RequestRefusedError):
        start(open_tasks, view)
    view.apply([finished(first)], {})
    third = start(open_tasks, view)
    with pytest.raises(RequestRefusedError):
        start(open_tasks, view)
    view.apply([finished(second), finished(third)], {})
    assert view.started_open(0) == {}
    view.close()


def test_voice_activity_detection_is_not_counted(settings: Settings, view: View) -> None:
    view.add_pending(uuid.uuid4(), Technology.VOICE_ACTIVITY_DETECTION, "one")
    assert view.started_open(0) == {}
    limited = replaced(settings, open_tasks=1)
    start(OpenTasks(limited, view, Keyring(limited)), view, "one")
    assert view.started_open(0) == {"one": 1}


def test_a_record_that_was_faster_than_our_row_is_counted_too(settings: Settings, view: View) -> None:
    task_id = uuid.uuid4()
    view.apply([TaskRow(str(task_id), WORD, 1, TaskState.RUNNING, b"{}", None, now_ms())], {})
    assert view.started_open(0) == {}
    view.add_pending(task_id, WORD, "one")
    assert view.started_open(0) == {"one": 1}
    view.apply([TaskRow(str(task_id), WORD, 2, TaskState.RUNNING, b"{}", None, now_ms())], {})
    row = view.get(str(task_id))
    assert row is not None
    assert row.owner == "one"  # what a record leaves out is not forgotten


def test_a_place_is_given_back_when_nothing_was_started(settings: Settings, view: View) -> None:
    limited = replaced(settings, open_tasks=1)
    open_tasks = OpenTasks(limited, view, Keyring(limited))

    def fail() -> None:
        with open_tasks.place(None):
            with pytest.raises(RequestRefusedError):
                start(open_tasks, view)
            raise ConnectionError

    for _ in range(2):
        with pytest.raises(ConnectionError):
            fail()
    start(open_tasks, view)


def test_a_lost_task_holds_no_place_for_ever(settings: Settings, view: View) -> None:
    task_id = start(OpenTasks(settings, view, Keyring(settings)), view)
    assert view.started_open(now_ms() - LOST_AFTER_MS) == {None: 1}
    view._writer.execute("UPDATE tasks SET updated_at_ms = ? WHERE task_id = ?", (now_ms() - LOST_AFTER_MS - 1, str(task_id)))
    assert view.started_open(now_ms() - LOST_AFTER_MS) == {}


def test_a_limit_of_its_own_for_open_tasks(settings: Settings, view: View, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text(keys_toml("one", "two", one="open_tasks = 1"))
    limited = replaced(settings, open_tasks=3, api_keys_file=str(file))
    open_tasks = OpenTasks(limited, view, Keyring(limited))
    start(open_tasks, view, "one")
    with pytest.raises(RequestRefusedError):
        start(open_tasks, view, "one")
    start(open_tasks, view, "two")
    start(open_tasks, view, "two")
    with pytest.raises(RequestRefusedError):
        start(open_tasks, view, "two")


def test_the_count_uses_its_index(view: View) -> None:
    from pipeline.query.view_sql import STARTED_OPEN

    plan = " ".join(str(step) for step in view._reader.execute(f"EXPLAIN QUERY PLAN {STARTED_OPEN}", (0,)).fetchall())
    assert "tasks_open" in plan


async def test_a_full_licence_refuses_a_post(settings: Settings) -> None:
    async with made(replaced(settings, open_tasks=1)) as service, client_at(service) as client:
        body = {"voiceprints": ["QQ=="]}
        assert (await client.post(PATH, json=body)).status_code == 500  # Kafka is away: nothing was started
        assert (await client.post(PATH, json=body)).status_code == 500  # and no place is taken
        service.view.add_pending(uuid.uuid4(), WORD)
        answer = await client.post(PATH, json=body)
        assert (answer.status_code, answer.json()) == (403, CAPACITY)
        assert (await client.post(PATH, json={})).status_code == 422


@pytest.mark.broker
async def test_posts_at_once_do_not_overshoot(broker_bootstrap: str, topic_prefix: str, tmp_path: Path) -> None:
    from pipeline.topics import create_topics

    file = tmp_path / "keys.toml"
    file.write_text(keys_toml("one", "two"))
    settings = Settings(
        broker=broker_bootstrap,
        topic_prefix=topic_prefix,
        data_dir=str(tmp_path / "data"),
        partitions=1,
        open_tasks=5,
        api_keys_file=str(file),
    )
    await create_topics(settings)
    async with made(settings) as service, client_at(service) as client:
        posts = [
            client.post(PATH, json={"voiceprints": ["QQ=="]}, headers=bearer("one" if number % 2 else "two"))
            for number in range(20)
        ]
        answers = await asyncio.gather(*posts)
        assert sorted(answer.status_code for answer in answers) == [202] * 5 + [403] * 15
        accepted = next(answer for answer in answers if answer.status_code == 202)
        mine = "one" if answers.index(accepted) % 2 else "two"
        other = "two" if mine == "one" else "one"
        location = accepted.headers["location"]
        assert (await client.get(location, headers=bearer(mine))).status_code == 200
        assert (await client.get(location, headers=bearer(other))).status_code == 404
    async with made(settings) as service, client_at(service) as client:
        again = await client.post(PATH, json={"voiceprints": ["QQ=="]}, headers=bearer("one"))
        assert again.status_code == 403
