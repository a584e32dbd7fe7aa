"""The event stream of a call, with the real view and hub."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from pipeline.query import events, push
from pipeline.query.app import Service
from pipeline.query.keys import digest_of, new_key
from pipeline.scoring.voiceprint import DIMENSION, Voiceprint, encode
from pipeline.settings import Settings
from schemas.tasks import Technology
from tests.query.arrivals import (
    IDS,
    PATIENCE_S,
    RESULT,
    VAD,
    Event,
    arrival,
    done,
    eventually,
    ingest,
    path_of,
    record,
    running,
)
from tests.query.conftest import alone, client_of, replaced
from tests.query.exchange import Exchange


@asynccontextmanager
async def listening(service: Service, call_id: str = "call", key: str = "") -> AsyncIterator[Exchange]:
    exchange = Exchange(service, "/api/events", f"call_id={call_id}", key)
    try:
        start = await exchange.message()
        assert start["status"] == 200
        headers = dict(start["headers"])
        assert headers[b"content-type"] == b"text/event-stream"
        assert headers[b"cache-control"] == b"no-store"
        yield exchange
    finally:
        exchange.gone.set()
        await exchange.end()
    assert service.hub.listeners == 0


async def test_a_stream_begins_with_what_is_known_and_goes_on_with_what_comes(service: Service) -> None:
    other = record(IDS[2], 0, "running", call_id="other")
    ingest(service, running(IDS[0], 1, partial=RESULT), done(IDS[1], 5), arrival(IDS[2], other))
    last = running(IDS[0], 2, partial={"channels": [1]}, later_field="kept")
    async with listening(service) as exchange:
        first = await exchange.events(2)
        assert [(each.id, each.event) for each in first] == [(f"{IDS[0]}/1", "running"), (f"{IDS[1]}/5", "done")]
        assert first[1].data == json.loads(record(IDS[1], 5, "done", result=RESULT))
        ingest(service, running(IDS[0], 1), done(IDS[1], 5), last)
        ingest(service, last, done(IDS[0], 3))
        assert last.value is not None
        assert await exchange.events(2) == [
            Event(f"{IDS[0]}/2", "running", json.loads(last.value)),
            Event(f"{IDS[0]}/3", "done", json.loads(record(IDS[0], 3, "done", result=RESULT))),
        ]
        assert exchange._pieces.empty()


async def test_a_call_that_nobody_knows_yet(service: Service) -> None:
    async with listening(service, "%C3%A9t%C3%A9") as exchange:
        ingest(service, running(IDS[0], 0, call_id="été"))
        assert [each.id for each in await exchange.events(1)] == [f"{IDS[0]}/0"]


async def test_who_comes_back_is_told_the_current_states_again(service: Service) -> None:
    for revision in range(3):
        ingest(service, running(IDS[0], revision))
        async with listening(service) as exchange:
            assert [each.id for each in await exchange.events(1)] == [f"{IDS[0]}/{revision}"]


async def test_a_task_started_here_is_told_once_its_first_record_has_come(service: Service) -> None:
    service.view.add_pending(uuid.UUID(IDS[0]), VAD)
    async with listening(service) as exchange:
        ingest(service, arrival(IDS[0], record(IDS[0], 0, "pending")))
        assert [each.id for each in await exchange.events(1)] == [f"{IDS[0]}/0"]


async def test_a_call_of_very_many_tasks(service: Service) -> None:
    ingest(service, *[running(str(uuid.UUID(int=n)), 0) for n in range(150)])
    async with listening(service) as exchange:
        assert len({each.id for each in await exchange.events(100)}) == 100


async def test_records_that_are_read_again_for_a_new_view_are_not_told_again(service: Service) -> None:
    history = [running(IDS[0], revision) for revision in range(3)]
    ingest(service, *history)
    async with listening(service) as exchange:
        await exchange.events(1)
        service.view.rebuild()
        ingest(service, *history, done(IDS[0], 3))
        assert [each.id for each in await exchange.events(1)] == [f"{IDS[0]}/3"]


async def test_a_key_hears_and_waits_for_its_own_tasks(settings: Settings) -> None:
    keys = {name: new_key() for name in ("shop", "bank")}
    listed = ",".join(f"{name}:{digest_of(key.encode())}" for name, key in keys.items())
    service = alone(replaced(settings, api_keys=listed))
    ingest(service, running(IDS[0], 0, owner="shop"), running(IDS[1], 0, owner="bank"))
    async with listening(service, key=keys["shop"]) as exchange:
        assert [each.id for each in await exchange.events(1)] == [f"{IDS[0]}/0"]
        ingest(service, running(IDS[1], 1, owner="bank"), running(IDS[0], 1, owner="shop"))
        assert [each.id for each in await exchange.events(1)] == [f"{IDS[0]}/1"]
    async with client_of(service) as client, asyncio.timeout(PATIENCE_S):
        answer = await client.get(path_of(IDS[1]), params={"wait": 60}, headers={"x-api-key": keys["shop"]})
        assert answer.status_code == 404
        assert (await client.get("/api/events?call_id=call")).status_code == 401
    await service.close()


async def test_whose_a_task_is_does_not_hang_on_each_record(settings: Settings) -> None:
    keys = {name: new_key() for name in ("shop", "bank")}
    listed = ",".join(f"{name}:{digest_of(key.encode())}" for name, key in keys.items())
    service = alone(replaced(settings, api_keys=listed))
    service.view.add_pending(uuid.UUID(IDS[0]), VAD, "bank")
    async with listening(service, key=keys["shop"]) as shop:
        # one record says nothing of an owner, and one of nobody's call does not need to
        ingest(service, running(IDS[0], 0), running(IDS[1], 0))
        assert [each.id for each in await shop.events(1)] == [f"{IDS[1]}/0"]
    async with listening(service, key=keys["bank"]) as bank:
        await bank.events(2)
        ingest(service, running(IDS[0], 1))
        assert [each.id for each in await bank.events(1)] == [f"{IDS[0]}/1"]
    await service.close()


def written_keys(file: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The keys of two clients, and what the file says of each."""
    keys = {name: new_key() for name in ("shop", "bank")}
    entries = {name: f'[keys.{name}]\nsha256 = "{digest_of(key.encode())}"\n' for name, key in keys.items()}
    file.write_text("".join(entries.values()))
    return keys, entries


