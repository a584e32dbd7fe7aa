"""A language task that ends before its call, because every channel is sure; and one whose languages are unknown."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from schemas.stream import Fault
from tests.agents.conftest import OpenBench
from tests.agents.test_chain import LANGUAGE, VOICEPRINT, send
from tests.harness import Bench, sample_audio

SECONDS = 30


async def heard(open_bench: OpenBench, cuts: list[int] | None = None, **changed: Any) -> Bench:
    async with open_bench(**{"language_enough": 0.0} | changed) as bench:
        await send(bench, sample_audio(0, SECONDS), cuts, options=json.dumps({"technologies": [LANGUAGE, VOICEPRINT]}))
    assert bench.dead_letters() == []
    return bench


def language_records(bench: Bench) -> list[dict[str, Any]]:
    return bench.transitions()["call-1", LANGUAGE]


def lengths(record: dict[str, Any], name: str = "result") -> list[float]:
    return [channel["speech_length"] for channel in record[name]["channels"]]


async def test_a_task_is_done_with_the_utterance_that_makes_every_channel_sure(open_bench: OpenBench) -> None:
    late = language_records(await heard(open_bench))
    bench = await heard(open_bench, language_sure=0.9, language_sure_s=5.0)
    early = language_records(bench)
    assert [record["revision"] for record in early] == list(range(len(early)))
    assert [record["task"]["state"] for record in early[1:]] == ["running"] * (len(early) - 2) + ["done"]
    assert early[:-1] == late[: len(early) - 1]
    # what the whole call would have said as a partial result is the result, and the call went on behind it
    assert early[-1]["result"] == late[len(early) - 1]["partial"]
    assert all(5.0 <= short < long for short, long in zip(lengths(early[-1]), lengths(late[-1]), strict=True))
    assert all(channel["scores"][0]["probability"] >= 0.9 for channel in early[-1]["result"]["channels"])
    assert lengths(bench.final("call-1", VOICEPRINT)) == lengths(late[-1])


async def test_an_exhaustive_call_is_heard_to_its_end(open_bench: OpenBench) -> None:
    async with open_bench(language_sure=0.9, language_sure_s=5.0) as bench:
        options = {"technologies": [LANGUAGE], "exhaustive": True}
        await send(bench, sample_audio(0, SECONDS), options=json.dumps(options))
    late = language_records(await heard(open_bench))
    assert lengths(language_records(bench)[-1]) == lengths(late[-1])


async def test_how_the_call_was_cut_and_that_it_comes_again_change_nothing(open_bench: OpenBench) -> None:
    once = await heard(open_bench, language_sure=0.9, language_sure_s=5.0)
    again = await heard(open_bench, [11, 70_001, 200_003, 333_333], language_sure=0.9, language_sure_s=5.0)
    assert again.values() == once.values()
    async with open_bench(language_sure=0.9, language_sure_s=5.0) as bench:
        for record in once.log["prints"]:
            await bench.produce("prints", record.key, record.value, {name: value.decode() for name, value in record.headers})
        told = language_records(bench)
        for record in once.log["prints"]:
            await bench.produce("prints", record.key, record.value, {name: value.decode() for name, value in record.headers})
        assert language_records(bench) == told
    assert told == [record for record in language_records(once) if record["task"]["state"] != "pending"]


async def test_a_language_that_is_known_well_enough_is_identified_until_its_task_is_sure(open_bench: OpenBench) -> None:
    """Else a task whose channels were known, but not sure, would never be done early."""
    late = language_records(await heard(open_bench))
    sure: dict[str, Any] = {"language_sure": 0.9, "language_sure_s": 5.0}
    early = language_records(await heard(open_bench, **sure, language_enough=0.3, language_enough_s=1.0))
    assert early[-1]["task"]["state"] == "done"
    assert len(early) < len(late)
    assert all(
        one["speech_length"] >= 5.0 and one["scores"][0]["probability"] >= 0.9 for one in early[-1]["result"]["channels"]
    )


async def test_a_channel_that_is_not_sure_holds_the_task_up(open_bench: OpenBench) -> None:
    late = language_records(await heard(open_bench))
    assert language_records(await heard(open_bench, language_sure=0.9, language_sure_s=600.0)) == late


async def test_below_the_floor_there_are_no_scores_but_speech(open_bench: OpenBench) -> None:
    known = language_records(await heard(open_bench))[-1]
    unknown = language_records(await heard(open_bench, language_floor=0.999999))[-1]
    assert unknown["task"]["state"] == "done"
    assert [channel["scores"] for channel in unknown["result"]["channels"]] == [[], []]
    assert lengths(unknown) == lengths(known)


async def test_offsets_are_given_back_when_the_call_has_ended_and_not_before(open_bench: OpenBench) -> None:
    """A successor that has not read the call's begin would take what is left of it for another call."""
    once = await heard(open_bench, language_sure=0.9, language_sure_s=5.0)
    seen = []
    async with open_bench(language_sure=0.9, language_sure_s=5.0) as bench:
        frame = next(one for one in bench.frames if one.stage.name == "language")
        for record in once.log["prints"]:
            await bench.produce("prints", record.key, record.value, {name: value.decode() for name, value in record.headers})
            seen.append((language_records(bench)[-1]["task"]["state"], len(frame.acknowledged["prints"])))
    assert seen[-1] == ("done", len(once.log["prints"]))
    assert ("done", 0) in seen
    assert {count for _, count in seen[:-1]} == {0}


@pytest.mark.parametrize("where", ["before", "here"])
async def test_a_fault_behind_a_task_that_is_done_does_not_fail_it(open_bench: OpenBench, where: str) -> None:
    """Whether the agent before it says so or the record of the end meets it here: the offsets are given back, and no more."""
    once = await heard(open_bench, language_sure=0.9, language_sure_s=5.0)
    *prints, end = once.log["prints"]
    async with open_bench(language_sure=0.9, language_sure_s=5.0) as bench:
        frame = next(one for one in bench.frames if one.stage.name == "language")
        for record in prints:
            await frame.deliver(record)
        told = language_records(bench)
        assert told[-1]["task"]["state"] == "done"
        if where == "before":
            fault = msgspec.structs.replace(end, value=msgspec.msgpack.encode(Fault("call-1", "the model broke")))
            await frame.deliver(fault)
        else:
            await frame.stage.fail(end, "a fault of ours")
        assert language_records(bench) == told
        assert frame.acknowledged["prints"][: len(prints)] == [one.offset for one in prints]
