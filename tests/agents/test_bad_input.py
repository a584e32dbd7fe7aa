"""What can be wrong with a call: each ends in the right final state or in `dead-letters`; a call beside it is not touched."""

import base64
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import numpy as np
import pytest

from pipeline.scoring.voiceprint import DIMENSION, EMPTY, Voiceprint, encode, pack
from schemas.tasks import Technology
from tests.agents.conftest import OpenBench
from tests.harness import Bench, media_headers, sample_audio

VAD = Technology.VOICE_ACTIVITY_DETECTION.value
VOICEPRINT = Technology.VOICEPRINT_EXTRACTION.value
LANGUAGE = Technology.LANGUAGE_IDENTIFICATION.value
GENDER = Technology.GENDER_IDENTIFICATION.value
COMPARISON = Technology.VOICEPRINT_COMPARISON.value
ALL = (VAD, VOICEPRINT, LANGUAGE, GENDER)
SECOND = 8000 * 2 * 2


@pytest.mark.parametrize(
    ("key", "value", "headers", "error_type"),
    [
        (b"bad", b"\0\0", {}, "header.missing"),
        (b"bad", b"\0\0", media_headers(0) | {"sequence": "-1"}, "header.invalid"),
        (b"bad", b"\0\0", media_headers(0) | {"sequence": "1e3"}, "header.invalid"),
        (b"bad", b"\0\0", media_headers(0) | {"sequence": "9" * 16}, "header.invalid"),
        (b"bad", b"\0\0", media_headers(0) | {"position": "x"}, "header.invalid"),
        (b"bad", b"\0\0", media_headers(0) | {"end": "yes"}, "header.invalid"),
        (b"bad", b"\0\0", media_headers(0) | {"encoding": "opus"}, "encoding.unknown"),
        (b"bad", b"\0\0", media_headers(0) | {"sample-rate": "999999"}, "sample-rate.invalid"),
        (b"bad", b"\0\0", media_headers(0) | {"sample-rate": "0"}, "sample-rate.invalid"),
        (b"bad", b"\0\0", media_headers(0) | {"channels": "9"}, "channels.invalid"),
        (b"bad", b"\0" * 1_500_000, media_headers(0), "chunk.too-large"),
        (None, b"\0\0", media_headers(0), "key.invalid"),
        (b"x" * 129, b"\0\0", media_headers(0), "key.invalid"),
        (b"\xff\xfe", b"\0\0", media_headers(0), "key.invalid"),
        (b"bad", b"", media_headers(0), "chunk.empty"),
        (b"bad", b"\0\0", media_headers(0, options="{"), "options.invalid"),
        (b"bad", b"\0\0", media_headers(0, options='{"technologies": ["telepathy"]}'), "options.invalid"),
        (b"bad", b"\0\0", media_headers(0, options='{"tecnologies": []}'), "options.invalid"),
        (b"bad", b"\0\0", media_headers(0, options='{"technologies": []}'), "options.invalid"),
        (b"bad", b"\0\0", media_headers(0, options="[]"), "options.invalid"),
    ],
)
async def test_a_bad_record_is_buried_untouched_and_harms_no_other_call(
    open_bench: OpenBench, key: bytes | None, value: bytes, headers: dict[str, str], error_type: str
) -> None:
    async with open_bench() as bench:
        await bench.produce("media", b"good", sample_audio(0, 1), media_headers(0, options='{"technologies": ["' + VAD + '"]}'))
        await bench.produce("media", key, value, headers)
        await bench.produce("media", b"good", sample_audio(1, 2), media_headers(1, end=True))
    (letter,) = bench.log["dead-letters"]
    assert bench.dead_letters() == [error_type]
    assert (letter.key, letter.value) == (key, value)
    assert letter.text("error-message")
    assert letter.text("stage") == "vad"
    assert letter.text("source") == "media/0/1"
    assert {name for name, _ in letter.headers} >= set(headers)
    assert bench.final("good", VAD)["task"]["state"] == "done"
    assert bench.frames[0].acknowledged["media"] == ([0, 1, 2] if error_type != "chunk.empty" else [0])


