"""The whole chain of agents on real speech with real models, record by record."""

import json
import random
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.records import OutgoingRecord, Record
from pipeline.scoring.voiceprint import decode
from schemas.tasks import Technology
from tests.agents.conftest import OpenBench
from tests.harness import Bench, media_headers, run, sample_audio

VAD = Technology.VOICE_ACTIVITY_DETECTION.value
VOICEPRINT = Technology.VOICEPRINT_EXTRACTION.value
LANGUAGE = Technology.LANGUAGE_IDENTIFICATION.value
GENDER = Technology.GENDER_IDENTIFICATION.value
COMPARISON = Technology.VOICEPRINT_COMPARISON.value
CALL = b"call-1"


async def send(bench: Bench, audio: bytes, cuts: list[int] | None = None, *, options: str | None = None) -> None:
    """Send a call, cut at these places (every half second by default)."""
    places = sorted({0, len(audio), *(place % (len(audio) + 1) for place in cuts or range(0, len(audio), 16000))})
    pieces = list(pairwise(places))
    for number, (start, stop) in enumerate(pieces):
        extra = {"options": options} if options and number == 0 else {}
        headers = media_headers(number, end=number == len(pieces) - 1, position=start, **extra)
        await bench.produce("media", CALL, audio[start:stop], headers)


