"""Utterances of live calls are extracted while they pause; what follows from them is the same as without that."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from agents import extractor
from agents.extraction import ExtractionStage
from pipeline.models.models import ModelSet
from pipeline.publishing import RecordTooLargeError
from pipeline.records import OutgoingRecord
from pipeline.stage import Counting
from schemas.media import CallOptions
from schemas.stream import CallBegin, CallEnd, Draft, SpeechRecord, Utterance
from tests.agents.conftest import OpenBench
from tests.agents.test_chain import LANGUAGE, VAD, VOICEPRINT
from tests.agents.test_enough import ENOUGH, taken_over
from tests.harness import Bench, bench_settings, media_headers, sample_audio

CALL = b"call-1"
CHUNK_S = 0.25
FRAME_BYTES = 4
SPEECH_S = 40


@pytest.fixture
def extracted(monkeypatch: pytest.MonkeyPatch) -> list[Utterance]:
    """What the models heard, in order."""
    original, heard = extractor.extract, list[Utterance]()

    def extract(models: Any, utterance: Utterance, wants_language: bool) -> Any:
        heard.append(utterance)
        return original(models, utterance, wants_language)

    monkeypatch.setattr(extractor, "extract", extract)
    return heard


async def send(bench: Bench, *, speed: float = 1.0, seconds: float = SPEECH_S, **options: Any) -> None:
    """A call whose records have the timestamps of one that is sent so many times as fast as it is spoken."""
    audio, step = sample_audio(0, seconds), int(8000 * CHUNK_S) * FRAME_BYTES
    starts = range(0, len(audio), step)
    for number, start in enumerate(starts):
        bench.clock_s += CHUNK_S / speed
        extra = {"options": json.dumps(options)} if options and number == 0 else {}
        headers = media_headers(number, end=start == starts[-1], position=start, **extra)
        await bench.produce("media", CALL, audio[start : start + step], headers)


def spoken(bench: Bench) -> list[SpeechRecord]:
    return [msgspec.msgpack.decode(one.value or b"", type=SpeechRecord) for one in bench.log["speech"]]


def drafts(bench: Bench) -> list[Utterance]:
    return [one.utterance for one in spoken(bench) if isinstance(one, Draft)]


def utterances(bench: Bench) -> list[Utterance]:
    return [one for one in spoken(bench) if isinstance(one, Utterance)]


def without_sources(bench: Bench) -> dict[str, list[tuple[bytes | None, bytes | None]]]:
    """Drafts take offsets, which are in nobody's answer but in a header."""
    return {topic: [(one.key, one.value) for one in bench.log[topic]] for topic in ("prints", "results", "dead-letters")}


@pytest.mark.parametrize("changed", [{}, ENOUGH, {"inference_batch": 4}], ids=["default", "enough", "batched"])
async def test_drafts_change_no_byte(open_bench: OpenBench, extracted: list[Utterance], changed: dict[str, Any]) -> None:
    async with open_bench(**changed, drafts=False) as without:
        await send(without)
    assert drafts(without) == []
    made = len(extracted)
    extracted.clear()
    async with open_bench(**changed) as bench:
        await send(bench)
    assert without_sources(bench) == without_sources(without)
    assert utterances(bench) == utterances(without)
    said = drafts(bench)
    came_true = [one for one in said if one in utterances(bench)]
    assert len(came_true) > len(said) / 4
    assert len(set(said)) == len(said)  # each once
    assert len(set(extracted)) == len(extracted) >= made  # what came true was made once
    assert [one.wants_voiceprint for one in said] == [True] * len(said)


async def test_drafts_are_made_before_their_utterances_come(open_bench: OpenBench, extracted: list[Utterance]) -> None:
    async with open_bench() as bench:
        await send(bench, seconds=10)
        first = drafts(bench)[0]
        begin = next(one for one in bench.log["speech"] if isinstance(_read(one.value), CallBegin))
    extracted.clear()
    async with open_bench() as bench:
        stage = next(one.stage for one in bench.frames if isinstance(one.stage, ExtractionStage))
        assert isinstance(stage, Counting)
        await bench.produce("speech", begin.key, begin.value)
        await bench.produce("speech", CALL, msgspec.msgpack.encode(Draft(first)))
        await asyncio.sleep(1.0)
        assert extracted == [first]
        assert stage.counts() == {"drafts_begun": 1, "drafts_used": 0}
        await bench.produce("speech", CALL, msgspec.msgpack.encode(first))
        assert extracted == [first]
        assert len(bench.log["prints"]) == 2
        await bench.produce("speech", CALL, msgspec.msgpack.encode(Draft(first)))  # as in a replay
        await asyncio.sleep(0.2)
        assert extracted == [first]
        assert stage.counts() == {"drafts_begun": 1, "drafts_used": 1}


async def test_a_worker_that_ends_before_it_has_models_ends_in_order(tmp_path: Path) -> None:
    stage = ExtractionStage(bench_settings(tmp_path))
    stage.forget()
    await stage.stop()


def _read(value: bytes | None) -> SpeechRecord:
    one: SpeechRecord = msgspec.msgpack.decode(value or b"", type=SpeechRecord)
    return one