async def test_tasks_that_are_rejected_for_their_options_keep_the_ids_that_these_name(open_bench: OpenBench) -> None:
    faults: list[dict[str, Any]] = [{"technologies": ["x"]}, {"channel_numbers": [1]}, {"start_time": -1}]
    for number, fault in enumerate(faults):
        options = json.dumps({"correlation_id": "corr", "request_id": "req", **fault})
        async with open_bench() as bench:
            headers = media_headers(0, end=True, options=options) | {"x-correlation-id": "other"}
            await bench.produce("media", b"c%d" % number, sample_audio(0, 1), headers)
        assert {record.text("x-correlation-id") for record in bench.log["results"]} == {"corr"}
        assert {record.text("x-request-id") for record in bench.log["results"]} == {"req"}


async def test_headers_that_are_not_text_are_buried(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        bench._append("media", b"bad", b"\0\0", (("sequence", b"\xff"),))
        await bench.settle()
    assert bench.dead_letters() == ["header.invalid"]


async def test_options_that_cannot_be_followed_reject_the_tasks(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await bench.produce("media", b"c", sample_audio(0, 1), media_headers(0, options="not json"))
        await bench.produce("media", b"c", sample_audio(1, 2), media_headers(1, end=True))
    assert {technology for _, technology in bench.transitions()} == set(ALL)
    for records in bench.transitions().values():
        assert [record["task"]["state"] for record in records] == ["pending", "running", "rejected"]
        assert records[-1]["error"]["type"] == "task.validation-error"
        assert "options" in records[-1]["error"]["detail"][0]["message"]
    assert bench.dead_letters() == ["options.invalid"]


async def test_an_unknown_language_rejects_the_language_task_alone(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        options = json.dumps({"technologies": [VAD, LANGUAGE], "languages": ["en", "tlh"]})
        await bench.produce("media", b"c", sample_audio(0, 2), media_headers(0, end=True, options=options))
    assert bench.final("c", VAD)["task"]["state"] == "done"
    rejected = bench.final("c", LANGUAGE)
    assert rejected["task"]["state"] == "rejected"
    assert rejected["error"]["detail"][0]["location"] == ["options", "languages", 1]


@pytest.mark.parametrize(
    "text",
    [
        "!!!",
        "",
        base64.b64encode(b"short").decode(),
        base64.b64encode(pack(EMPTY)[:4] + b"\7" + pack(EMPTY)[5:]).decode(),
        encode(Voiceprint(np.full(DIMENSION, np.nan, np.float32), 1.0)),
        encode(Voiceprint(np.full(DIMENSION, np.inf, np.float32), 1.0)),
    ],
)
async def test_a_reference_that_is_no_voiceprint_rejects_the_comparison_alone(open_bench: OpenBench, text: str) -> None:
    async with open_bench() as bench:
        options = json.dumps({"technologies": [VAD, COMPARISON], "compare_with": [encode(EMPTY), text]})
        await bench.produce("media", b"c", sample_audio(0, 2), media_headers(0, end=True, options=options))
    assert bench.final("c", VAD)["task"]["state"] == "done"
    rejected = bench.final("c", COMPARISON)
    assert rejected["task"]["state"] == "rejected"
    assert rejected["error"]["detail"][0]["location"] == ["compare_with", 1]


async def test_comparison_without_anything_to_compare_with_is_rejected(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        options = json.dumps({"technologies": [COMPARISON]})
        await bench.produce("media", b"c", sample_audio(0, 2), media_headers(0, end=True, options=options))
    assert bench.final("c", COMPARISON)["task"]["state"] == "rejected"


def _noise(seconds: float) -> bytes:
    return np.random.default_rng(1).integers(-32768, 32767, int(16000 * seconds), dtype=np.int16).tobytes()


def _square(seconds: float) -> bytes:
    wave = np.where(np.arange(int(8000 * seconds)) // 20 % 2, 32767, -32768).astype(np.int16)
    return np.repeat(wave, 2).tobytes()


@pytest.mark.parametrize(
    "audio",
    [b"", bytes(int(0.05 * SECOND)), bytes(3 * SECOND), bytes(SECOND)[:-1], _noise(4), _square(4)],
    ids=["empty", "50 ms", "silence", "odd byte count", "noise", "full-scale square wave"],
)
async def test_a_call_without_speech_is_done_with_no_segments_and_empty_scores(open_bench: OpenBench, audio: bytes) -> None:
    options = json.dumps({"compare_with": [encode(EMPTY)]})
    async with open_bench() as bench:
        await bench.produce("media", b"c", audio, media_headers(0, end=True, options=options))
    finals = {technology: records[-1] for (_, technology), records in bench.transitions().items()}
    assert finals.keys() == {*ALL, COMPARISON}
    assert {final["task"]["state"] for final in finals.values()} == {"done"}
    for channel in finals[VAD]["result"]["channels"]:
        assert (channel["segments"], channel["speech_length"]) == ([], 0)
    assert [channel["scores"] for channel in finals[LANGUAGE]["result"]["channels"]] == [[], []]
    assert all("male" not in channel for channel in finals[GENDER]["result"]["channels"])
    assert [channel["speech_length"] for channel in finals[VOICEPRINT]["result"]["channels"]] == [0, 0]
    assert finals[COMPARISON]["result"]["scores"]["values"] == []
    assert bench.dead_letters() == []


async def test_a_repeated_sequence_counts_once_and_a_jump_is_silence(open_bench: OpenBench) -> None:
    options = json.dumps({"technologies": [VAD]})
    async with open_bench(reorder_window_s=0.0) as bench:
        for sequence in (0, 1, 1, 0, 3):
            headers = media_headers(sequence, end=sequence == 3) | ({"options": options} if sequence == 0 else {})
            await bench.produce("media", b"c", sample_audio(sequence, sequence + 1), headers)
        await bench.tick()
    channels = bench.final("c", VAD)["result"]["channels"]
    assert [channel["missing"] for channel in channels] == [[{"start_time": 2.0, "end_time": 3.0}]] * 2
    assert bench.dead_letters() == []


async def test_a_call_that_goes_on_after_its_end_is_buried_and_its_result_stays(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await bench.produce("media", b"c", sample_audio(0, 2), media_headers(0, end=True))
        before = bench.values()
        await bench.produce("media", b"c", sample_audio(2, 3), media_headers(1))
        await bench.produce("media", b"c", sample_audio(0, 2), media_headers(0, end=True))
        assert bench.values() == before
    assert bench.dead_letters() == ["call.ended"]


async def test_a_call_that_never_ends_is_ended_by_the_wall_clock(open_bench: OpenBench) -> None:
    async with open_bench(idle_timeout_s=0.001) as bench:
        vad = bench.frames[0]
        await bench.produce("media", b"c", sample_audio(0, 2), media_headers(0))
        vad.caught_up = False  # there may be more of it in the partition
        await bench.tick()
        assert "c" in {call for call, _ in bench.transitions()}
        assert bench.final("c", VAD)["task"]["state"] == "running"
        vad.caught_up = True
        await bench.tick()
    assert {bench.final("c", technology)["task"]["state"] for technology in ALL} == {"done"}


async def test_no_call_is_ended_for_what_it_could_not_send(open_bench: OpenBench) -> None:
    """Its producer waits for Kafka too, and a while longer."""
    async with open_bench(idle_timeout_s=30.0) as bench:
        vad = bench.frames[0]
        await bench.produce("media", b"c", sample_audio(0, 2), media_headers(0))
        cast(Any, vad.stage)._calls["c"].last_arrival_s -= 70.0
        vad.answering_s = time.monotonic() - 10.0
        await bench.tick()
        assert bench.final("c", VAD)["task"]["state"] == "running"
        vad.answering_s -= 60.0
        vad.answers_again = True  # while it is asked
        await bench.tick()
        assert bench.final("c", VAD)["task"]["state"] == "running"
        vad.answers_again = False
        await bench.produce("media", b"c", sample_audio(2, 4), media_headers(1))
        cast(Any, vad.stage)._calls["c"].last_arrival_s -= 70.0
        vad.answering_s -= 31.0
        await bench.tick()
    assert bench.final("c", VAD)["task"]["state"] == "done"
    assert bench.dead_letters() == []


async def test_a_call_that_never_ends_is_ended_by_the_time_of_its_records(open_bench: OpenBench) -> None:
    async with open_bench(idle_timeout_s=60) as bench:
        await bench.produce("media", b"c", sample_audio(0, 2), media_headers(0))
        bench.clock_s += 59
        await bench.produce("media", b"c", sample_audio(2, 3), media_headers(1))
        assert bench.final("c", VAD)["task"]["state"] == "running"
        bench.clock_s += 60
        await bench.produce("media", b"c", sample_audio(3, 4), media_headers(2))
    assert bench.final("c", VAD)["task"]["state"] == "done"
    assert bench.dead_letters() == ["call.ended"]


async def test_a_call_without_end_is_cut_at_the_longest_call(open_bench: OpenBench) -> None:
    async with open_bench(max_call_s=2.0) as bench:
        for sequence in range(4):
            await bench.produce("media", b"c", sample_audio(sequence, sequence + 1), media_headers(sequence))
    assert bench.final("c", VAD)["task"]["state"] == "done"
    assert bench.dead_letters() == ["call.ended"] * 2


REQUEST = "123e4567-e89b-12d3-a456-426614174000"


async def start_task(bench: Bench, body: object, key: bytes | None = REQUEST.encode()) -> None:
    value = body if isinstance(body, bytes) else json.dumps(body).encode()
    await bench.produce("requests", key, value, {"x-correlation-id": "corr"})


@pytest.mark.parametrize(
    ("key", "body", "error_type"),
    [
        (REQUEST.encode(), b"{", "request.invalid"),
        (REQUEST.encode(), {}, "request.invalid"),
        (REQUEST.encode(), {"technology": "telepathy", "voiceprints": []}, "request.invalid"),
        (REQUEST.encode(), {"technology": VAD}, "request.invalid"),
        (REQUEST.encode(), {"voiceprints": [1]}, "request.invalid"),
        (b"no-uuid", {"voiceprints": [encode(EMPTY)]}, "key.invalid"),
        (b"\xff", {"voiceprints_a": [encode(EMPTY)], "voiceprints_b": [encode(EMPTY)]}, "key.invalid"),
    ],
)
async def test_a_bad_request_is_buried_once(open_bench: OpenBench, key: bytes, body: object, error_type: str) -> None:
    async with open_bench() as bench:
        await start_task(bench, body, key)
    assert bench.dead_letters() == [error_type]
    assert bench.transitions() == {}


@pytest.mark.parametrize(
    ("body", "location"),
    [
        ({"voiceprints": []}, ["voiceprints"]),
        ({"voiceprints": [encode(EMPTY), "AAAA"]}, ["voiceprints", 1]),
        ({"voiceprints_a": [encode(EMPTY)]}, ["voiceprints_b"]),
        ({"voiceprints_a": [encode(EMPTY)], "voiceprints_b": ["!"]}, ["voiceprints_b", 0]),
    ],
)
async def test_a_request_with_wrong_lists_is_rejected(open_bench: OpenBench, body: object, location: list[object]) -> None:
    async with open_bench() as bench:
        await start_task(bench, body)
    (records,) = bench.transitions().values()
    assert [record["task"] for record in records] == [
        {"task_id": REQUEST, "state": s} for s in ("pending", "running", "rejected")
    ]
    assert records[-1]["error"]["detail"][0]["location"] == location
    assert bench.dead_letters() == []


async def test_a_request_without_key_gets_an_id_that_a_replay_repeats(open_bench: OpenBench) -> None:
    ids = []
    for _ in range(2):
        async with open_bench() as bench:
            await start_task(bench, {"voiceprints": [encode(EMPTY)]}, None)
        ((_, technology),) = bench.transitions()
        assert technology == GENDER
        ids.append(bench.log["results"][0].key)
    assert ids[0] == ids[1]


Vector = Callable[[], Voiceprint]


async def test_a_comparison_of_unequal_lists_is_row_major_with_a_as_columns(open_bench: OpenBench) -> None:
    random = np.random.default_rng(3)
    a, b, c = (Voiceprint(random.standard_normal(DIMENSION).astype(np.float32), 3.0) for _ in range(3))
    body = {"voiceprints_a": [encode(a), encode(b), encode(c)], "voiceprints_b": [encode(c), encode(a)]}
    async with open_bench() as bench:
        await start_task(bench, body)
    (records,) = bench.transitions().values()
    scores = records[-1]["result"]["scores"]
    assert (scores["columns_count"], scores["rows_count"], len(scores["values"])) == (3, 2, 6)
    rows = np.array(scores["values"]).reshape(2, 3)
    assert rows.argmax(axis=1).tolist() == [2, 0]
    assert rows[0, 0] == rows[1, 2]


async def test_a_voiceprint_without_speech_has_no_gender(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await start_task(bench, {"voiceprints": [encode(EMPTY)]})
    (records,) = bench.transitions().values()
    assert records[-1]["result"] == {"voiceprints": [{"speech_length": 0.0}]}


@pytest.mark.parametrize(
    "options",
    [
        json.dumps({"compare_with": [encode(EMPTY)] * 900}),
        json.dumps({"languages": ["xx"] * 60_000}),
        json.dumps({"x" * 700_000: 1}),
        "[" * 5000,
        json.dumps({"correlation_id": "c" * 129}),
    ],
    ids=["references", "languages", "key", "nesting", "correlation id"],
)
async def test_options_of_any_size_end_in_final_states(open_bench: OpenBench, options: str) -> None:
    async with open_bench() as bench:
        await bench.produce("media", b"c", sample_audio(0, 3), media_headers(0, end=True, options=options))
    assert {(technology) for _, technology in bench.transitions()} >= set(ALL)
    for records in bench.transitions().values():
        assert records[-1]["task"]["state"] in ("done", "rejected")
    assert any(records[-1]["task"]["state"] == "rejected" for records in bench.transitions().values())


async def test_a_huge_correlation_id_is_replaced_and_its_request_answered(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await bench.produce(
            "requests",
            REQUEST.encode(),
            json.dumps({"voiceprints": [encode(EMPTY)]}).encode(),
            {"x-correlation-id": "c" * 3_000_000},
        )
    (records,) = bench.transitions().values()
    assert records[-1]["task"]["state"] == "done"
    assert bench.dead_letters() == []


async def test_a_call_that_goes_on_before_its_end_had_its_turn_is_not_ended(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end waits behind the records of the call that wait."""
    jobs: list[Callable[[], Awaitable[None]]] = []

    async def submit(_: object, job: Callable[[], Awaitable[None]]) -> None:
        jobs.append(job)

    async with open_bench(idle_timeout_s=30.0) as bench:
        vad = bench.frames[0]
        monkeypatch.setattr(vad, "submit", submit)
        await bench.produce("media", b"c", sample_audio(0, 2), media_headers(0))
        for sequence in (1, 2):  # and it can be ended again
            cast(Any, vad.stage)._calls["c"].last_arrival_s -= 70.0
            await bench.tick()
            await bench.produce("media", b"c", sample_audio(2 * sequence, 2 * sequence + 2), media_headers(sequence))
            assert len(jobs) == sequence
            await jobs[-1]()
            await bench.settle()
            assert bench.final("c", VAD)["task"]["state"] == "running"
        await bench.produce("media", b"c", sample_audio(6, 7), media_headers(3, end=True))
        await bench.settle()
    assert bench.final("c", VAD)["task"]["state"] == "done"
    assert bench.dead_letters() == []


async def test_an_older_record_among_newer_ones_makes_no_gap_in_time(open_bench: OpenBench) -> None:
    async with open_bench(idle_timeout_s=60) as bench:
        for sequence, at_s in enumerate((0, 50, 0, 70)):
            bench.clock_s = 1_000_000.0 + at_s
            await bench.produce("media", b"c", sample_audio(sequence, sequence + 1), media_headers(sequence, end=sequence == 3))
    assert bench.final("c", VAD)["task"]["state"] == "done"
    assert bench.dead_letters() == []
