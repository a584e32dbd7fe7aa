"""How well speech is found: misses and false alarms of 10 ms frames, and how far segments begin and end from their labels.

Beside our detector stand webrtcvad alone and silero alone, each as its package answers. Intervals: bootstrap over recordings.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.accuracy import measures, plots
from pipeline.accuracy.audio import Band
from pipeline.accuracy.evaluation import Cell, Evaluation, Options, Plot, Table
from pipeline.accuracy.intervals import measured
from pipeline.accuracy.manifest import LabelledRecording, read_labelled
from pipeline.accuracy.vad_detectors import (
    Bools,
    Detector,
    Float64,
    Labelled,
    Said,
    carried,
    corpora_of,
    detector,
    readout_scores,
    silero_alone,
    webrtc_alone,
)
from pipeline.models.detector import load_vad
from pipeline.models.silero import SileroVad

Ints = npt.NDArray[np.int64]

OURS, SILERO, WEBRTC = "callstream", "silero at 0.5", "webrtcvad mode 2"
_BINS = 1000  # of scores, for the curves of errors
_FRAME_MS = 10
_SHOWN_MS = 500  # of boundaries: a few that are seconds away would hide the others
_ALL = "all"
_COLUMNS = [
    "corpus",
    "detector",
    "recordings",
    "speech %",
    "miss %",
    "false alarm %",
    "EER %",
    "segments matched %",
    "start error, mean ms",
    "start error, median ms",
    "end error, mean ms",
    "end error, median ms",
]
_NOTE = (
    "Shares of the 10 ms frames that are labelled speech (miss) or not (false alarm). The EER is of the probabilities of "
    "frames, before callstream's gate and rules for segments; webrtcvad has none. A labelled segment is matched when it and "
    "one that was found overlap each other more than any other; start and end errors are distances in these pairs."
)


class Counted(NamedTuple):
    """One recording, one detector: frames by kind, histograms of both classes' scores (bins,), found minus labelled times."""

    corpus: str
    missed: int
    speech: int
    alarmed: int
    other: int
    segments: int
    of_speech: Ints
    of_other: Ints
    start_ms: Float64
    end_ms: Float64
    has_score: bool


def evaluate(manifest: Path, options: Options) -> Evaluation:
    """Voice activity detection on the recordings of a list of segments.

    Raises ManifestError, RecordingError and ModelError.
    """
    recordings = first_of_each_corpus(read_labelled(manifest, options.corpora), options.limit)
    silero = load_vad(options.cache_dir, options.manifest_path)
    counted = {band: count_all(recordings, band, _detectors(silero), options) for band in Band}
    tables = [_table(counted[band], corpora_of(recordings), band, options) for band in Band]
    return Evaluation(tables, _plots(counted), len(recordings), _notes(recordings), groups="recordings")


def first_of_each_corpus(recordings: list[LabelledRecording], limit: int) -> list[LabelledRecording]:
    """So many of each corpus at most."""
    rank: collections.Counter[str] = collections.Counter()
    kept = []
    for one in recordings:
        rank[one.corpus] += 1
        kept += [one] if rank[one.corpus] <= limit else []
    return kept


def _notes(recordings: list[LabelledRecording]) -> list[str]:
    speech_s = sum(end_s - start_s for one in recordings for start_s, end_s in one.speech_s)
    return [f"{len(recordings)} recordings, {speech_s:.0f} s of labelled segments; one bootstrap group is one recording"]


def _detectors(silero: SileroVad) -> dict[str, Detector]:
    def ours(samples: npt.NDArray[np.int16], rate_hz: int) -> Said:
        said = detector(samples, rate_hz, silero=silero)
        return said._replace(score=readout_scores(samples, rate_hz, silero))

    return {OURS: ours, SILERO: functools.partial(silero_alone, silero=silero), WEBRTC: webrtc_alone}


def count_all(
    recordings: list[LabelledRecording], band: Band, detectors: dict[str, Detector], options: Options
) -> dict[str, list[Counted]]:
    """Every detector on every recording."""
    counted: dict[str, list[Counted]] = {name: [] for name in detectors}
    for number, recording in enumerate(recordings, 1):
        options.progress(f"voice activity detection, {band}: recording {number} of {len(recordings)}")
        audio = carried(recording, band)
        for name, detect in detectors.items():
            counted[name].append(count(audio, detect(audio.samples, audio.rate_hz)))
    return counted


def count(audio: Labelled, said: Said) -> Counted:
    """Compare a detector's answer with the labels."""
    truth, found = audio.speech, said.speech
    labelled_runs, found_runs = runs(truth), runs(found)
    pairs = matched(labelled_runs, found_runs)
    off_ms = (found_runs[pairs[:, 1]] - labelled_runs[pairs[:, 0]]).astype(np.float64) * _FRAME_MS
    score = np.zeros(len(truth)) if said.score is None else said.score
    place = np.minimum((score * _BINS).astype(np.int64), _BINS - 1)
    return Counted(
        corpus=audio.corpus,
        missed=int((truth & ~found).sum()),
        speech=int(truth.sum()),
        alarmed=int((~truth & found).sum()),
        other=int((~truth).sum()),
        segments=len(labelled_runs),
        of_speech=np.bincount(place[truth], minlength=_BINS),
        of_other=np.bincount(place[~truth], minlength=_BINS),
        start_ms=off_ms[:, 0],
        end_ms=off_ms[:, 1],
        has_score=said.score is not None,
    )


