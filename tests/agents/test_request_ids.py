"""The ids of an HTTP request reach every record of what it started."""

import json

from pipeline.scoring.voiceprint import EMPTY, encode
from schemas.media import Header
from schemas.tasks import Technology
from tests.agents.conftest import OpenBench
from tests.harness import Bench, media_headers, sample_audio

VOICEPRINT = encode(EMPTY)
TASK_ID = b"123e4567-e89b-12d3-a456-426614174000"


def request_ids(bench: Bench) -> set[str | None]:
    assert bench.dead_letters() == []
    return {record.text(Header.REQUEST_ID) for record in bench.log["results"]}


async def heard(open_bench: OpenBench, **options: object) -> Bench:
    text = json.dumps({"technologies": list(Technology), "compare_with": [VOICEPRINT], **options})
    async with open_bench() as bench:
        await bench.produce("media", b"call", sample_audio(0, 4), media_headers(0, options=text, end=True))
    assert {technology for _, technology in bench.transitions()} == set(Technology)
    return bench


async def test_of_a_call_that_came_as_a_file(open_bench: OpenBench) -> None:
    assert request_ids(await heard(open_bench, request_id="the-request", is_file=True)) == {"the-request"}


async def test_of_a_call_that_did_not(open_bench: OpenBench) -> None:
    bench = await heard(open_bench, correlation_id="the-call")
    assert request_ids(bench) == {None}
    names = {tuple(name for name, _ in record.headers) for record in bench.log["results"]}
    assert names == {("content-type", "x-correlation-id", "source")}


async def test_of_lists(open_bench: OpenBench) -> None:
    body = json.dumps({"voiceprints": [VOICEPRINT]}).encode()
    for given, kept in (
        ({Header.REQUEST_ID: "the-request"}, "the-request"),
        ({}, None),
        ({Header.REQUEST_ID: "x" * 129}, None),
    ):
        async with open_bench() as bench:
            await bench.produce("requests", TASK_ID, body, given)
        assert request_ids(bench) == {kept}
        assert bench.final(TASK_ID.decode(), Technology.GENDER_IDENTIFICATION)["task"]["state"] == "done"