async def test_a_key_that_is_taken_away_hears_and_waits_no_more(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    keys, entries = written_keys(file)
    service = alone(replaced(settings, api_keys_file=str(file)))
    ingest(service, running(IDS[0], 0, owner="shop"), running(IDS[1], 0))
    async with listening(service, "other", keys["shop"]) as gone, listening(service, "call", keys["bank"]) as stays:
        wait = Exchange(service, path_of(IDS[0]), "wait=60", keys["shop"])
        await eventually(lambda: service.hub.listeners == 3)
        file.write_text(entries["bank"])
        service.keyring.reload()
        assert (await gone.message()) == {"type": "http.response.body", "body": b"", "more_body": False}
        assert (await wait.message())["status"] == 401
        assert [each.id for each in await stays.events(1)] == [f"{IDS[1]}/0"]
        file.write_text(entries["bank"] + "calls = false\n")
        service.keyring.reload()
        ingest(service, running(IDS[1], 1), running(IDS[2], 0, owner="bank"))
        assert [each.id for each in await stays.events(1)] == [f"{IDS[2]}/0"]
        await wait.end()
    await service.close()


async def test_a_key_that_is_taken_away_while_its_lists_come_starts_nothing(settings: Settings, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    keys, entries = written_keys(file)
    service = alone(replaced(settings, api_keys_file=str(file)))
    voiceprint = encode(Voiceprint(np.ones(DIMENSION, np.float32), 3.0))

    async def lists() -> AsyncIterator[bytes]:
        yield b'{"voiceprints": ["'
        file.write_text(entries["bank"])
        service.keyring.reload()
        yield voiceprint.encode() + b'"]}'

    async with client_of(service) as client:
        path = f"/api/technology/{Technology.GENDER_IDENTIFICATION.value}"
        headers = {"authorization": f"Bearer {keys['shop']}", "content-type": "application/json"}
        answer = await client.post(path, content=lists(), headers=headers)
    assert answer.status_code == 401
    await service.close()


async def test_silence_is_broken_by_a_comment(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push, "KEEP_ALIVE_S", 0.05)
    async with listening(service) as exchange:
        assert [await exchange.body() for _ in range(2)] == [b": keep-alive\n\n"] * 2
        ingest(service, running(IDS[0], 0))
        assert b"id: " in await exchange.body()


async def test_streams_end_in_order_when_the_service_does(service: Service) -> None:
    async with listening(service) as exchange, listening(service, "other") as other:
        service.hub.close()
        for each in (exchange, other):
            assert (await each.message()) == {"type": "http.response.body", "body": b"", "more_body": False}
            await each.end()
    async with listening(service) as exchange:  # and one that comes now, too
        assert await exchange.body() == b""


@pytest.mark.parametrize("ends", ["too far behind", "shutdown", "gone"])
async def test_a_reader_that_takes_nothing_holds_nothing_up(service: Service, ends: str) -> None:
    async with listening(service) as exchange:
        exchange.reading.clear()
        ingest(service, running(IDS[0], 0))
        await asyncio.sleep(0.01)
        match ends:
            case "too far behind":
                ingest(service, *[running(IDS[0], revision) for revision in range(1, events.MAX_EVENTS + 5)])
            case "shutdown":
                service.hub.close()
            case _:
                exchange.gone.set()
        await exchange.end()
        assert service.hub.listeners == 0


@pytest.mark.parametrize(
    ("query", "kind"),
    [("", "value.missing"), ("call_id=", "value.invalid"), ("call_id=" + "x" * 129, "value.invalid"),
     ("call_id=a&call_id=b", "value.invalid")],
)  # fmt: skip
async def test_a_call_id_that_is_none(client: httpx.AsyncClient, query: str, kind: str) -> None:
    answer = await client.get(f"/api/events?{query}")
    assert (answer.status_code, answer.json()["type"]) == (422, "request.validation-error")
    [detail] = answer.json()["detail"]
    assert (detail["location"], detail["type"]) == (["query", "call_id"], kind)


async def test_the_longest_call_id(service: Service) -> None:
    async with listening(service, "%C3%A9" * 128):
        pass


async def test_waits_and_streams_are_described(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/schema")).json()["paths"]
    named = {each["name"]: each for each in paths[path_of("{task_id}")]["get"]["parameters"]}
    assert named["wait"]["schema"] == {"type": "number", "minimum": 0, "maximum": 60, "default": 0}
    assert (named["wait"]["in"], named["wait"]["required"]) == ("query", False)
    assert "/api/events" not in paths  # OpenAPI has no words for a stream that does not end
    assert "/api/events" in (await client.get("/schema")).json()["info"]["description"]
