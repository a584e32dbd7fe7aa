"""The evaluation of languages: what its figures count, and one run over real speech."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.accuracy import languages
from pipeline.accuracy.evaluation import Measured, Options
from pipeline.accuracy.language_fitting import Examples, fitted, rescaled
from pipeline.accuracy.language_trials import Heard, Posteriors, chosen_clips, heard_in, trials
from pipeline.accuracy.languages import Scoring, at_length, detection_llr, figures, macro_right
from pipeline.accuracy.manifest import Clip, ManifestError
from pipeline.models.language import LABELS, MASKED_BY_DEFAULT
from pipeline.scoring.language_calibration import UNCALIBRATED
from pipeline.settings import default_cache_dir

OPTIONS = Options(cache_dir="", resamples=0)
IDENTITY = UNCALIBRATED


def says(language: str, probability: float = 0.95, speech_s: float = 4.0) -> Posteriors:
    """One utterance of which the model says this; the rest goes to the others alike."""
    log_posteriors = np.full(len(LABELS), np.log((1 - probability) / (len(LABELS) - 1)), np.float32)
    log_posteriors[LABELS.index(language)] = np.log(probability)
    return [(log_posteriors, speech_s)]


def channel(truth: str, said: str, probability: float = 0.95, speaker: str = "") -> tuple[Clip, Posteriors]:
    return Clip(Path(f"{truth}{said}{speaker}.wav"), "corpus", speaker, "", truth), says(said, probability)


def values(cells: Sequence[object]) -> list[float | int | None]:
    return [cell.value if isinstance(cell, Measured) else cell for cell in cells]  # type: ignore[misc]


def test_figures_count_what_they_are_named_after() -> None:
    channels = [
        *[channel("en", "en")] * 6,
        channel("en", "la"),  # not among the default languages: there the rest are alike, and the first is said
        channel("it", "en"),
        channel("it", "it", 0.2),  # below the floor
        channel("fr", "fr"),
    ]
    scoring = Scoring(IDENTITY, 0.3, ["en", "fr", "it"], [one for one in LABELS if one != "la"])
    count, spoken, open_set, default, macro, listed, answered, error, unknown = values(figures(channels, scoring, OPTIONS))
    assert (count, spoken) == (10, 3)
    assert open_set == pytest.approx(70.0)
    assert default == listed == pytest.approx(80.0)  # "la" is not allowed, so the first of the others that are alike: English
    assert macro == pytest.approx(100 * (7 / 7 + 0 / 2 + 1) / 3)
    assert answered == pytest.approx(100 * 8 / 9)
    assert unknown == pytest.approx(10.0)
    assert error is not None
    assert 0 < error < 100


def test_too_few_recordings_have_no_figures() -> None:
    scoring = Scoring(IDENTITY, 0.0, ["en"], list(LABELS))
    assert figures([channel("en", "en")] * 4, scoring, OPTIONS) == [4, 1, *[None] * 7]


def test_each_language_counts_the_same_in_the_macro_average() -> None:
    scored = trials([*[channel("en", "en")] * 9, channel("it", "en")], LABELS, IDENTITY, 0.0)
    assert macro_right(scored, np.ones(10)) == 0.5
    assert macro_right(scored, np.array([1.0] * 9 + [0.0])) == 1.0


def test_detection_is_against_the_other_languages_at_equal_priors() -> None:
    listed = ["en", "fr", "it"]
    scored = trials([channel("en", "en", 0.5), channel("it", "it", 0.1)], listed, IDENTITY, 0.3)
    llr, place = detection_llr(scored, listed)
    assert place.tolist() == [0, 2]
    share = scored.probability[0, LABELS.index("en")]
    assert llr[0, 0] == pytest.approx(np.log(share / (1 - share)) + np.log(2))
    assert np.isneginf(llr[1]).all()


def test_first_seconds_are_cut_from_the_utterances() -> None:
    lengths: list[int] = []

    class Counting:
        def log_posteriors(self, samples: np.ndarray) -> np.ndarray:
            lengths.append(len(samples))
            return np.zeros(len(LABELS), np.float32)

    clip = Clip(Path("a.wav"), "corpus", "", "", "en")
    heard = heard_in(clip, [np.zeros(32_000, np.float32)] * 2, Counting(), (1.0, 2.0, 3.0, 5.0))  # type: ignore[arg-type]
    assert [seconds for _, seconds in heard.whole] == [2.0, 2.0]
    assert {length: [seconds for _, seconds in said] for length, said in heard.first.items()} == {
        1.0: [1.0],
        2.0: [2.0],
        3.0: [2.0, 1.0],
    }
    assert lengths == [32_000, 32_000, 16_000, 16_000]  # what was extracted is not extracted again
    assert at_length([heard], 5.0) == []
    assert at_length([Heard(clip, [], {})], None) == []


def test_of_each_corpus_and_language_a_draw(tmp_path: Path) -> None:
    parts = [(corpus, language) for corpus in "ab" for language in ("en", "it")]
    rows = [f"{corpus}{language}{number}.wav,{corpus},{language}" for corpus, language in parts for number in range(9)]
    (tmp_path / "clips.csv").write_text("\n".join(["path,corpus,language", *rows, "x.wav,a,tlh"]))
    kept = [clip.path.name for clip in chosen_clips(tmp_path / "clips.csv", 1, limit=3)]
    assert kept == [clip.path.name for clip in chosen_clips(tmp_path / "clips.csv", 1, limit=3)]
    assert sorted(name[:3] for name in kept) == sorted(["aen", "ait", "ben", "bit"] * 3)
    (tmp_path / "none.csv").write_text("path,language\nx.wav,tlh\n")
    with pytest.raises(ManifestError, match="a language that the model knows"):
        chosen_clips(tmp_path / "none.csv", 1)


def test_real_speech_is_evaluated(clips: Path) -> None:
    noise = (clips.parent / "0_0.wav",)
    options = Options(cache_dir=default_cache_dir(), language_size="tiny", resamples=5, noise=noise)
    found = languages.evaluate(clips, options)
    by_language = next(table for table in found.tables if table.title.startswith("Languages one by one"))
    assert [values(row)[:3] for row in by_language.rows] == [["en", 2, 100.0], ["it", 2, 100.0]]
    assert {table.title for table in found.tables} >= {"Detecting each language (Cavg)", "Recordings of noise"}
    assert set(found.plots) == {"confusion-wide", "confusion-telephone", "reliability", "right-by-speech"}


def test_a_calibration_is_fitted_to_how_far_posteriors_can_be_believed() -> None:
    """The model says 0.9 and is right every second time: the fitted scale makes a half of it."""
    said = [("en", "en"), ("en", "it"), ("it", "it"), ("it", "en")] * 5
    heard = [Heard(clip, posteriors, {}) for clip, posteriors in (channel(*one, probability=0.9) for one in said)]
    examples = Examples(heard)
    found = fitted(examples)
    assert found.scale < 0.9
    assert examples.cross_entropy_bits(found) < examples.cross_entropy_bits(IDENTITY)
    held = rescaled(examples, IDENTITY, 1000.0)
    assert held.scale == pytest.approx(1.0, abs=0.01)
    assert rescaled(examples, IDENTITY, 0.0).scale < 0.9


def test_more_speech_is_never_fitted_to_be_less_evidence() -> None:
    """One second is always right and sixteen are every second time, as by chance in a few recordings."""
    clip, wrong = channel("en", "en")[0], channel("it", "en")[0]
    short, long = says("en", 0.9, speech_s=1.0), says("en", 0.9, speech_s=16.0)
    found = fitted(Examples([*[Heard(clip, short, {})] * 8, *[Heard(one, long, {}) for one in (clip, wrong) * 4]]))
    assert found.exponent == 0.0


def test_without_usable_channels_there_is_nothing_to_fit() -> None:
    """Too little speech to identify anything, and a language that no worker answers by default."""
    clip, said = channel("en", "en")[0], says("en", 0.9)
    assert "la" in MASKED_BY_DEFAULT
    masked = Clip(clip.path, clip.corpus, clip.speaker, clip.gender, "la")
    nothing: Posteriors = []
    assert len(Examples([])) == len(Examples([Heard(clip, nothing, {})])) == len(Examples([Heard(masked, said, {})])) == 0
    assert len(Examples([Heard(clip, said, {1.0: nothing})])) == 1
