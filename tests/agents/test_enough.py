"""A channel that has said enough: what is made of the call then, and what is not."""

from __future__ import annotations

import json
import math
import time
from typing import Any, cast

import msgspec
import pytest

from agents import extraction_call, extractor
from agents.call_stage import CallStage
from agents.extraction import ExtractionStage
from pipeline.records import Record
from pipeline.scoring.voiceprint import SPEAKER_DIMENSION, VOICE_DIMENSION, VoiceprintSum, decode, encode, unpack
from schemas.stream import Print, PrintRecord, SpeechRecord, Utterance
from tests.agents.conftest import OpenBench
from tests.agents.test_chain import GENDER, LANGUAGE, VAD, VOICEPRINT, send
from tests.harness import Bench, LocalFrame, sample_audio

ALL_SPEECH: dict[str, Any] = {"language_enough": 0.0, "voiceprint_enough_s": 0.0, "voice_enough_s": 0.0}
ENOUGH: dict[str, Any] = {
    "language_enough": 0.9,
    "language_enough_s": 3.0,
    "voiceprint_enough_s": 6.0,
    "voice_enough_s": 3.0,
}


async def heard(open_bench: OpenBench, changed: dict[str, Any], cuts: list[int] | None = None, **options: Any) -> Bench:
    async with open_bench(**changed) as bench:
        await send(bench, sample_audio(0, 40), cuts, options=json.dumps(options))
    assert bench.dead_letters() == []
    return bench


def prints(bench: Bench) -> list[Print]:
    records = [msgspec.msgpack.decode(one.value or b"", type=PrintRecord) for one in bench.log["prints"]]
    return [one for one in records if isinstance(one, Print)]


def utterances(bench: Bench) -> list[Utterance]:
    records = [msgspec.msgpack.decode(one.value or b"", type=SpeechRecord) for one in bench.log["speech"]]
    return [one for one in records if isinstance(one, Utterance)]


def as_wanted(packed: bytes | None, wants_voice: bool) -> bytes:
    """The voiceprint, with zeros in place of the voice embedding when that is not wanted."""
    assert packed is not None
    return packed if wants_voice else packed[: -2 * VOICE_DIMENSION] + bytes(2 * VOICE_DIMENSION)


def partials(bench: Bench, technology: str) -> int:
    return sum("partial" in one for one in bench.transitions()["call-1", technology])


async def test_behind_what_is_enough_nothing_is_extracted(open_bench: OpenBench) -> None:
    every, bench = await heard(open_bench, ALL_SPEECH), await heard(open_bench, ENOUGH)
    assert bench.final("call-1", VAD) == every.final("call-1", VAD)
    assert len(utterances(bench)) == len(prints(every)) == partials(bench, VAD)
    made = {(one.channel, one.start_sample): one for one in prints(bench)}
    for channel in (0, 1):
        before_s, identified = 0.0, []
        for whole in [one for one in prints(every) if one.channel == channel]:
            one = made.pop((channel, whole.start_sample), None)
            voiceprint, languages = (None, None) if one is None else (one.voiceprint, one.languages)
            assert voiceprint == (as_wanted(whole.voiceprint, before_s < 3.0) if before_s < 6.0 else None)
            assert languages in (whole.languages, None)
            assert (one is None) == (voiceprint is languages is None)
            identified.append(languages is not None)
            before_s += whole.speech_s
        assert identified == sorted(identified, reverse=True)
        assert not all(identified)
        assert sum(one.speech_s for one in prints(bench) if one.channel == channel and one.languages is not None) >= 3.0
    assert not made
    assert len(prints(bench)) < len(prints(every))


