"""Records of a call that are turned away: what becomes of the call, and of what comes behind them under their numbers."""

import asyncio
import json

import pytest

from pipeline.records import Record, headers_of
from schemas.tasks import Technology
from tests.agents.conftest import OpenBench
from tests.harness import media_headers, sample_audio

VAD = Technology.VOICE_ACTIVITY_DETECTION.value


@pytest.mark.parametrize(
    "headers",
    [{"position": str(2**50)}, {"position": str(2**50), "end": "1"}, {"correlation": ""}],
    ids=["position", "position at the end", "correlation id"],
)
async def test_a_first_record_that_is_turned_away_does_not_use_up_the_call(
    open_bench: OpenBench, headers: dict[str, str]
) -> None:
    """Whatever it waited for: the call begins with what can be heard."""
    options = json.dumps({"technologies": [VAD]})
    async with open_bench(idle_timeout_s=0.001, reorder_window_s=0.001) as bench:
        if "correlation" in headers:
            bad = (*headers_of(media_headers(0, options=options)), ("x-correlation-id", b"\xff"))
            bench._append("media", b"c", sample_audio(0, 1), bad)
            await bench.settle()
        else:
            await bench.produce("media", b"c", sample_audio(0, 1), media_headers(0) | headers)
            await asyncio.sleep(0.01)
            await bench.tick()
            assert bench.log["results"] == []
            await bench.produce("media", b"c", sample_audio(0, 1), media_headers(0, options=options))
        await bench.produce("media", b"c", sample_audio(1, 2), media_headers(1, end=True))
    assert bench.final("c", VAD)["task"]["state"] == "done"
    assert "missing" not in bench.final("c", VAD)["result"]["channels"][0]
    assert bench.dead_letters() == ([] if "correlation" in headers else ["gap.too-long"])


async def test_a_lost_chunk_of_two_minutes_becomes_silence(open_bench: OpenBench) -> None:
    """As long as one can be: 1 MiB of µ-law at 8000 Hz."""
    lost, options = 1_048_576, json.dumps({"technologies": [VAD]})
    headers = {"encoding": "mulaw", "channels": "1"}
    async with open_bench(reorder_window_s=0.0) as bench:
        await bench.produce("media", b"c", b"\xff" * lost, media_headers(0, options=options) | headers)
        for sequence in (2, 3):
            await bench.produce("media", b"c", b"\xff" * 8000, media_headers(sequence, end=sequence == 3) | headers)
    (channel,) = bench.final("c", VAD)["result"]["channels"]
    assert channel["missing"] == [{"start_time": 131.072, "end_time": 262.144}]
    assert bench.dead_letters() == []


async def test_an_empty_record_has_one_letter_whatever_else_is_wrong_with_it(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await bench.produce("media", b"c", sample_audio(0, 1), media_headers(0))
        await bench.produce("media", b"c", b"", media_headers(1) | {"encoding": "mulaw"})
        await bench.produce("media", b"c", sample_audio(1, 2), media_headers(2, end=True))
    assert bench.dead_letters() == ["chunk.empty"]
    assert bench.final("c", VAD)["task"]["state"] == "done"


async def test_a_chunk_behind_an_empty_one_of_its_number_is_not_lost_without_a_word(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        for sequence, audio in ((0, sample_audio(0, 1)), (1, b""), (1, b""), (1, sample_audio(1, 2)), (0, sample_audio(0, 1))):
            await bench.produce("media", b"c", audio, media_headers(sequence))
        await bench.produce("media", b"c", sample_audio(2, 3), media_headers(2, end=True))
        await bench.produce("media", b"c", sample_audio(1, 2), media_headers(1))
    assert bench.dead_letters() == ["chunk.empty", "chunk.empty", "chunk.late", "chunk.late"]
    assert bench.final("c", VAD)["task"]["state"] == "done"


async def test_audio_that_meets_an_empty_record_that_waits_is_late(open_bench: OpenBench) -> None:
    """As it is when that has been taken, which it may have been before a takeover."""
    async with open_bench() as bench:
        for sequence, audio in ((0, sample_audio(0, 1)), (2, b""), (2, sample_audio(2, 3)), (1, sample_audio(1, 2))):
            await bench.produce("media", b"c", audio, media_headers(sequence))
        await bench.produce("media", b"c", sample_audio(3, 4), media_headers(3, end=True))
    assert bench.dead_letters() == ["chunk.empty", "chunk.late"]
    assert bench.final("c", VAD)["task"]["state"] == "done"


async def test_an_empty_record_that_comes_again_has_no_letter_of_another_type(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        for sequence, audio in ((0, sample_audio(0, 1)), (1, b"")):
            await bench.produce("media", b"c", audio, media_headers(sequence))
        await bench.produce("media", b"c", sample_audio(1, 2), media_headers(2, end=True))
        await bench.produce("media", b"c", b"", media_headers(1))
        await bench.produce("media", b"c", b"", media_headers(3))
    assert bench.dead_letters() == ["chunk.empty", "chunk.empty", "call.ended"]


async def test_an_end_that_meets_an_empty_record_of_its_number_is_told(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        for sequence, end in ((2, False), (2, True)):
            await bench.produce("media", b"c", b"", media_headers(sequence, end=end))
    assert bench.dead_letters() == ["chunk.empty", "chunk.late"]


async def test_a_chunk_from_another_partition_is_turned_away(open_bench: OpenBench) -> None:
    """Its worker may be another one, which would hear a call of its own in it."""
    options = json.dumps({"technologies": [VAD]})
    async with open_bench() as bench:
        await bench.produce("media", b"c", sample_audio(0, 2), media_headers(0, options=options))
        elsewhere = Record("media", 1, 0, b"c", sample_audio(2, 4), headers_of(media_headers(1)), bench.clock_s + 1000)
        await bench.frames[0].deliver(elsewhere)
        await bench.produce("media", b"c", sample_audio(2, 4), media_headers(1, end=True))
    assert bench.dead_letters() == ["partition.changed"]
    assert "missing" not in bench.final("c", VAD)["result"]["channels"][0]
    assert bench.final("c", VAD)["task"]["state"] == "done"
