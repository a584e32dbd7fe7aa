"""How the accuracy of voice activity detection is measured."""

from __future__ import annotations

import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from pipeline.accuracy.audio import Band, RecordingError
from pipeline.accuracy.evaluation import Cell, Evaluation, Measured, Options, Table
from pipeline.accuracy.manifest import LabelledRecording, ManifestError
from pipeline.accuracy.vad import (
    OURS,
    SILERO,
    WEBRTC,
    count,
    equal_error_rate,
    evaluate,
    figures,
    first_of_each_corpus,
    matched,
    median,
    runs,
)
from pipeline.accuracy.vad_detectors import (
    Labelled,
    Said,
    by_window,
    detector,
    frames_of,
    labelled,
    readout_scores,
    silero_alone,
    webrtc_alone,
)
from pipeline.models.registry import fetch
from pipeline.models.silero import SileroVad
from pipeline.sample import sample_path
from pipeline.settings import default_cache_dir

mpl.use("Agg")
Bools = npt.NDArray[np.bool_]
NO_INTERVALS = Options(cache_dir="", resamples=0)
FRAME = 80  # samples of 10 ms at 8 kHz
frames = st.lists(st.booleans(), min_size=1, max_size=60).map(lambda values: np.array(values, np.bool_))


@pytest.fixture(scope="module")
def cache_dir() -> str:
    return os.environ.get("CALLSTREAM_TEST_MODELS") or os.environ.get("CALLSTREAM_CACHE_DIR") or str(default_cache_dir())


@pytest.fixture(scope="module")
def silero(cache_dir: str) -> SileroVad:
    return SileroVad(fetch(cache_dir, ["silero"])["silero"][0])


@pytest.fixture(scope="module")
def call() -> npt.NDArray[np.float32]:
    """Channel 0 of the bundled call at 8 kHz; between its speech it is nearly silent."""
    samples, _ = soundfile.read(sample_path(), dtype="float32")
    return np.ascontiguousarray(samples[:, 0])