async def test_a_draft_of_an_unknown_call_or_channel_is_let_go_of(open_bench: OpenBench, extracted: list[Utterance]) -> None:
    async with open_bench() as bench:
        frame = next(one for one in bench.frames if one.stage.name == "extraction")
        utterance = Utterance("call-1", 0, 0, 4000, 8000, bytes(8000))
        await bench.produce("speech", CALL, msgspec.msgpack.encode(Draft(utterance)))
        assert frame.acknowledged["speech"] == [0]
        await bench.produce("speech", CALL, msgspec.msgpack.encode(CallBegin("call-1", 2, CallOptions(), "")))
        for channel in (2, -1, 10**6):
            other = msgspec.structs.replace(utterance, channel=channel)
            await bench.produce("speech", CALL, msgspec.msgpack.encode(Draft(other)))
        await asyncio.sleep(0.2)
        await bench.produce("speech", CALL, msgspec.msgpack.encode(CallEnd("call-1", 2)))
        assert frame.acknowledged["speech"] == [0, 1, 2, 3, 4, 5]
        assert extracted == []
        assert len(bench.log["prints"]) == 2
        assert bench.dead_letters() == []


async def test_a_draft_that_no_model_can_hear_harms_nobody(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await bench.produce("speech", CALL, msgspec.msgpack.encode(CallBegin("call-1", 1, CallOptions(), "")))
        broken = Utterance("call-1", 0, 0, 4000, 8000, b"1")
        await bench.produce("speech", CALL, msgspec.msgpack.encode(Draft(broken)))
        await asyncio.sleep(0.1)
        utterance = Utterance("call-1", 0, 0, 4000, 8000, bytes(8000))
        await bench.produce("speech", CALL, msgspec.msgpack.encode(utterance))
        await bench.produce("speech", CALL, msgspec.msgpack.encode(CallEnd("call-1", 1)))
    assert bench.dead_letters() == []
    assert bench.final("call-1", VOICEPRINT)["task"]["state"] == "done"
    assert len(bench.log["prints"]) == 3


async def test_files_have_no_drafts(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await send(bench, is_file=True)
    assert drafts(bench) == []


async def test_what_is_sent_faster_than_it_was_spoken_has_none_behind_its_begin(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await send(bench, speed=20.0)
    assert all(one.end_sample <= 4 * 8000 for one in drafts(bench))


async def test_a_draft_that_the_broker_refuses_harms_nobody(open_bench: OpenBench, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_bench(drafts=False) as without:
        await send(without, seconds=10)
    async with open_bench() as bench:
        publish, refused = bench.publish, []

        async def refuse(records: Sequence[OutgoingRecord]) -> list[int]:
            if any(one.topic == "speech" and isinstance(_read(one.value), Draft) for one in records):
                refused.append(records)
                raise RecordTooLargeError("too large")
            return await publish(records)

        monkeypatch.setattr(bench, "publish", refuse)
        await send(bench, seconds=10)
    assert refused
    assert without_sources(bench) == without_sources(without)


async def test_nothing_is_drafted_that_is_not_wanted(open_bench: OpenBench) -> None:
    async with open_bench(**{**ENOUGH, "voiceprint_enough_s": 8.0}) as bench:
        await send(bench, technologies=[VAD, VOICEPRINT])
    wanted = utterances(bench)
    assert drafts(bench)
    for channel in (0, 1):
        last = max(one.start_sample for one in wanted if one.channel == channel)
        assert max(one.start_sample for one in drafts(bench) if one.channel == channel) <= last
    async with open_bench() as bench:
        await send(bench, technologies=[VAD])
    assert utterances(bench) == drafts(bench) == []


async def test_a_call_that_wants_languages_alone_has_drafts(open_bench: OpenBench, extracted: list[Utterance]) -> None:
    async with open_bench(language_enough=0.0) as bench:
        await send(bench, technologies=[VAD, LANGUAGE])
    assert drafts(bench)
    assert not any(one.wants_voiceprint for one in extracted)
    assert len(extracted) < len(utterances(bench)) + len(drafts(bench))


async def test_drafts_end_where_the_limit_of_speech_is(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await send(bench, max_speech_length=3.0)
    for channel in (0, 1):
        used = [one for one in utterances(bench) if one.channel == channel]
        limit = used[-1].end_sample
        assert sum(one.speech_s for one in used) == pytest.approx(3.0, abs=0.001)
        said = [one for one in drafts(bench) if one.channel == channel]
        assert all(one.end_sample <= limit for one in said)
        assert len(set(said)) == len(said)  # also where speech goes on behind the limit, with pauses
    assert any(one in utterances(bench) for one in drafts(bench))


async def test_a_successor_of_extraction_says_the_same_from_each_record_on(open_bench: OpenBench) -> None:
    async with open_bench(**ENOUGH) as once:
        await send(once)
    spoken_log = once.log["speech"]
    assert drafts(once)
    for killed_at in range(1, len(spoken_log), 3):
        async with open_bench(**ENOUGH) as bench:
            frame = await taken_over(bench, spoken_log, killed_at)
            assert [one.value for one in bench.log["prints"]] == [one.value for one in once.log["prints"]]
            assert len(frame.acknowledged["speech"]) == len(spoken_log)


@pytest.mark.parametrize("rate_hz", [-1, 0, 1, 44_100])
def test_an_utterance_of_an_impossible_rate_is_refused_before_it_takes_memory(rate_hz: int) -> None:
    with pytest.raises(ValueError, match="8000 or 16000 Hz"):
        extractor.extract(cast(ModelSet, None), Utterance("call-1", 0, 0, 4000, rate_hz, bytes(8000)))