def runs(speech: Bools) -> Ints:
    """The runs of speech: first frame and the frame behind the last, (n, 2)."""
    steps = np.diff(speech.astype(np.int8), prepend=0, append=0)
    return np.column_stack([np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)]).astype(np.int64)


def matched(labelled: Ints, found: Ints) -> Ints:
    """Pairs of runs that overlap each other more than any other run: (n, 2), places in both."""
    if not len(labelled) or not len(found):
        return np.zeros((0, 2), np.int64)
    ends = np.minimum(labelled[:, None, 1], found[None, :, 1])
    overlap = ends - np.maximum(labelled[:, None, 0], found[None, :, 0])
    best = overlap.argmax(axis=1)
    places = np.arange(len(labelled))
    mutual = (overlap.argmax(axis=0)[best] == places) & (overlap[places, best] > 0)
    return np.column_stack([places[mutual], best[mutual]]).astype(np.int64)


def _table(counted: dict[str, list[Counted]], corpora: Sequence[str], band: Band, options: Options) -> Table:
    rows: list[list[Cell]] = []
    for corpus in [*corpora, _ALL] if len(corpora) > 1 else corpora:
        for name, every in counted.items():
            part = [one for one in every if corpus in (one.corpus, _ALL)]
            rows.append([corpus, name, len(part), *figures(part, options)])
    return Table(f"Voice activity detection, {band}", _COLUMNS, rows, _NOTE)


def figures(part: list[Counted], options: Options) -> list[Cell]:
    """The cells behind the count of recordings."""
    recording = np.arange(len(part))
    speech, other, segments = (_column(part, name) for name in ("speech", "other", "segments"))
    pairs = np.array([len(one.start_ms) for one in part], np.float64)
    shares = [(speech, speech + other), (_column(part, "missed"), speech), (_column(part, "alarmed"), other), (pairs, segments)]
    *frames, matches = (_cell(functools.partial(_share, *share), recording, options, 100.0) for share in shares)
    histograms = [np.stack([getattr(one, name) for one in part]) for name in ("of_speech", "of_other")]
    statistic = functools.partial(equal_error_rate, *histograms)
    rate = _cell(statistic, recording, options, 100.0) if part[0].has_score else None
    return [*frames, rate, matches, *_boundary_cells(part, options)]


def _boundary_cells(part: list[Counted], options: Options) -> list[Cell]:
    """Mean and median distance of starts, then of ends."""
    group = np.repeat(np.arange(len(part)), [len(one.start_ms) for one in part])
    return [
        _cell(functools.partial(statistic, np.abs(_joined(part, name))), group, options, 1.0)
        for name in ("start_ms", "end_ms")
        for statistic in (_mean, median)
    ]


def _joined(part: list[Counted], name: str) -> Float64:
    joined: Float64 = np.concatenate([getattr(one, name) for one in part])
    return joined


def _column(part: list[Counted], name: str) -> Float64:
    return np.array([getattr(one, name) for one in part], np.float64)


def _cell(statistic: Callable[[Float64], float], group: Ints, options: Options, scale: float) -> Cell:
    if not len(group) or not math.isfinite(statistic(np.ones(len(group)))):
        return None
    return measured(statistic, group, scale=scale, resamples=options.resamples, seed=options.seed)


def _share(part: Float64, whole: Float64, weight: Float64) -> float:
    total = float(weight @ whole)
    return float(weight @ part) / total if total else math.nan


def equal_error_rate(of_speech: Ints, of_other: Ints, weight: Float64) -> float:
    """Of histograms of scores (recordings, bins), as a fraction; NaN without both classes."""
    counts = np.concatenate([weight @ of_speech, weight @ of_other])
    bins = of_speech.shape[1]
    if not counts[:bins].any() or not counts[bins:].any():
        return math.nan
    return measures.equal_error_rate(np.tile(np.arange(bins, dtype=np.float64), 2), np.repeat([True, False], bins), counts)


def _mean(values: Float64, weight: Float64) -> float:
    return float(np.average(values, weights=weight)) if weight.any() else math.nan


def median(values: Float64, weight: Float64) -> float:
    """The least value with half of the weight at or under it; NaN without weight."""
    if not weight.any():
        return math.nan
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def _plots(counted: dict[Band, dict[str, list[Counted]]]) -> dict[str, Plot]:
    found: dict[str, Plot] = {}
    for band, by_name in counted.items():
        curves = {name: _scored(part) for name, part in by_name.items() if part[0].has_score}
        found[f"vad-roc-{band}"] = plots.roc({name: curve for name, curve in curves.items() if len(set(curve[1])) > 1})
        starts_ms, ends_ms = (np.clip(_joined(by_name[OURS], name), -_SHOWN_MS, _SHOWN_MS) for name in ("start_ms", "end_ms"))
        label = f"found minus labelled / ms (more than {_SHOWN_MS} at the edges)"
        found[f"vad-boundaries-{band}"] = plots.histograms(starts_ms, ends_ms, label, ("starts", "ends"))
    return found


def _scored(part: list[Counted]) -> tuple[Float64, Bools]:
    """The scores of all frames, in bins, and whether each is speech."""
    counts = np.concatenate([np.sum([getattr(one, name) for one in part], axis=0) for name in ("of_speech", "of_other")])
    score = np.repeat(np.tile((np.arange(_BINS) + 0.5) / _BINS, 2), counts)
    return score, np.repeat(np.repeat([True, False], _BINS), counts)
