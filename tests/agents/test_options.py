"""What a call's options make of its results, over the whole chain."""

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from pipeline.options import MAX_OPTIONS_BYTES, OptionsError, read_options
from pipeline.scoring.language_choice import language_faults
from pipeline.scoring.voiceprint import DIMENSION, Voiceprint, encode
from schemas.media import LanguageGroup
from schemas.stream import SpeechRecord, Utterance
from schemas.tasks import Technology
from tests.agents.conftest import OpenBench
from tests.agents.test_chain import CALL, COMPARISON, GENDER, LANGUAGE, VAD, VOICEPRINT, send
from tests.harness import Bench, media_headers, sample_audio

REFERENCE = encode(Voiceprint(np.random.default_rng(3).standard_normal(DIMENSION).astype(np.float32), 3.0))
LIMIT_S = 4.567


async def heard(open_bench: OpenBench, seconds: float, cuts: list[int] | None = None, **options: Any) -> Bench:
    """A bench that heard the sample's first seconds with these options."""
    async with open_bench() as bench:
        await send(bench, sample_audio(0, seconds), cuts, options=json.dumps(options) if options else None)
    assert bench.dead_letters() == []
    return bench


def results(bench: Bench) -> dict[str, Any]:
    return {technology: records[-1]["result"] for (_, technology), records in bench.transitions().items()}


def test_options_that_are_too_large_for_a_record_are_refused() -> None:
    """A number of one character takes nine bytes there."""
    priors = {f"a{number:x}": 0 for number in range(75_000)}
    text = json.dumps({"technologies": [VAD], "language_priors": priors}, separators=(",", ":"))
    assert len(text) < MAX_OPTIONS_BYTES
    with pytest.raises(OptionsError, match="more than 1000000 bytes in a record") as caught:
        read_options(text)
    assert caught.value.named.technologies == [VAD]


async def test_channel_numbers_and_begin_are_those_of_the_file(open_bench: OpenBench) -> None:
    plain = results(await heard(open_bench, 14, compare_with=[REFERENCE]))
    filed = results(await heard(open_bench, 14, compare_with=[REFERENCE], channel_numbers=[7, 3], start_time=60.0005))
    for technology in (VAD, VOICEPRINT, LANGUAGE, GENDER):
        assert [channel.pop("channel_number") for channel in filed[technology]["channels"]] == [7, 3]
        assert [channel.pop("channel_number") for channel in plain[technology]["channels"]] == [0, 1]
    assert (plain[COMPARISON].pop("channels"), filed[COMPARISON].pop("channels")) == ([0, 1], [7, 3])
    for channel in filed[VAD]["channels"]:
        for segment in channel["segments"]:
            for name in ("start_time", "end_time"):
                segment[name] = round(segment[name] - 60.0, 3)
    assert filed == plain


async def test_missing_audio_has_its_time_in_the_file(open_bench: OpenBench) -> None:
    options = json.dumps({"technologies": [VAD], "start_time": 10.25})
    async with open_bench(reorder_window_s=0.0) as bench:
        for sequence in (0, 1, 3):
            headers = media_headers(sequence, end=sequence == 3) | ({"options": options} if sequence == 0 else {})
            await bench.produce("media", CALL, sample_audio(sequence, sequence + 1), headers)
        await bench.tick()
    channels = bench.final("call-1", VAD)["result"]["channels"]
    assert [channel["missing"] for channel in channels] == [[{"start_time": 12.25, "end_time": 13.25}]] * 2


async def test_no_more_speech_than_the_limit_is_used(open_bench: OpenBench) -> None:
    plain = await heard(open_bench, 20)
    capped = await heard(open_bench, 20, max_speech_length=LIMIT_S)
    recut = await heard(open_bench, 20, [7, 100_003, 300_001, 420_000], max_speech_length=LIMIT_S)
    assert recut.values() == capped.values()
    assert capped.transitions()["call-1", VAD] == plain.transitions()["call-1", VAD]
    spoken = [channel["speech_length"] for channel in results(plain)[VAD]["channels"]]
    assert max(spoken) > LIMIT_S
    for technology in (VOICEPRINT, LANGUAGE, GENDER):
        lengths = [channel["speech_length"] for channel in results(capped)[technology]["channels"]]
        assert lengths == [min(length, LIMIT_S) for length in spoken]
    assert len(capped.log["prints"]) < len(plain.log["prints"])