def loud_segments(samples: npt.NDArray[np.float32]) -> list[tuple[float, float]]:
    """Where the bundled call is not silent, gaps under 250 ms included, in seconds."""
    level = np.abs(samples[: len(samples) // FRAME * FRAME]).reshape(-1, FRAME).max(axis=1) > 0.01
    spans = runs(np.asarray(level, np.bool_)).tolist()
    merged: list[list[int]] = []
    for start, end in spans:
        if merged and start - merged[-1][1] < 25:
            merged[-1][1] = end
        else:
            merged.append([start, end])
    return [(start / 100, end / 100) for start, end in merged if end - start >= 25]


def audio_of(speech: list[int] | Bools) -> Labelled:
    truth = np.array(speech, np.bool_)
    return Labelled("corpus", np.zeros(len(truth) * FRAME, np.int16), 8000, truth)


def value(cell: Cell) -> float:
    assert isinstance(cell, Measured)
    return cell.value


@pytest.fixture(scope="module")
def evaluation(cache_dir: str, call: npt.NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Six pieces of the bundled call as recordings of two corpora."""
    folder = tmp_path_factory.mktemp("vad")
    rows, size = ["path,start,end,corpus"], 10 * 8000
    for number in range(6):
        part = call[number * size : (number + 1) * size]
        soundfile.write(folder / f"{number}.wav", part, 8000)
        rows += [f"{number}.wav,{start},{end},{'ab'[number % 2]}" for start, end in loud_segments(part)]
    manifest = folder / "segments.csv"
    manifest.write_text("\n".join(rows) + "\n")
    return evaluate(manifest, Options(cache_dir=cache_dir, resamples=20))


def test_tables_of_both_bands(evaluation: Evaluation) -> None:
    assert [table.title for table in evaluation.tables] == [f"Voice activity detection, {band}" for band in Band]
    for table in evaluation.tables:
        assert [(row[0], row[1]) for row in table.rows] == [
            (corpus, name) for corpus in ("a", "b", "all") for name in (OURS, SILERO, WEBRTC)
        ]
        assert all(len(row) == len(table.columns) for row in table.rows)


def row_of(table: Table, corpus: str, name: str) -> dict[str, Cell]:
    found = next(row for row in table.rows if row[:2] == [corpus, name])
    return dict(zip(table.columns, found, strict=True))


def test_a_nearly_silent_call_is_heard_right(evaluation: Evaluation) -> None:
    for table in evaluation.tables:
        ours = row_of(table, "all", OURS)
        assert value(ours["miss %"]) < 12
        assert value(ours["false alarm %"]) < 12
        assert value(ours["EER %"]) < 10
        assert value(ours["start error, median ms"]) <= 60
        assert value(ours["end error, median ms"]) <= 100
        assert row_of(table, "all", WEBRTC)["EER %"] is None


def test_six_recordings_have_intervals_and_three_have_none(evaluation: Evaluation) -> None:
    for table in evaluation.tables:
        whole, part = (row_of(table, corpus, OURS) for corpus in ("all", "a"))
        assert isinstance(whole["miss %"], Measured)
        assert whole["miss %"].low is not None
        assert whole["miss %"].high is not None
        assert whole["miss %"].low <= whole["miss %"].value <= whole["miss %"].high
        assert isinstance(part["miss %"], Measured)
        assert part["miss %"].low is None


def test_plots_draw_themselves(evaluation: Evaluation) -> None:
    assert set(evaluation.plots) == {f"vad-{kind}-{band}" for kind in ("roc", "boundaries") for band in Band}
    for plot in evaluation.plots.values():
        axes = Figure().subplots()
        plot(axes)
        assert axes.has_data()


def test_lists_and_recordings_that_cannot_be_read(cache_dir: str, tmp_path: Path) -> None:
    manifest = tmp_path / "segments.csv"
    with pytest.raises(ManifestError):
        evaluate(manifest, Options(cache_dir=cache_dir))
    manifest.write_text("path,start,end\nmissing.wav,0,1\n")
    with pytest.raises(RecordingError, match=r"missing\.wav"):
        evaluate(manifest, Options(cache_dir=cache_dir))


def test_a_recording_without_speech(cache_dir: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "quiet.wav", np.zeros(16000), 16000)
    (tmp_path / "segments.csv").write_text("path,start,end\nquiet.wav,,\n")
    evaluation = evaluate(tmp_path / "segments.csv", Options(cache_dir=cache_dir))
    for table in evaluation.tables:
        ours = dict(zip(table.columns, table.rows[0], strict=True))
        assert value(ours["false alarm %"]) == value(ours["speech %"]) == 0
        assert ours["miss %"] is ours["EER %"] is ours["segments matched %"] is ours["end error, mean ms"] is None
    for plot in evaluation.plots.values():
        plot(Figure().subplots())


def test_figures_of_an_answer_that_is_known() -> None:
    truth = [0] * 20 + [1] * 40 + [0] * 40
    said = [0] * 23 + [1] * 40 + [0] * 37
    score = np.where(truth, 0.9, 0.1)
    score[25], score[70] = 0.05, 0.95  # one of 40, one of 60
    counted = count(audio_of(truth), Said(np.array(said, np.bool_), score))
    share, miss, alarm, rate, pairs, *boundaries = figures([counted], NO_INTERVALS)
    assert value(share) == pytest.approx(40)
    assert value(miss) == pytest.approx(100 * 3 / 40)
    assert value(alarm) == pytest.approx(100 * 3 / 60)
    assert 100 / 60 <= value(rate) <= 100 / 40
    assert value(pairs) == 100
    assert [value(cell) for cell in boundaries] == [30.0] * 4


def test_recordings_add_up_by_their_frames() -> None:
    whole, half = audio_of([1] * 90 + [0] * 10), audio_of([1] * 10 + [0] * 10)
    parts = [count(whole, Said(np.zeros(100, np.bool_))), count(half, Said(half.speech))]
    _, miss, alarm, rate, *_ = figures(parts, NO_INTERVALS)
    assert value(miss) == pytest.approx(90)
    assert value(alarm) == 0
    assert rate is None


def test_runs() -> None:
    assert runs(np.array([1, 1, 0, 1, 0, 0, 1], np.bool_)).tolist() == [[0, 2], [3, 4], [6, 7]]
    assert runs(np.zeros(0, np.bool_)).shape == (0, 2)


def test_matching_takes_the_run_that_overlaps_most() -> None:
    labelled_runs = np.array([[0, 100], [120, 200], [300, 310]])
    found = np.array([[10, 30], [35, 130], [125, 190], [400, 500]])
    assert matched(labelled_runs, found).tolist() == [[0, 1], [1, 2]]
    assert matched(labelled_runs, np.zeros((0, 2), np.int64)).shape == (0, 2)


@given(frames, frames)
def test_matching_is_one_to_one_and_overlaps(truth: Bools, said: Bools) -> None:
    first, second = runs(truth), runs(said)
    pairs = matched(first, second)
    for column in pairs.T:
        assert len(set(column.tolist())) == len(column)
    for one, other in pairs.tolist():
        assert max(first[one, 0], second[other, 0]) < min(first[one, 1], second[other, 1])
    assert matched(first, first).tolist() == [[i, i] for i in range(len(first))]


@given(st.lists(st.integers(-50, 50), min_size=1, max_size=30))
def test_the_weighted_median_is_the_lower_one(values: list[int]) -> None:
    array = np.array(values, np.float64)
    assert median(array, np.ones(len(values))) == sorted(values)[(len(values) - 1) // 2]
    assert median(np.append(array, 1e9), np.append(np.ones(len(values)), 0)) == median(array, np.ones(len(values)))


def test_equal_error_rate_of_histograms() -> None:
    apart = equal_error_rate(np.array([[0, 0, 5]]), np.array([[5, 0, 0]]), np.ones(1))
    mixed = equal_error_rate(np.array([[5, 0, 5]]), np.array([[5, 0, 5]]), np.ones(1))
    weighted = equal_error_rate(np.array([[0, 5], [5, 0]]), np.array([[5, 0], [0, 5]]), np.array([1.0, 0.0]))
    assert [apart, mixed, weighted] == pytest.approx([0, 0.5, 0])
    assert np.isnan(equal_error_rate(np.array([[0, 1]]), np.array([[0, 0]]), np.ones(1)))


@pytest.mark.parametrize("band", list(Band))
def test_labels_are_frames_of_what_the_band_carries(band: Band) -> None:
    recording = LabelledRecording(Path("x.wav"), "corpus", [(0.1, 0.25), (0.2, 0.3)])
    audio = labelled(np.zeros(16000, np.float32), recording, band)
    assert audio.rate_hz == (8000 if band is Band.TELEPHONE else 16000)
    assert len(audio.speech) == frames_of(audio.samples, audio.rate_hz) == 100
    assert runs(audio.speech).tolist() == [[10, 30]]


def test_every_frame_has_the_window_of_its_middle() -> None:
    said = by_window(np.array([0.1, 0.9, 0.2]), 11)
    assert said.score is not None
    assert said.score.tolist() == [0.1] * 3 + [0.9] * 3 + [0.2] * 5
    assert said.speech.tolist() == [False] * 3 + [True] * 3 + [False] * 5
    assert by_window(np.zeros(0), 3).speech.tolist() == [False] * 3


@pytest.mark.parametrize("samples", [0, 1, 79, 8000, 12345])
def test_detectors_answer_for_every_frame(silero: SileroVad, samples: int) -> None:
    audio = np.random.default_rng(1).integers(-900, 900, samples).astype(np.int16)
    answers = [webrtc_alone(audio, 8000), silero_alone(audio, 8000, silero=silero), detector(audio, 8000, silero=silero)]
    assert {len(said.speech) for said in answers} == {samples // 80}
    assert len(readout_scores(audio, 8000, silero)) == samples // 80


def test_detectors_hear_speech(silero: SileroVad, call: npt.NDArray[np.float32]) -> None:
    audio = (call[: 20 * 8000] * 32767).astype(np.int16)
    loud = np.zeros(2000, np.bool_)
    for start_s, end_s in loud_segments(call[: 20 * 8000]):
        loud[round(start_s * 100) : round(end_s * 100)] = True
    for said in (detector(audio, 8000, silero=silero), silero_alone(audio, 8000, silero=silero), webrtc_alone(audio, 8000)):
        assert said.speech[loud].mean() > 0.8
        assert said.speech[~loud].mean() < 0.3
    scores = readout_scores(audio, 8000, silero)
    assert scores[loud].mean() > scores[~loud].mean() + 0.5


def test_of_each_corpus_no_more_recordings_are_used_than_the_limit() -> None:
    listed = [LabelledRecording(Path(f"{number}.wav"), corpus, []) for number, corpus in enumerate("aabab")]
    assert [one.path.stem for one in first_of_each_corpus(listed, 2)] == ["0", "1", "2", "4"]
