"""The capacity planner: what grows with what, and that a plan is whole."""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from pipeline import planning_here
from pipeline.cli import main
from pipeline.models.errors import ModelUnreachableError
from pipeline.planning import (
    PROCESSORS,
    Costs,
    Plan,
    TooMuchForACoreError,
    Traffic,
    bytes_of_call,
    cpu_of_call,
    plan,
)
from pipeline.planning_here import Say, costs_here
from pipeline.scoring import extraction
from pipeline.settings import Settings
from pipeline.topics import TOPICS

COSTS = Costs()


@pytest.mark.parametrize(
    ("processor", "calls", "voice_s", "measured"),
    [("vnni", 60, 32.0, 0.60), ("vnni", 80, 32.0, 0.82), ("avx2", 10, 9.6, 0.16), ("avx2", 20, 9.6, 0.31)],
)
def test_it_agrees_with_the_loads_that_were_measured(processor: str, calls: int, voice_s: float, measured: float) -> None:
    """Of `benchmarks.live`, docs/performance.md: English and Italian, 40 % speech, 5 minutes, records of 250 ms.

    Where it says 32 s, voice embeddings were of as much speech as the voiceprints that they are in. There were no drafts.
    """
    costs = msgspec.structs.replace(PROCESSORS[processor], voice_enough_s=voice_s, drafted=0.0, in_vain=0.0)
    load = calls * cpu_of_call(Traffic(calls=calls, language_s=12.0), costs) + costs.idle_cpu_s
    assert load == pytest.approx(measured, rel=0.05)


@given(st.integers(1, 100_000), st.floats(0, 1), st.floats(10, 7200))
def test_a_cost_grows_in_a_straight_line_with_calls(calls: int, speech: float, call_s: float) -> None:
    one, many = (plan(Traffic(calls=each, speech=speech, call_s=call_s)) for each in (calls, 10 * calls))
    assert many.cores == pytest.approx(10 * one.cores, rel=0.01, abs=0.1)
    assert many.disk_bytes == pytest.approx(10 * one.disk_bytes, rel=1e-6, abs=10)
    for each in (one, many):
        assert each.workers >= each.cores
        assert each.partitions >= each.workers
        assert each.calls_per_worker * each.workers >= 0.9 * calls


@given(st.floats(0, 0.9), st.floats(10, 7200))
def test_more_speech_costs_more_and_a_longer_call_less_a_second(speech: float, call_s: float) -> None:
    now = Traffic(calls=1, speech=speech, call_s=call_s)
    assert cpu_of_call(Traffic(calls=1, speech=speech + 0.1, call_s=call_s), COSTS) > cpu_of_call(now, COSTS)
    assert cpu_of_call(Traffic(calls=1, speech=speech, call_s=2 * call_s), COSTS) <= cpu_of_call(now, COSTS)
    assert bytes_of_call(now, COSTS)["speech"] <= (1 + COSTS.drafted) * bytes_of_call(now, COSTS)["media"]


def test_behind_what_is_enough_a_call_writes_no_more_prints() -> None:
    """A call of twice the length has as many: their share of its bytes is half."""
    short, long = (bytes_of_call(Traffic(calls=1, call_s=each), COSTS)["prints"] for each in (300, 600))
    assert long == pytest.approx(short / 2)
    assert bytes_of_call(Traffic(calls=1, call_s=20), COSTS)["prints"] > short


def test_what_is_written_goes_to_topics_that_there_are() -> None:
    assert set(bytes_of_call(Traffic(calls=1), COSTS)) <= {topic.name for topic in TOPICS}


def run(*arguments: str, **environment: str) -> str:
    settings = {f"CALLSTREAM_{name.upper()}": value for name, value in environment.items()}
    done = CliRunner().invoke(main, ["plan", *arguments], env=settings)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_a_processor_without_vnni_takes_more_cores() -> None:
    old, new = (json.loads(run("--calls", "1000", "--json", "--processor", name)) for name in ("avx2", "vnni"))
    assert old["cores"] > 1.5 * new["cores"]
    assert old["disk_bytes"] == new["disk_bytes"]
    assert "0.95 s" in run("--calls", "1000", "--processor", "avx2")


def cores(**environment: str) -> float:
    return float(json.loads(run("--calls", "1000", "--json", **environment))["cores"])


def test_a_plan_is_for_what_the_settings_take_for_enough() -> None:
    """0 is never: of 120 s of speech in a call's channel all are heard. A voice is heard only where a voiceprint is wanted."""
    assert cores() == cores(voiceprint_enough_s="30", voice_enough_s="8") == plan(Traffic(calls=1000)).cores
    assert cores(voiceprint_enough_s="5") < cores() < cores(voiceprint_enough_s="60") < cores(voiceprint_enough_s="0")
    assert cores() < cores(voice_enough_s="20") < cores(voice_enough_s="0") == cores(voice_enough_s="200")
    assert cores(voiceprint_enough_s="0", voice_enough_s="0") == cores(voiceprint_enough_s="200", voice_enough_s="200")
    assert cores(voiceprint_enough_s="5", voice_enough_s="5") == cores(voiceprint_enough_s="5")


