"""Sessions, their samples, and trials of them: no audio is ever compared with itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.accuracy.audio import Band, read
from pipeline.accuracy.evaluation import Options
from pipeline.accuracy.sessions import (
    Condition,
    Extractor,
    chosen_clips,
    long_samples,
    merged,
    short_samples,
    whole_samples,
)
from pipeline.accuracy.trials import across, figures, joined, numbered, within
from pipeline.sample import sample_path
from pipeline.scoring.voiceprint import DIMENSION, EMPTY, SPEAKER_DIMENSION, Voiceprint
from pipeline.settings import default_cache_dir
from tests.accuracy.voices import sessions

OPTIONS = Options(cache_dir="", resamples=0)


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


@pytest.mark.parametrize("condition", [Condition(Band.WIDE), Condition(Band.TELEPHONE, 20)])
def test_real_recordings_become_sessions(clips: Path, condition: Condition) -> None:
    chosen = chosen_clips(clips, "speaker", limit=10)
    heard = Extractor(Options(cache_dir=default_cache_dir())).sessions(chosen, condition, lambda _: None, (1.0, 2.0))
    assert [(one.speaker, one.gender) for one in heard] == [("woman", "f"), ("woman", "f"), ("man", "m"), ("man", "m")]
    assert all(set(one.first) == {1.0, 2.0} for one in heard)
    assert all(one.first[2.0].speech_s == pytest.approx(2.0, abs=0.001) for one in heard)
    assert all(bool(one.utterances) == (condition.snr_db is None) for one in heard)
    trials = within(short_samples(heard, 2.0), OPTIONS)
    assert (len(trials.target), int(trials.target.sum())) == (6, 2)
    assert trials.llr[trials.target].min() > 0 > trials.llr[~trials.target].max()


def test_a_recording_is_heard_no_longer_than_a_call_is(tmp_path: Path) -> None:
    samples, rate_hz = soundfile.read(sample_path(), dtype="int16")
    soundfile.write(tmp_path / "woman.wav", samples[: 40 * rate_hz, 0], rate_hz)
    (tmp_path / "clips.csv").write_text("path,speaker\nwoman.wav,woman\n")
    chosen = chosen_clips(tmp_path / "clips.csv", "speaker", limit=1)

    def voiceprints(voiceprint_s: float, voice_s: float) -> list[Voiceprint]:
        options = Options(cache_dir=default_cache_dir(), voiceprint_enough_s=voiceprint_s, voice_enough_s=voice_s)
        (session,) = Extractor(options).sessions(chosen, Condition(Band.WIDE), lambda _: None, (1.0,))
        return session.utterances

    every, fewer = voiceprints(0.0, 0.0), voiceprints(8.0, 3.0)
    begins_s = np.cumsum([0.0, *(one.speech_s for one in every)])[:-1]
    assert len(fewer) == (begins_s < 8.0).sum() < len(every)
    assert 0 < (begins_s[: len(fewer)] < 3.0).sum() < len(fewer)
    for one, kept, begin_s in zip(every, fewer, begins_s, strict=False):
        same = DIMENSION if begin_s < 3.0 else SPEAKER_DIMENSION
        assert np.array_equal(kept.embedding[:same], one.embedding[:same])
        assert not kept.embedding[same:].any()


def test_a_speaker_with_one_recording_is_never_a_target(clips: Path) -> None:
    alone = clips.with_name("alone.csv")
    alone.write_text("path,speaker\n0_0.wav,woman\n1_0.wav,man\n")
    heard = Extractor(Options(cache_dir=default_cache_dir())).sessions(
        chosen_clips(alone, "speaker", limit=10), Condition(Band.WIDE), lambda _: None, (1.0, 2.0)
    )
    assert [len(one.utterances) > 0 for one in heard] == [True, True]
    for trials in (within(whole_samples(heard), OPTIONS), across(whole_samples(heard), short_samples(heard, 1.0), OPTIONS)):
        assert len(trials.target) > 0
        assert not trials.target.any()


def test_trials_that_are_put_together_number_each_speaker_once() -> None:
    made = sessions("a", 3, 2, seed=1) + sessions("b", 2, 2, seed=2)
    whole, short = whole_samples(made), short_samples(made, 1.0)
    numbers = numbered(whole)
    parts = [within(whole, OPTIONS, numbers), across(whole, short, OPTIONS, numbers)]
    trials = joined(parts)
    assert len(trials.target) == sum(len(part.target) for part in parts)
    assert (trials.target == (trials.speaker_a == trials.speaker_b)).all()
    assert set(trials.speaker_a[trials.target].tolist()) == set(range(5))


def test_of_a_larger_corpus_each_speaker_has_a_turn(tmp_path: Path) -> None:
    rows = [f"{speaker}{number}.wav,{speaker}" for speaker in "abc" for number in range(3)]
    (tmp_path / "clips.csv").write_text("\n".join(["path,speaker", *rows]))
    names = [clip.path.name for clip in chosen_clips(tmp_path / "clips.csv", "speaker", limit=4)]
    assert names == ["a0.wav", "a1.wav", "b0.wav", "c0.wav"]


def test_reading_mixes_channels(tmp_path: Path) -> None:
    both = np.array([[0.5, -0.25], [0.0, 0.5]] * 800)
    soundfile.write(tmp_path / "both.wav", both, 16_000)
    np.testing.assert_allclose(read(tmp_path / "both.wav"), both.mean(axis=1), atol=1e-4)
