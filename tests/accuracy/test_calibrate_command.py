"""`callstream calibrate` as a user meets it, and a worker's agents with what it made."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from agents.comparison import ComparisonStage
from agents.gender import GenderStage
from pipeline.accuracy import calibrate as calibration
from pipeline.cli import main
from pipeline.scoring.calibration import built_in_comparison, built_in_gender
from pipeline.scoring.language_calibration import calibration_of
from pipeline.scoring.profile import Profile, load_profile
from pipeline.scoring.voiceprint import MODEL, encode
from pipeline.settings import Settings
from schemas.requests import StartTask
from schemas.results import ComparisonResult, GenderResult
from tests.scoring.test_calibration import voices


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["calibrate", *map(str, arguments)])


def test_real_recordings_make_a_profile(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MIN_SPEAKERS", 2)
    monkeypatch.setenv("CALLSTREAM_LANGUAGE_MODEL", "tiny")
    made = clips.parent / "profile.json"
    done = run(clips, "--output", made, "--band", "telephone")
    assert done.exit_code == 0, done.stderr
    said = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert said[:4] == ["comparison", "gender", "language", str(made)]
    profile, built_in = load_profile(str(made)), built_in_comparison()
    written = json.loads(made.read_bytes())
    assert (written["voiceprint_model"], written["language_size"]) == (MODEL, "tiny")
    assert profile.language is not None
    assert profile.language.exponent == calibration_of("tiny").exponent
    assert profile.comparison is not None
    assert profile.comparison.provenance.data == {clips.parent.name: 4}
    assert profile.comparison.speaker_means.wide == built_in.speaker_means.wide
    assert profile.comparison.speaker_means.telephone != built_in.speaker_means.telephone


def test_what_is_not_known_of_the_recordings_stays_as_built_in(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "MIN_SPEAKERS", 2)
    listed = clips.parent / "unlabelled.csv"
    listed.write_text("path,speaker\n0_0.wav,woman\n1_0.wav,man\n")
    made = clips.parent / "profile.json"
    done = run(listed, "--output", made, "--band", "wide")
    assert done.exit_code == 0, done.stderr
    said = done.stdout.splitlines()
    assert said[0] == "comparison: the means are the source's; no speaker was recorded twice, so the scores are not scaled"
    assert [line.split()[1] for line in said[1:3]] == ["as", "as"]
    profile = load_profile(str(made))
    assert (profile.gender, profile.language) == (None, None)
    assert profile.comparison is not None
    assert profile.comparison.weights == built_in_comparison().weights
    assert profile.comparison.speaker_means.wide != built_in_comparison().speaker_means.wide


def test_too_few_speakers_make_none(clips: Path) -> None:
    done = run(clips, "--output", clips.parent / "profile.json")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "speech of 2 speakers (wide); a profile takes 5" in done.stderr.splitlines()[-1]


def test_a_folder_that_is_not_there_is_found_out_first(clips: Path) -> None:
    done = run(clips, "--output", clips.parent / "none" / "profile.json")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("callstream: ")
    assert "No such file or directory" in done.stderr.splitlines()[-1]
    assert len(done.stderr.splitlines()) == 1


def test_what_fails_leaves_no_profile_and_the_one_before_as_it_was(clips: Path) -> None:
    made, before = clips.parent / "profile.json", sorted(clips.parent.iterdir())
    assert run(clips, "--output", made).exit_code == 1
    assert sorted(clips.parent.iterdir()) == before
    made.write_text("mine")
    assert run(clips, "--output", made).exit_code == 1
    assert made.read_text() == "mine"


def test_the_list_is_not_written_over(clips: Path) -> None:
    listed = clips.read_text()
    done = run(clips, "--output", clips)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "--output is the list itself" in done.stderr
    assert clips.read_text() == listed


def settings_with(profile: Profile, folder: Path) -> Settings:
    path = folder / f"{uuid.uuid4()}.json"
    path.write_bytes(msgspec.json.encode(profile))
    return Settings(calibration_profile=str(path))


def test_agents_score_with_the_profile_of_their_settings(tmp_path: Path) -> None:
    texts = [encode(one) for one in voices(2, 1)]
    comparison = msgspec.structs.replace(built_in_comparison(), weights=[0.0] * 7, bias=1.5)
    gender = msgspec.structs.replace(built_in_gender(), weights=[0.0] * 3, bias=-2.0)
    settings = settings_with(Profile(comparison=comparison, gender=gender, voiceprint_model=MODEL), tmp_path)
    compared = ComparisonStage(settings).answer(StartTask(voiceprints_a=texts, voiceprints_b=texts))
    told = GenderStage(settings).answer(StartTask(voiceprints=texts))
    assert isinstance(compared, ComparisonResult)
    assert compared.scores.values == [1.5] * 4
    assert isinstance(told, GenderResult)
    assert [one.male and one.male.score_llr for one in told.voiceprints] == [-2.0, -2.0]


def test_a_worker_with_a_broken_profile_says_so_and_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "profile.json"
    broken.write_text("{")
    monkeypatch.setenv("CALLSTREAM_CALIBRATION_PROFILE", str(broken))
    monkeypatch.setenv("CALLSTREAM_BROKER", "127.0.0.1:1")
    worker = CliRunner().invoke(main, ["worker", "--agents", "gender"])
    assert worker.exit_code == 2
    told = f"callstream: CALLSTREAM_CALIBRATION_PROFILE: {broken} is no calibration profile: "
    assert worker.stderr.splitlines()[-1].startswith(told)
    evaluated = CliRunner().invoke(main, ["evaluate", str(broken), "--technology", "gender"])
    assert evaluated.exit_code == 1
    assert evaluated.stderr.splitlines()[-1].startswith(f"callstream: {broken} is no calibration profile: ")


def test_a_profile_for_another_language_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(msgspec.json.encode(Profile(language=calibration_of("tiny"), language_size="tiny")))
    monkeypatch.setenv("CALLSTREAM_CALIBRATION_PROFILE", str(path))
    monkeypatch.setenv("CALLSTREAM_BROKER", "127.0.0.1:1")
    monkeypatch.setenv("CALLSTREAM_LANGUAGE_MODEL", "base")
    worker = CliRunner().invoke(main, ["worker", "--agents", "language"])
    assert worker.exit_code == 2
    assert "is for the language model tiny, not for base: make another" in worker.stderr.splitlines()[-1]
