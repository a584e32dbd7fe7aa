"""What becomes of a call's task when a fault of ours meets the call's begin."""

from pathlib import Path

import msgspec
import pytest

from agents.call_stage import CallStage
from agents.comparison import ComparisonStage
from agents.extraction import VoiceprintStage
from schemas.media import CallOptions
from schemas.stream import CallBegin, CallEnd
from tests.harness import Bench, bench_settings

MSGPACK = msgspec.msgpack.Encoder()


def broken(*_: object) -> None:
    raise RuntimeError("a fault of ours")


@pytest.mark.parametrize(("stage_type", "where"), [(VoiceprintStage, "new_evidence"), (ComparisonStage, "prepare")])
async def test_a_fault_at_the_begin_fails_the_task_which_would_stay_pending(
    stage_type: type[VoiceprintStage] | type[ComparisonStage], where: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(stage_type, where, broken)
    for name in ("start", "stop"):  # without the watch list, which is on Kafka
        monkeypatch.setattr(stage_type, name, getattr(CallStage, name))
    settings = bench_settings(tmp_path)
    stage = stage_type(settings)
    begin = CallBegin("call", 1, CallOptions(technologies=[stage.technology]), "")
    async with Bench(settings, stage) as bench:
        for record in (begin, begin, CallEnd("call", 1)):
            await bench.produce("prints", b"call", MSGPACK.encode(record))
    found = bench.transitions()["call", stage.technology]
    assert [(one["revision"], one["task"]["state"]) for one in found] == [(1, "running"), (2, "failed")]
    assert bench.dead_letters() == ["internal"]
    assert bench.frames[0].acknowledged["prints"] == [0, 1, 2]