def utterances(bench: Bench) -> list[Utterance]:
    said = [msgspec.msgpack.decode(record.value or b"", type=SpeechRecord) for record in bench.log["speech"]]
    return [one for one in said if isinstance(one, Utterance)]


async def test_the_limit_cuts_an_utterance_at_its_sample(open_bench: OpenBench) -> None:
    whole = utterances(await heard(open_bench, 20, technologies=[VOICEPRINT]))
    capped = utterances(await heard(open_bench, 20, technologies=[VOICEPRINT], max_speech_length=LIMIT_S))
    for channel in (0, 1):
        all_of, used = ([one for one in found if one.channel == channel] for found in (whole, capped))
        *uncut, last = used
        assert uncut == all_of[: len(uncut)]
        cut = all_of[len(uncut)]
        assert last.start_sample == cut.start_sample
        assert last.audio == cut.audio[: len(last.audio)]
        assert sum(one.end_sample - one.start_sample for one in used) == sum(len(one.audio) // 2 for one in used)
        assert sum(len(one.audio) // 2 for one in used) == round(min(LIMIT_S, sum(one.speech_s for one in all_of)) * 8000)


async def test_a_limit_under_every_utterance_uses_its_begin_alone(open_bench: OpenBench) -> None:
    bench = await heard(open_bench, 8, max_speech_length=0.001)
    lengths = [channel["speech_length"] for channel in results(bench)[VOICEPRINT]["channels"]]
    spoken = [channel["speech_length"] for channel in results(bench)[VAD]["channels"]]
    assert lengths == [min(length, 0.001) for length in spoken]
    none = await heard(open_bench, 8, max_speech_length=0.0009)
    assert [channel["speech_length"] for channel in results(none)[VOICEPRINT]["channels"]] == [0, 0]


async def test_languages_are_scored_in_groups_with_prior_weights(open_bench: OpenBench) -> None:
    groups = [{"identifier": "germanic", "languages": ["en", "de"]}, {"identifier": "classical", "languages": ["la"]}]
    options: dict[str, Any] = {"technologies": [LANGUAGE], "language_groups": groups}
    found = results(await heard(open_bench, 10, **options))[LANGUAGE]["channels"]
    top = found[0]["scores"][0]
    assert (top["identifier"], top["identifier_type"], top["languages"][0]["identifier"]) == ("germanic", "group", "en")
    for channel in found:
        assert not {"en", "de", "la"} & {score["identifier"] for score in channel["scores"]}
    weighed = results(await heard(open_bench, 10, **options, language_priors={"en": 0.0}))[LANGUAGE]["channels"]
    assert '"en"' not in json.dumps([score.get("languages") for score in weighed[0]["scores"]])


@pytest.mark.parametrize(
    ("options", "location", "kind"),
    [
        (
            {"language_groups": [{"identifier": "a", "languages": ["tlh"]}]},
            ["language_groups", 0, "languages", 0],
            "language.unknown",
        ),
        (
            {"language_groups": [{"identifier": "fr", "languages": ["en"]}]},
            ["language_groups", 0, "identifier"],
            "group.invalid",
        ),
        ({"language_priors": {"tlh": 1}}, ["language_priors", "tlh"], "language.unknown"),
        ({"languages": ["en"], "language_priors": {"en": 0}}, ["language_priors"], "prior.invalid"),
    ],
)
async def test_languages_that_cannot_be_told_apart_so_reject_the_language_task_alone(
    open_bench: OpenBench, options: dict[str, Any], location: list[Any], kind: str
) -> None:
    bench = await heard(open_bench, 2, technologies=[VAD, LANGUAGE], **options)
    assert bench.final("call-1", VAD)["task"]["state"] == "done"
    final = bench.final("call-1", LANGUAGE)
    assert final["task"]["state"] == "rejected"
    (detail,) = final["error"]["detail"]
    assert (detail["location"], detail["type"]) == (["options", *location], kind)


INCONSISTENT = [
    (
        {"language_groups": [{"identifier": "a", "languages": ["en"]}, {"identifier": "b", "languages": ["fr", "en"]}]},
        ["language_groups", 1, "languages", 1],
    ),
    ({"language_groups": [{"identifier": "a", "languages": ["en", "en"]}]}, ["language_groups", 0, "languages", 1]),
    (
        {"language_groups": [{"identifier": "a", "languages": ["en"]}, {"identifier": "a", "languages": ["fr"]}]},
        ["language_groups", 1, "identifier"],
    ),
    (
        {"language_groups": [{"identifier": "x\ny", "languages": ["en"]}, {"identifier": "en", "languages": ["fr"]}]},
        ["language_groups", 1, "identifier"],
    ),
    (
        {"languages": ["qya"], "language_groups": [{"identifier": "qya", "languages": ["en"]}]},
        ["language_groups", 0, "identifier"],
    ),
]


@pytest.mark.parametrize(("options", "location"), INCONSISTENT)
def test_inconsistent_groups_are_refused_in_one_line(options: dict[str, Any], location: list[Any]) -> None:
    with pytest.raises(OptionsError) as refused:
        read_options(json.dumps(options))
    assert "\n" not in str(refused.value)
    assert (refused.value.location, refused.value.type) == (["options", *location], "group.invalid")


@pytest.mark.parametrize(
    "options",
    [
        {"language_priors": {"en": 1.5}},
        {"language_priors": {"en": -0.1}},
        {"language_groups": [{"identifier": "a", "languages": []}]},
        {"language_groups": [{"identifier": "", "languages": ["en"]}]},
        {"max_speech_length": 0},
        {"channel_numbers": [-1]},
        {"start_time": -1},
        {"owner": ""},
        {"a\nb": 1},
        {"correlation_id": "a\r\nb"},
    ],
)
def test_values_out_of_bounds_are_refused_in_one_line(options: dict[str, Any]) -> None:
    with pytest.raises(OptionsError, match=r"^options: .+$") as refused:
        read_options(json.dumps(options))
    assert "\n" not in str(refused.value)


def test_the_case_of_a_language_means_nothing() -> None:
    groups = [{"identifier": "West", "languages": ["EN"]}]
    spelt = {"languages": ["En", "cs"], "language_groups": groups, "language_priors": {"EN": 0.5, "en": 0.25}}
    options = read_options(json.dumps(spelt))
    assert (options.languages, options.language_priors) == (["en", "cs"], {"en": 0.25})
    assert options.language_groups == [LanguageGroup("West", ["en"])]
    assert not language_faults(options)
    with pytest.raises(OptionsError, match="'en' is grouped twice"):
        read_options(json.dumps({"language_groups": [*groups, {"identifier": "b", "languages": ["en"]}]}))


@pytest.mark.parametrize(("tag", "says"), [("en-US", "not their regions or scripts: 'en'"), ("xx-US", "model knows")])
def test_a_language_with_a_region_is_refused_with_its_name_alone(tag: str, says: str) -> None:
    [fault] = language_faults(read_options(json.dumps({"languages": [tag]})))
    assert (fault.location, fault.type) == (["options", "languages", 0], "language.unknown")
    assert fault.message.startswith(repr(tag))
    assert fault.message.endswith(says)


async def test_channel_numbers_for_other_channels_reject_every_task(open_bench: OpenBench) -> None:
    options = json.dumps({"channel_numbers": [1, 2, 3], "owner": "anna"})
    async with open_bench() as bench:
        await bench.produce("media", CALL, sample_audio(0, 1), media_headers(0, end=True, options=options))
    assert bench.dead_letters() == ["options.invalid"]
    assert len(bench.transitions()) == 4
    for records in bench.transitions().values():
        assert [record["task"]["state"] for record in records] == ["pending", "running", "rejected"]
        assert [record["owner"] for record in records] == ["anna"] * 3
        assert records[-1]["error"]["detail"][0]["location"] == ["options", "channel_numbers"]


async def test_every_record_of_a_call_names_its_owner(open_bench: OpenBench) -> None:
    everything = [technology.value for technology in Technology]
    bench = await heard(open_bench, 5, technologies=everything, compare_with=[REFERENCE], owner="anna", languages=["tlh"])
    assert len(bench.transitions()) == len(everything)
    assert bench.final("call-1", LANGUAGE)["task"]["state"] == "rejected"
    assert {record["owner"] for records in bench.transitions().values() for record in records} == {"anna"}
    nobody = await heard(open_bench, 2)
    assert all("owner" not in record for records in nobody.transitions().values() for record in records)


@pytest.mark.parametrize("fault", [{"max_speech_length": 0}, {"technologies": []}, {"compare_with": [REFERENCE] * 800}])
async def test_faulty_options_reject_the_comparison_that_they_ask_for(open_bench: OpenBench, fault: dict[str, Any]) -> None:
    """Its producer knows the task, as of good options."""
    options = json.dumps({"compare_with": [REFERENCE]} | fault)
    async with open_bench() as bench:
        await bench.produce("media", CALL, sample_audio(0, 1), media_headers(0, end=True, options=options))
    assert set(bench.transitions()) == {("call-1", technology.value) for technology in Technology}
    assert {records[-1]["task"]["state"] for records in bench.transitions().values()} == {"rejected"}


@pytest.mark.parametrize("options", ['{"owner": "anna", "tecnologies": []}', '{"owner": "anna", "technologies": []}'])
async def test_a_rejection_of_the_options_names_the_owner(open_bench: OpenBench, options: str) -> None:
    async with open_bench() as bench:
        await bench.produce("media", CALL, sample_audio(0, 1), media_headers(0, end=True, options=options))
    assert {record["owner"] for records in bench.transitions().values() for record in records} == {"anna"}


async def test_a_failure_names_the_owner(open_bench: OpenBench) -> None:
    async with open_bench() as bench:
        await bench.produce("media", CALL, sample_audio(0, 1), media_headers(0, options='{"owner": "anna"}'))
        await bench.frames[0].stage.fail(bench.log["media"][0], "it broke")
        await bench.settle()
    for records in bench.transitions().values():
        assert records[-1]["task"]["state"] == "failed"
        assert {record["owner"] for record in records} == {"anna"}


async def test_a_file_is_not_ended_by_silence(open_bench: OpenBench) -> None:
    day_s = 24 * 3600
    options = json.dumps({"technologies": [VAD], "is_file": True})
    async with open_bench(idle_timeout_s=0.001) as bench:
        await bench.produce("media", CALL, sample_audio(0, 1), media_headers(0, options=options))
        call = bench.frames[0].stage._calls["call-1"]  # type: ignore[attr-defined]
        bench.clock_s += day_s - 1
        await bench.produce("media", CALL, sample_audio(1, 2), media_headers(1))
        call.last_arrival_s -= day_s - 60
        await bench.tick()
        assert bench.final("call-1", VAD)["task"]["state"] == "running"
        call.last_arrival_s -= 60
        await bench.tick()
        assert bench.final("call-1", VAD)["task"]["state"] == "failed"  # half of a file would look like all of it
    assert bench.dead_letters() == []


async def test_a_file_whose_records_are_a_day_apart_has_ended_in_between(open_bench: OpenBench) -> None:
    options = json.dumps({"technologies": [VAD], "is_file": True})
    async with open_bench() as bench:
        await bench.produce("media", CALL, sample_audio(0, 1), media_headers(0, options=options))
        bench.clock_s += 24 * 3600
        await bench.produce("media", CALL, sample_audio(1, 2), media_headers(1, end=True))
    assert bench.final("call-1", VAD)["task"]["state"] == "failed"  # half of a file is no answer
    assert bench.dead_letters() == []  # nothing of a failed call is heard any more, nor asked for again