async def test_every_task_of_a_call_goes_pending_running_done_with_revisions_without_gaps(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await send(bench, sample_audio(0, 20))
    transitions = bench.transitions()
    assert {technology for _, technology in transitions} == {VAD, VOICEPRINT, LANGUAGE, GENDER}
    for records in transitions.values():
        assert [record["revision"] for record in records] == list(range(len(records)))
        states = [record["task"]["state"] for record in records]
        assert states == ["pending"] + ["running"] * (len(states) - 2) + ["done"]
    assert bench.dead_letters() == []


async def test_results_say_what_the_sample_holds(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await send(bench, sample_audio(0, 40))
    speech = bench.final("call-1", VAD)["result"]["channels"]
    for channel in speech:
        assert channel["segments"]
        lengths_ms = [
            round(1000 * segment["end_time"]) - round(1000 * segment["start_time"]) for segment in channel["segments"]
        ]
        assert round(1000 * channel["speech_length"]) == sum(lengths_ms)
    languages = bench.final("call-1", LANGUAGE)["result"]["channels"]
    assert [channel["scores"][0]["identifier"] for channel in languages] == ["en", "it"]
    assert all(round(sum(s["probability"] for s in channel["scores"]), 9) == 1 for channel in languages)
    voiceprints = bench.final("call-1", VOICEPRINT)["result"]["channels"]
    for channel, spoken in zip(voiceprints, speech, strict=True):
        assert decode(channel["voiceprint"]).speech_s == spoken["speech_length"] == channel["speech_length"]


async def test_partial_results_have_the_schema_of_results(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await send(bench, sample_audio(0, 20))
    for records in bench.transitions().values():
        partials = [record["partial"] for record in records if "partial" in record]
        assert partials
        assert all(partial.keys() == records[-1]["result"].keys() for partial in partials)
        assert partials[-1] == records[-1]["result"]


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(cuts=st.lists(st.integers(0, 10**7), min_size=3, max_size=40), seed=st.integers(0, 2**32))
def test_results_do_not_depend_on_cuts_order_or_repetition(open_bench: OpenBench, cuts: list[int], seed: int) -> None:
    audio = sample_audio(2, 9)

    async def shuffled() -> Bench:
        places = sorted({0, len(audio), *(place % (len(audio) + 1) for place in cuts)})
        pieces = [(n, a, b) for n, (a, b) in enumerate(pairwise(places))]
        sent = pieces + random.Random(seed).choices(pieces, k=3)
        window_s = 4.0  # stays within the window of 5 s
        sent.sort(key=lambda piece: piece[1] / 32000 + random.Random(seed + piece[0]).uniform(0, window_s / 2))
        async with open_bench() as bench:
            for number, start, stop in sent:
                await bench.produce("media", CALL, audio[start:stop], media_headers(number, end=stop == len(audio)))
        return bench

    async def plain() -> Bench:
        async with open_bench() as bench:
            await send(bench, audio)
        return bench

    first, second = run(plain()), run(shuffled())
    assert second.dead_letters() == []
    assert second.values() == first.values()


async def test_a_dropped_chunk_equals_the_same_bytes_silenced(open_bench: OpenBench) -> None:
    audio = sample_audio(0, 14)
    start, stop = 6 * 32000, 7 * 32000
    async with open_bench() as dropped:
        for number, at in enumerate(range(0, len(audio), 32000)):
            if number != 6:
                headers = media_headers(number, end=at + 32000 >= len(audio), position=at)
                await dropped.produce("media", CALL, audio[at : at + 32000], headers)
    async with open_bench() as silenced:
        await send(silenced, audio[:start] + bytes(stop - start) + audio[stop:])
    for technology in (VOICEPRINT, LANGUAGE, GENDER):
        assert dropped.final("call-1", technology)["result"] == silenced.final("call-1", technology)["result"]
    channels = dropped.final("call-1", VAD)["result"]["channels"]
    missing = [channel.pop("missing") for channel in channels]
    assert missing == [[{"start_time": 6.0, "end_time": 7.0}]] * 2
    assert channels == silenced.final("call-1", VAD)["result"]["channels"]


async def test_comparison_runs_against_the_voiceprints_given_with_the_call(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await send(bench, sample_audio(0, 30))
        voiceprints = [channel["voiceprint"] for channel in bench.final("call-1", VOICEPRINT)["result"]["channels"]]
    async with open_bench() as bench:
        await send(bench, sample_audio(30, 60), options=json.dumps({"compare_with": voiceprints}))
        result = bench.final("call-1", COMPARISON)["result"]
    assert result["channels"] == [0, 1]
    assert result["references"] == ["compare_with/0", "compare_with/1"]
    scores = result["scores"]
    assert (scores["columns_count"], scores["rows_count"]) == (2, 2)
    same_0, cross_01, cross_10, same_1 = scores["values"]
    assert min(same_0, same_1) > 0 > max(cross_01, cross_10)


async def test_only_the_technologies_that_were_asked_for_run(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await send(bench, sample_audio(0, 5), options=json.dumps({"technologies": [LANGUAGE], "languages": ["fr", "en"]}))
    assert {technology for _, technology in bench.transitions()} == {LANGUAGE}
    for channel in bench.final("call-1", LANGUAGE)["result"]["channels"]:
        assert {score["identifier"] for score in channel["scores"]} <= {"fr", "en"}


async def test_a_call_fails_as_a_whole_when_an_utterance_cannot_be_heard(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await bench.produce("media", CALL, sample_audio(0, 1), media_headers(0))
        extraction = next(frame for frame in bench.frames if frame.stage.name == "extraction")
        await extraction.stage.fail(bench.log["speech"][0], "the model broke")
        await bench.settle()
    for technology in (VOICEPRINT, LANGUAGE, GENDER):
        final = bench.final("call-1", technology)
        assert final["task"]["state"] == "failed"
        assert final["error"]["type"] == "internal"


async def test_a_replay_from_the_begin_repeats_every_byte_and_nothing_else(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await send(bench, sample_audio(0, 8))
    async with open_bench() as again:
        for record in bench.log["media"]:
            await again.frames[0].deliver(record)
            await again.settle()
    assert again.log["results"] == bench.log["results"]  # headers and order too
    assert again.dead_letters() == []


async def test_a_chunk_that_comes_again_after_a_rebalance_does_not_begin_its_call_anew(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await send(bench, sample_audio(0, 4))
        before = list(bench.log["results"])
        for frame in bench.frames:
            frame.stage.forget()
        for topic, frame in (("media", bench.frames[0]), ("prints", bench.frames[2])):
            await frame.deliver(bench.log[topic][-1])
        await bench.settle()
    assert bench.log["results"] == before
    assert bench.dead_letters() == []


async def test_offsets_of_a_call_are_given_back_at_its_end_and_not_before(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        vad = bench.frames[0]
        await bench.produce("media", CALL, sample_audio(0, 3), media_headers(0))
        assert vad.acknowledged["media"] == []
        await bench.produce("media", CALL, sample_audio(3, 4), media_headers(1, end=True))
        assert vad.acknowledged["media"] == [0, 1]
        for frame in bench.frames:
            for topic, given_back in frame.acknowledged.items():
                assert given_back == list(range(len(bench.log[topic])))


async def test_all_that_follows_from_a_call_is_in_the_partition_of_its_media(
    open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its producer chose it by: a successor looks there, and nowhere else, for what was said and saved."""
    sent: list[OutgoingRecord] = []
    async with open_bench() as bench:
        publish = bench.publish

        def append(topic: str, key: bytes | None, value: bytes | None, headers: tuple[tuple[str, bytes], ...]) -> None:
            record = Record(topic, 3, len(bench.log[topic]), key, value, headers, bench.clock_s)
            bench.log[topic].append(record)
            bench._undelivered.append(record)

        async def note(records: Sequence[OutgoingRecord]) -> list[int]:
            sent.extend(records)
            return await publish(records)

        monkeypatch.setattr(bench, "_append", append)
        monkeypatch.setattr(bench, "publish", note)
        await send(bench, sample_audio(0, 20))
    assert {(one.topic, one.partition) for one in sent if one.topic != "results"} == {
        *(("speech", 3), ("prints", 3), ("snapshots", 3))
    }
