"""Calls that go on for long, of which there are many, or that end where nothing is left to end them with."""

from collections.abc import Sequence
from typing import Any, cast

import pytest

from agents.vad import VadStage
from pipeline.publishing import RecordTooLargeError
from pipeline.records import OutgoingRecord
from pipeline.snapshots import decode_snapshot
from pipeline.stage import ExhaustedError
from schemas.stream import CallEnded
from tests.agents.conftest import OpenBench
from tests.agents.test_chain import CALL, send
from tests.harness import Bench, media_headers, sample_audio

SECONDS = 40.0  # two snapshots


def vad_of(bench: Bench) -> VadStage:
    return next(cast(VadStage, frame.stage) for frame in bench.frames if frame.stage.name == "vad")


async def test_a_snapshot_that_is_too_large_fails_no_call(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Segments of many hours in many channels: its chunks are kept instead."""
    async with open_bench() as plain:
        await send(plain, sample_audio(0, SECONDS))
    async with open_bench() as bench:
        publish, refused = bench.publish, []

        async def refuse(records: Sequence[OutgoingRecord]) -> list[int]:
            if records and records[0].topic == "snapshots" and records[0].key == CALL and len(records[0].value or b"") > 500:
                refused.append(records)
                raise RecordTooLargeError("too large")
            return await publish(records)

        monkeypatch.setattr(bench, "publish", refuse)
        await send(bench, sample_audio(0, SECONDS))
    assert len(refused) == 2
    assert caplog.text.count("no snapshot any more") == 1
    assert [(one.key, one.value) for one in bench.log["results"]] == [(one.key, one.value) for one in plain.log["results"]]
    assert bench.dead_letters() == []


async def test_a_call_that_lost_very_many_chunks_is_done_once(open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was lost of it is in no record any more."""
    refused: list[Sequence[OutgoingRecord]] = []
    async with open_bench(reorder_window_s=0.0) as bench:
        publish = bench.publish

        async def refuse(records: Sequence[OutgoingRecord]) -> list[int]:
            if records and records[0].topic == "snapshots" and (records[0].key or b"")[:1] == b"\xff" and not refused:
                refused.append(records)
                raise RecordTooLargeError("too large")
            return await publish(records)

        monkeypatch.setattr(bench, "publish", refuse)
        for sequence in (0, 2, 3):
            headers = media_headers(sequence, end=sequence == 3, position=sequence * 64_000)
            await bench.produce("media", CALL, sample_audio(2 * sequence, 2 * sequence + 2), headers)
        said = len(bench.log["results"])
        await bench.produce("media", CALL, sample_audio(2, 4), media_headers(1, position=64_000))
    assert len(refused) == 1
    assert {records[-1]["task"]["state"] for records in bench.transitions().values()} == {"done"}
    assert len(bench.log["results"]) == said
    assert bench.dead_letters() == []


async def test_of_a_call_that_has_ended_only_what_comes_again_is_kept(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await send(bench, sample_audio(0, SECONDS))
        assert vad_of(bench)._ended.get("call-1") == CallEnded("call-1", 80, [])
        before = len(bench.log["results"])
        await bench.produce("media", CALL, sample_audio(0, 1), media_headers(0))  # it came before
        assert bench.dead_letters() == []
        await bench.produce("media", CALL, sample_audio(0, 1), media_headers(1000))
        assert bench.dead_letters() == ["call.ended"]
        assert len(bench.log["results"]) == before


async def test_a_call_is_not_failed_where_no_thread_is_left_to_end_it(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end is the worker's: a successor ends the call."""

    async def no_thread(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    async with open_bench(idle_timeout_s=1.0) as bench:
        stage = vad_of(bench)
        await bench.produce("media", CALL, sample_audio(0, 3), media_headers(0))
        stage._calls["call-1"].last_arrival_s -= 10.0
        monkeypatch.setattr(stage, "_compute", no_thread)
        with pytest.raises(ExhaustedError):
            await bench.tick()
        assert {records[-1]["task"]["state"] for records in bench.transitions().values()} <= {"pending", "running"}


async def test_the_end_of_a_call_that_lost_very_many_chunks_outlives_its_worker(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without what it lost; else a chunk that comes yet would begin it anew on the next worker."""
    async with open_bench(reorder_window_s=0.0) as bench:
        publish = bench.publish

        async def refuse(records: Sequence[OutgoingRecord]) -> list[int]:
            saved = decode_snapshot(cast(Any, records[0])) if records and records[0].topic == "snapshots" else None
            if isinstance(saved, CallEnded) and saved.lost_sequences:
                raise RecordTooLargeError("too large")
            return await publish(records)

        monkeypatch.setattr(bench, "publish", refuse)
        for sequence in (0, 2, 3):
            await bench.produce("media", CALL, sample_audio(sequence, sequence + 1), media_headers(sequence, end=sequence == 3))
        ended, snapshot = bench.log["snapshots"][-2:]
    assert decode_snapshot(cast(Any, ended)) == CallEnded("call-1", 4, [])
    assert (snapshot.key, snapshot.value) == (CALL, None)