def test_languages_may_be_identified_to_the_end_of_a_call() -> None:
    assert cores(language_enough="0") == plan(Traffic(calls=1000, language_s=120.0)).cores > cores()


def test_drafts_that_are_off_cost_nothing() -> None:
    without = json.loads(run("--calls", "1000", "--json", drafts="false"))
    plain = plan(Traffic(calls=1000), msgspec.structs.replace(COSTS, drafted=0.0, in_vain=0.0))
    assert without["cores"] == plain.cores < cores()
    assert without["written_bytes_per_s"]["speech"] == plain.written_bytes_per_s["speech"] == 1000 * 2 * 0.4 * 16_000


def test_a_plan_is_said_in_words_and_as_json() -> None:
    found = json.loads(run("--calls", "10000", "--speech", "0.4", "--json"))
    assert set(found) == set(Plan.__struct_fields__)
    assert found["workers"] > 10
    lines = run("--calls", "10000", "--speech", "0.4").splitlines()
    assert [line.split()[0] for line in lines] == ["cores", "workers", "partitions", "topics", "brokers"]
    assert str(found["workers"]) in lines[1]


def test_half_the_bytes_need_half_the_traffic() -> None:
    whole, half = (json.loads(run("--calls", "50", "--encoding", one, "--json")) for one in ("pcm_s16le", "mulaw"))
    assert half["written_bytes_per_s"]["media"] < 0.6 * whole["written_bytes_per_s"]["media"]
    assert half["cores"] == whole["cores"]


def test_calls_must_be_said() -> None:
    assert CliRunner().invoke(main, ["plan"]).exit_code == 2


def test_a_plan_for_this_machine_is_of_what_is_measured_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[Costs] = []

    def recorded(settings: Settings, say: Say) -> Costs:
        measured.append(costs_here(settings, say))
        return measured[0]

    monkeypatch.setattr(planning_here, "costs_here", recorded)
    done = CliRunner().invoke(main, ["plan", "--calls", "10", "--processor", "here", "--json"])
    assert done.exit_code == 0, done.stderr
    here, known = measured[0], PROCESSORS["avx2"]
    differs = {name for name in Costs.__struct_fields__ if getattr(here, name) != getattr(known, name)} | {"latest_s"}
    assert differs == {name for name in Costs.__struct_fields__ if name.endswith("_cpu_s")} | {"latest_s"}
    # No machine is a hundred times as fast, or as slow: it would be the unit that is wrong.
    assert all(0.01 < getattr(here, name) / getattr(known, name) < 100 for name in differs)
    assert here.chunk_cpu_s / known.chunk_cpu_s == pytest.approx(here.detection_cpu_s / known.detection_cpu_s)
    assert json.loads(done.stdout)["cores"] == plan(Traffic(calls=10), here).cores
    said = [line.rpartition(": ")[2] for line in done.stderr.splitlines() if "measuring models" in line]
    assert said == ["voiceprint", "voice", "language"]


def cannot_be_planned(*arguments: str, **environment: str) -> str:
    """What the one line says."""
    settings = {f"CALLSTREAM_{name.upper()}": value for name, value in environment.items()}
    done = CliRunner().invoke(main, ["plan", "--calls", "10", *arguments], env=settings)
    assert done.exit_code == 1
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("callstream: ")
    return line


def test_without_its_models_a_machine_cannot_be_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise ModelUnreachableError("the registry does not answer")

    monkeypatch.setattr(extraction, "fetch", unreachable)
    assert "does not answer" in cannot_be_planned("--processor", "here")
    (tmp_path / "empty").touch()
    assert "manifest" in cannot_be_planned("--processor", "here", models_manifest=str(tmp_path / "empty"))


def test_what_a_gpu_takes_is_not_measured() -> None:
    assert "CALLSTREAM_INFERENCE_PROVIDER=cpu" in cannot_be_planned("--processor", "here", inference_provider="cuda")


def test_a_call_that_one_core_cannot_bear_is_not_planned() -> None:
    one = ("--processor", "avx2", "--channels", "8", "--speech", "1", "--call-seconds", "10")
    assert re.search(r"one such call takes \d\d\d?% of a core, of which 58% may be used", cannot_be_planned(*one))


@given(st.floats(0.001, 10))
def test_no_plan_has_less_than_a_call_for_a_worker(slower: float) -> None:
    """Where a machine is so much slower; none is said, or one that can be followed."""
    costs = {name: getattr(COSTS, name) * slower for name in Costs.__struct_fields__ if name.endswith("_cpu_s")}
    with contextlib.suppress(TooMuchForACoreError):
        assert plan(Traffic(calls=100, channels=8), msgspec.structs.replace(COSTS, **costs)).calls_per_worker >= 1


def test_of_several_times_the_least_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on while the model hears: 5, 3 and 4 s, then 2, 2 and 1 s."""
    now_s, left_s = 0.0, [5.0, 3.0, 4.0, 2.0, 2.0, 1.0]

    def model(_: object) -> None:
        nonlocal now_s
        now_s += left_s.pop(0)

    monkeypatch.setattr(time, "thread_time", lambda: now_s)
    silence = np.zeros(16_000, np.float32)
    assert list(planning_here.least_s(model, [silence, silence])) == [3.0, 1.0]