async def test_a_language_is_identified_until_it_is_known(open_bench: OpenBench) -> None:
    """The last partial result is as sure as was asked for, and none before it of as much speech is."""
    bench = await heard(open_bench, ENOUGH)
    for number in (0, 1):
        said = [one["partial"]["channels"][number] for one in bench.transitions()["call-1", LANGUAGE] if "partial" in one]
        last = bench.final("call-1", LANGUAGE)["result"]["channels"][number]
        assert said[-1] == last
        assert last["speech_length"] >= 3.0
        assert last["scores"][0]["probability"] >= 0.9
        before = [one for one in said if one["speech_length"] < last["speech_length"] and one["scores"]]
        assert all(one["speech_length"] < 3.0 or one["scores"][0]["probability"] < 0.9 for one in before)


async def test_a_channel_that_is_never_sure_is_identified_to_its_end(open_bench: OpenBench) -> None:
    every = await heard(open_bench, ALL_SPEECH)
    bench = await heard(open_bench, {**ALL_SPEECH, "language_enough": 0.9, "language_enough_s": 600.0})
    assert bench.values() == every.values()


async def taken_over(bench: Bench, spoken: list[Record], killed_at: int) -> LocalFrame:
    """Extraction is killed behind so many records, and has given nothing back of an open call: a successor reads all."""
    frame = next(one for one in bench.frames if one.stage.name == "extraction")
    for record in spoken[:killed_at]:
        await bench.produce("speech", record.key, record.value)
    kinds = [msgspec.msgpack.decode(record.value or b"")["kind"] for record in spoken[:killed_at]]
    assert "end" in kinds or frame.acknowledged["speech"] == []
    frame.stage.forget()
    frame.order.clear()
    frame.acknowledged.clear()
    for record in spoken:
        await bench.produce("speech", record.key, record.value)
    return frame


async def test_a_successor_goes_on_with_what_is_identified_already(open_bench: OpenBench) -> None:
    """It is killed behind each record in turn: its successor reads the call from its begin, and says nothing else."""
    once = await heard(open_bench, ENOUGH)
    spoken = once.log["speech"]
    for killed_at in range(1, len(spoken)):
        async with open_bench(**ENOUGH) as bench:
            frame = await taken_over(bench, spoken, killed_at)
            assert [one.value for one in bench.log["prints"]] == [one.value for one in once.log["prints"]]
            assert len(frame.acknowledged["speech"]) == len(spoken)


async def test_a_begin_that_comes_again_behind_the_end_holds_nothing(open_bench: OpenBench) -> None:
    """As a frozen worker says it late: no end would ever let go of it."""
    async with open_bench(**ENOUGH) as bench:
        await send(bench, sample_audio(0, 10))
        begin, printed = bench.log["speech"][0], list(bench.log["prints"])
        await bench.produce("speech", begin.key, begin.value)
        frame = next(one for one in bench.frames if one.stage.name == "extraction")
        assert frame.acknowledged["speech"] == list(range(len(bench.log["speech"])))
        frame.stage.forget()
        await bench.produce("speech", begin.key, begin.value)
        assert frame.acknowledged["speech"] == list(range(len(bench.log["speech"])))
        assert bench.log["prints"] == printed


async def test_a_begin_behind_an_end_that_alone_is_known_is_not_passed_on(open_bench: OpenBench) -> None:
    """A look back that begins between the two: whoever is behind and knows no end would say that the call is running."""
    async with open_bench(**ENOUGH) as bench:
        await send(bench, sample_audio(0, 10))
        begin, printed = bench.log["speech"][0], bench.log["prints"]
        assert msgspec.msgpack.decode(printed[0].value or b"")["kind"] == "begin"
        bench.log["prints"] = printed[1:]
        said = len(bench.log["results"])
        for frame in bench.frames:
            frame.stage.forget()
        await bench.produce("speech", begin.key, begin.value)
        assert bench.log["prints"] == printed[1:]
        assert len(bench.log["results"]) == said


