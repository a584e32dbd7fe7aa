"""Sessions, their samples, and trials of them: no audio is ever compared with itself."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from pipeline.accuracy.audio import Band, read
from pipeline.accuracy.evaluation import Options
from pipeline.accuracy.sessions import (
    Condition,
    Extractor,
    chosen_clips,
    halves,
    long_samples,
    merged,
    short_samples,
    whole_samples,
)
from pipeline.accuracy.trials import across, figures, within
from pipeline.sample import sample_path
from pipeline.scoring.voiceprint import EMPTY
from pipeline.settings import default_cache_dir
from tests.accuracy.voices import sessions

OPTIONS = Options(cache_dir="", resamples=0)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_halves_share_no_sample_and_lose_none(lengths: list[int]) -> None:
    heard = np.split(np.arange(sum(lengths), dtype=np.float32), np.cumsum(lengths)[:-1])
    before, behind = halves(heard)
    assert np.concatenate([*before, *behind]).tolist() == list(range(sum(lengths)))
    assert abs(sum(map(len, before)) - sum(map(len, behind))) <= 1


def test_two_samples_of_a_speaker_are_of_different_sessions() -> None:
    made = sessions("a", 3, 4, seed=1)
    for samples in (short_samples(made, 2.0), whole_samples(made)):
        numbers = [one.session for one in samples]
        assert sorted(numbers) == sorted(set(numbers)) == list(range(12))
    # each session holds 7 s: two of them for 10 s, and none is in two samples
    long = long_samples(made, 10.0)
    assert len(long) == 6
    assert all(one.voiceprint.speech_s >= 10 for one in long)


def test_a_session_without_speech_has_no_sample() -> None:
    made = sessions("a", 2, 2, seed=1)
    silent = [type(made[0])("a", "a0", "m", [], {}), *made]
    assert len(whole_samples(silent)) == 4
    assert [one.session for one in whole_samples(silent)] == [1, 2, 3, 4]


def test_every_pair_of_a_corpus_is_one_trial_and_none_across_corpora() -> None:
    samples = whole_samples(sessions("a", 3, 2, seed=1) + sessions("b", 2, 2, seed=2))
    trials = within(samples, OPTIONS)
    assert (len(trials.target), int(trials.target.sum())) == (15 + 6, 3 + 2)
    assert trials.llr[trials.target].min() > trials.llr[~trials.target].max()


def test_a_session_is_not_compared_with_itself_across_lengths() -> None:
    made = sessions("a", 3, 2, seed=1)
    trials = across(whole_samples(made), short_samples(made, 1.0), OPTIONS)
    assert (len(trials.target), int(trials.target.sum())) == (6 * 6 - 6, 6)


def test_too_few_trials_have_no_figures() -> None:
    assert figures(within(whole_samples(sessions("a", 3, 2, seed=1)), OPTIONS), OPTIONS) == [3, 12, None, None, None, None]
    cells = figures(within(whole_samples(sessions("a", 30, 2, seed=1)), OPTIONS), OPTIONS)
    assert cells[:2] == [30, 60 * 59 // 2 - 30]
    assert None not in cells


def test_a_merge_of_nothing_is_empty() -> None:
    assert merged([]).speech_s == EMPTY.speech_s


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both channels of the bundled call, each a speaker with one recording."""
    folder = tmp_path_factory.mktemp("manifest")
    samples, rate_hz = soundfile.read(sample_path(), dtype="int16")
    with (folder / "clips.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "speaker", "gender"])
        for channel, gender in enumerate("fm"):
            soundfile.write(folder / f"{channel}.wav", samples[: 30 * rate_hz, channel], rate_hz)
            rows.writerow([f"{channel}.wav", f"s{channel}", gender])
    return folder / "clips.csv"


@pytest.mark.parametrize("condition", [Condition(Band.WIDE), Condition(Band.TELEPHONE, 20)])
def test_real_recordings_become_sessions(manifest: Path, condition: Condition) -> None:
    clips = chosen_clips(manifest, "speaker", limit=10)
    heard = Extractor(Options(cache_dir=default_cache_dir())).sessions(clips, condition, lambda _: None, (1.0, 2.0))
    assert [(one.speaker, one.gender) for one in heard] == [("s0", "f"), ("s0", "f"), ("s1", "m"), ("s1", "m")]
    assert all(set(one.first) == {1.0, 2.0} for one in heard)
    assert all(one.first[2.0].speech_s == pytest.approx(2.0, abs=0.001) for one in heard)
    assert all(bool(one.utterances) == (condition.snr_db is None) for one in heard)
    trials = within(short_samples(heard, 2.0), OPTIONS)
    assert trials.llr[trials.target].min() > 0 > trials.llr[~trials.target].max()


def test_of_a_larger_corpus_each_speaker_has_a_turn(tmp_path: Path) -> None:
    rows = [f"{speaker}{number}.wav,{speaker}" for speaker in "abc" for number in range(3)]
    (tmp_path / "clips.csv").write_text("\n".join(["path,speaker", *rows]))
    names = [clip.path.name for clip in chosen_clips(tmp_path / "clips.csv", "speaker", limit=4)]
    assert names == ["a0.wav", "a1.wav", "b0.wav", "c0.wav"]


def test_reading_mixes_channels(manifest: Path) -> None:
    assert read(manifest.parent / "0.wav").ndim == 1