@pytest.mark.parametrize("first", [0, 3])
async def test_a_call_that_comes_again_behind_its_end_is_not_heard_again(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """As its partition's next reader meets it, when an older call is open still; not all of it has a print."""
    async with open_bench(**ENOUGH) as bench:
        await send(bench, sample_audio(0, 40))
        spoken, printed = list(bench.log["speech"]), list(bench.log["prints"])
        assert len(printed) < len(spoken)
        frame = next(one for one in bench.frames if one.stage.name == "extraction")
        frame.stage.forget()
        monkeypatch.setattr(extractor, "extract", None)
        for record in spoken[first:]:
            await bench.produce("speech", record.key, record.value)
        assert bench.log["prints"] == printed
        assert bench.dead_letters() == []
        assert frame.acknowledged["speech"] == list(range(2 * len(spoken) - first))


async def test_a_call_of_which_nothing_is_made_for_long_gives_a_sign_of_life(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the agents behind would take it for one whose end will not come."""
    once = await heard(open_bench, ENOUGH)
    monkeypatch.setattr(extraction_call, "_LONGEST_QUIET_S", 0.0)
    bench = await heard(open_bench, ENOUGH)
    assert len(prints(bench)) == len(utterances(bench)) > len(prints(once))
    assert bench.values() == once.values()


async def test_a_begin_that_comes_again_in_its_call_is_held_too(open_bench: OpenBench) -> None:
    """As when dropped records come again: what was held before belongs to nobody then."""
    once = await heard(open_bench, ENOUGH)
    spoken = once.log["speech"]
    async with open_bench(**ENOUGH) as bench:
        frame = next(one for one in bench.frames if one.stage.name == "extraction")
        for record in spoken[:5]:
            await bench.produce("speech", record.key, record.value)
        frame.order.pop("speech").close()
        for record in spoken[:-1]:
            await bench.produce("speech", record.key, record.value)
            assert frame.acknowledged["speech"] == []
        await bench.produce("speech", spoken[-1].key, spoken[-1].value)
        assert frame.acknowledged["speech"] == list(range(5, 5 + len(spoken)))
        assert [one.value for one in bench.log["prints"]] == [one.value for one in once.log["prints"]]


async def test_a_begin_whose_end_will_not_come_is_let_go_of(open_bench: OpenBench) -> None:
    once = await heard(open_bench, ENOUGH)
    async with open_bench(**ENOUGH) as bench:
        await bench.produce("speech", once.log["speech"][0].key, once.log["speech"][0].value)
        frame = next(one for one in bench.frames if one.stage.name == "extraction")
        await bench.tick()
        assert frame.acknowledged["speech"] == []
        (call,) = cast(ExtractionStage, frame.stage)._calls.values()
        call.last_s -= 25 * 3600
        await bench.tick()
        assert frame.acknowledged["speech"] == [0]


async def test_the_agents_behind_let_go_of_a_begin_whose_end_will_not_come_too(open_bench: OpenBench) -> None:
    once = await heard(open_bench, ENOUGH)
    async with open_bench(**ENOUGH) as bench:
        await bench.produce("prints", once.log["prints"][0].key, once.log["prints"][0].value)
        frames = [one for one in bench.frames if isinstance(one.stage, CallStage) and one.stage._calls]
        calls = [call for one in frames for call in cast(CallStage[Any], one.stage)._calls.values()]
        assert len(calls) == 3  # nobody asked for comparisons
        assert all(call.last_s <= time.monotonic() for call in calls)
        for last_s in (time.monotonic(), math.inf, time.monotonic() - 25 * 3600):  # endless while a record is in work
            assert all(one.acknowledged["prints"] == [] for one in frames)
            for call in calls:
                call.last_s = last_s
            await bench.tick()
        assert all(one.acknowledged["prints"] == [0] for one in frames)


async def test_languages_that_cannot_be_told_are_not_identified(open_bench: OpenBench) -> None:
    bench = await heard(open_bench, ALL_SPEECH, languages=["xx"])
    assert bench.final("call-1", LANGUAGE)["task"]["state"] == "rejected"
    assert prints(bench)
    assert {one.languages for one in prints(bench)} == {None}


async def test_results_say_how_much_speech_they_are_from(open_bench: OpenBench) -> None:
    bench = await heard(open_bench, ENOUGH)
    channels = bench.final("call-1", VOICEPRINT)["result"]["channels"]
    for number, channel in enumerate(channels):
        total = VoiceprintSum()
        for one in prints(bench):
            if one.channel == number and one.voiceprint is not None:
                total.add(unpack(one.voiceprint))
        assert channel["voiceprint"] == encode(total.merged())
        assert channel["speech_length"] == pytest.approx(decode(channel["voiceprint"]).speech_s, abs=0.001)
        identified = sum(one.speech_s for one in prints(bench) if one.channel == number and one.languages is not None)
        assert bench.final("call-1", LANGUAGE)["result"]["channels"][number]["speech_length"] == round(identified, 3)
    lengths = [
        [one["speech_length"] for one in bench.final("call-1", task)["result"]["channels"]] for task in (VOICEPRINT, GENDER)
    ]
    assert lengths[0] == lengths[1]


async def test_behind_what_is_enough_the_voice_embedding_stays_as_it_was(open_bench: OpenBench) -> None:
    """The speaker embedding goes on: no result has less of a voice than the one before it."""
    bench = await heard(open_bench, {**ENOUGH, "voiceprint_enough_s": 12.0})
    for number in (0, 1):
        partial = [one["partial"]["channels"][number] for one in bench.transitions()["call-1", VOICEPRINT] if "partial" in one]
        said = {one["speech_length"]: decode(one["voiceprint"]).embedding for one in partial if one["speech_length"]}
        voices = [embedding[SPEAKER_DIMENSION:].tobytes() for length_s, embedding in sorted(said.items())]
        before = [one for one in prints(bench) if one.channel == number and one.voiceprint is not None]
        taken = sum(bool(unpack(one.voiceprint or b"").embedding[SPEAKER_DIMENSION:].any()) for one in before)
        assert 0 < taken < len(voices) == len(said)
        assert len(set(voices[taken - 1 :])) == 1
        assert len({embedding[:SPEAKER_DIMENSION].tobytes() for embedding in said.values()}) == len(said)


async def test_an_utterance_makes_a_partial_result_of_each_task_that_it_is_wanted_for(open_bench: OpenBench) -> None:
    bench = await heard(open_bench, ENOUGH)
    assert partials(bench, LANGUAGE) == sum(one.languages is not None for one in prints(bench))
    assert partials(bench, VOICEPRINT) == partials(bench, GENDER) == sum(one.voiceprint is not None for one in prints(bench))
    assert 0 < partials(bench, LANGUAGE) < partials(bench, VAD)
    assert 0 < partials(bench, VOICEPRINT) < partials(bench, VAD)


async def test_an_exhaustive_call_is_heard_to_its_end(open_bench: OpenBench) -> None:
    every, bench = await heard(open_bench, ALL_SPEECH), await heard(open_bench, ENOUGH, exhaustive=True)
    assert bench.values() == every.values()


async def test_how_a_call_was_cut_does_not_change_what_is_enough(open_bench: OpenBench) -> None:
    once, again = await heard(open_bench, ENOUGH), await heard(open_bench, ENOUGH, [11, 70_001, 200_003, 333_333])
    assert [one.value for one in again.log["prints"]] == [one.value for one in once.log["prints"]]


@pytest.mark.parametrize("technologies", [[VAD], [VAD, LANGUAGE], [GENDER]])
async def test_models_that_no_task_needs_hear_nothing(open_bench: OpenBench, technologies: list[str]) -> None:
    every, bench = await heard(open_bench, ALL_SPEECH), await heard(open_bench, ALL_SPEECH, technologies=technologies)
    assert bool(utterances(bench)) == (technologies != [VAD])
    assert all((one.voiceprint is not None) == (GENDER in technologies) for one in prints(bench))
    assert all((one.languages is not None) == (LANGUAGE in technologies) for one in prints(bench))
    for technology in technologies:
        assert bench.final("call-1", technology)["result"] == every.final("call-1", technology)["result"]
