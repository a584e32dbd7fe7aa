"""How well languages are told apart, whether the probabilities mean what they say, and how often the answer is unknown."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.accuracy import measures, plots
from pipeline.accuracy.audio import Band
from pipeline.accuracy.evaluation import Cell, Evaluation, Measured, Options, Plot, Table
from pipeline.accuracy.intervals import measured
from pipeline.accuracy.language_trials import (
    CLIPS_PER_LANGUAGE,
    DURATIONS_S,
    LONGEST_S,
    Heard,
    Listener,
    Posteriors,
    Trials,
    chosen_clips,
    evidence_of,
    trials,
)
from pipeline.accuracy.manifest import Clip
from pipeline.models.language import LABELS
from pipeline.scoring.language_calibration import LanguageCalibration
from pipeline.scoring.language_choice import allowed_languages
from schemas.media import CallOptions

Float64 = npt.NDArray[np.float64]

NOISES = 200  # at most
_NOISE_S = (1.0, 5.0)
_ALL = "all"
_COLUMNS = [
    "recordings",
    "languages",
    "right among all 99 %",
    "right among the default languages %",
    "each language counting the same %",
    "right among the list's languages %",
    "right of those answered %",
    "calibration error %",
    "unknown %",
]
_NOTE = "An unknown language counts as not right. The three columns behind are among the default languages."
_MIN_RECORDINGS = 5

Channels = list[tuple[Clip, Posteriors]]
Recordings = dict[Band, list[Heard]]


class Scoring(NamedTuple):
    """How the agent scores: the size's calibration, the default floor, and the languages of the list."""

    calibration: LanguageCalibration
    floor: float
    listed: list[str]
    by_default: list[str]

    def among(self, allowed: Sequence[str], channels: Channels) -> Trials:
        """Score channels."""
        return trials(channels, allowed, self.calibration, self.floor)


def evaluate(manifest: Path, options: Options) -> Evaluation:
    """Language identification on the recordings of a list. Raises ManifestError, RecordingError and ModelError."""
    limit = min(CLIPS_PER_LANGUAGE, options.limit)
    clips = chosen_clips(manifest, options.seed, limit, options.corpora)
    listener = Listener(options)
    listed = sorted({clip.language for clip in clips}, key=LABELS.index)
    calibration = options.profile.language_of(options.language_size)
    scoring = Scoring(calibration, options.language_floor, listed, allowed_languages(CallOptions()))
    heard = {band: listener.hear(clips, band) for band in Band}
    tables = [_by_duration(heard[band], band, scoring, options) for band in Band]
    tables += [_detection(heard, scoring, options), _by_language(heard, scoring)]
    tables += [_by_corpus(heard[band], band, scoring, options) for band in Band]
    if options.noise:
        tables.append(_on_noise(listener, scoring, options))
    return Evaluation(
        tables, _plots(heard, scoring, options), len(clips), _notes(heard, len(clips), limit), noisy=bool(options.noise)
    )


def _notes(heard: Recordings, count: int, limit: int) -> list[str]:
    silent = [f"{sum(not one.whole for one in heard[band])} of {count} recordings hold no speech ({band})" for band in Band]
    return [
        f"{count} recordings: of each corpus and language at most {limit}, drawn by seed; of each at most "
        f"{LONGEST_S:g} s of speech",
        "recordings without speech are left out; " + ", ".join(silent),
    ]


def at_length(heard: Sequence[Heard], duration_s: float | None) -> Channels:
    """The first so many seconds of each recording that has as many, or all of each that has any."""
    if duration_s is None:
        return [(one.clip, one.whole) for one in heard if one.whole]
    return [(one.clip, one.first[duration_s]) for one in heard if duration_s in one.first]


def _lengths() -> list[tuple[str, float | None]]:
    return [*((f"{duration_s:g}", duration_s) for duration_s in DURATIONS_S), (_ALL, None)]


def _by_duration(heard: list[Heard], band: Band, scoring: Scoring, options: Options) -> Table:
    rows: list[list[Cell]] = [
        [name, *figures(at_length(heard, duration_s), scoring, options)] for name, duration_s in _lengths()
    ]
    return Table(f"Languages by speech, all corpora, {band}", ["speech s", *_COLUMNS], rows, _NOTE)


def _by_corpus(heard: list[Heard], band: Band, scoring: Scoring, options: Options) -> Table:
    rows: list[list[Cell]] = []
    for corpus in dict.fromkeys(one.clip.corpus for one in heard):
        own = [one for one in heard if one.clip.corpus == corpus]
        for name, duration_s in _lengths():
            channels = at_length(own, duration_s)
            if len(channels) >= _MIN_RECORDINGS:
                rows.append([corpus, name, *figures(channels, scoring, options)])
    return Table(f"Languages by corpus and speech, {band}", ["corpus", "speech s", *_COLUMNS], rows, _NOTE)


def figures(channels: Channels, scoring: Scoring, options: Options) -> list[Cell]:
    """The cells of the columns; only counts where there are too few recordings."""
    languages = len({clip.language for clip, _ in channels})
    if len(channels) < _MIN_RECORDINGS:
        return [len(channels), languages, *[None] * (len(_COLUMNS) - 2)]
    open_set, default, closed = (scoring.among(names, channels) for names in (LABELS, scoring.by_default, scoring.listed))

    def figure(statistic: Callable[[Float64], float]) -> Cell:
        return measured(statistic, default.speaker, scale=100.0, resamples=options.resamples, seed=options.seed)

    return [
        len(channels),
        languages,
        figure(functools.partial(_right, open_set)),
        figure(functools.partial(_right, default)),
        figure(functools.partial(macro_right, default)),
        figure(functools.partial(_right, closed)),
        figure(functools.partial(_right_of_answered, default)),
        figure(functools.partial(_calibration_error, default)),
        figure(lambda weight: measures.share(default.unknown, weight)),
    ]


def _right(scored: Trials, weight: Float64) -> float:
    return measures.share(scored.said == scored.language, weight)


def macro_right(scored: Trials, weight: Float64) -> float:
    """The share of right answers, as a mean over the languages that weigh anything."""
    right = np.bincount(scored.language, weight * (scored.said == scored.language), len(LABELS))
    total = np.bincount(scored.language, weight, len(LABELS))
    return float(np.mean(right[total > 0] / total[total > 0]))


def _right_of_answered(scored: Trials, weight: Float64) -> float:
    answered = ~scored.unknown
    return _right(scored, weight * answered) if (weight[answered] > 0).any() else math.nan


def _calibration_error(scored: Trials, weight: Float64) -> float:
    answered = ~scored.unknown
    if not (weight[answered] > 0).any():
        return math.nan
    confidence, right = scored.probability.max(axis=1), scored.said == scored.language
    return measures.calibration_error(confidence[answered], right[answered], weight[answered])


def _detection(heard: Recordings, scoring: Scoring, options: Options) -> Table:
    """Cavg, among the languages of the list."""
    rows: list[list[Cell]] = [
        [name, *(_cavg(at_length(heard[band], duration_s), scoring, options) for band in Band)]
        for name, duration_s in _lengths()
    ]
    note = "Mean over the languages of misses and false alarms, a language as likely as all others together; 50 is chance."
    return Table("Detecting each language (Cavg)", ["speech s", *(f"Cavg {band} %" for band in Band)], rows, note)


def _cavg(channels: Channels, scoring: Scoring, options: Options) -> Cell:
    if len(channels) < _MIN_RECORDINGS or len(scoring.listed) < 2:
        return None
    scored = scoring.among(scoring.listed, channels)
    llr, language = detection_llr(scored, scoring.listed)
    statistic = functools.partial(_cavg_of, llr, language)
    return measured(statistic, scored.speaker, scale=100.0, resamples=options.resamples, seed=options.seed)


def detection_llr(scored: Trials, listed: Sequence[str]) -> tuple[Float64, npt.NDArray[np.int64]]:
    """Each listed language against the others, all as likely: (n, listed); minus infinity where nothing was said.

    With it each recording's place among them (n,).
    """
    columns = [LABELS.index(name) for name in listed]
    share = np.clip(scored.probability[:, columns], 1e-6, 1 - 1e-6)  # five decimals have zeros
    llr = np.log(share) - np.log1p(-share) + math.log(len(listed) - 1)
    llr[scored.unknown] = -np.inf
    return llr, np.searchsorted(columns, scored.language).astype(np.int64)


def _cavg_of(llr: Float64, language: npt.NDArray[np.int64], weight: Float64) -> float:
    seen = weight > 0
    return measures.cavg(llr[seen], language[seen], weight[seen])


def _by_language(heard: Recordings, scoring: Scoring) -> Table:
    rows: list[list[Cell]] = []
    for name in scoring.listed:
        cells: list[Cell] = []
        for band in Band:
            channels = [(clip, said) for clip, said in at_length(heard[band], None) if clip.language == name]
            cells += [len(channels), *_mistakes(channels, scoring)]
        rows.append([name, *cells])
    columns = [f"{column}, {band}" for band in Band for column in ("recordings", "right %", "most taken for")]
    return Table("Languages one by one, all speech, among the default languages", ["language", *columns], rows)


def _mistakes(channels: Channels, scoring: Scoring) -> list[Cell]:
    if not channels:
        return [None, None]
    scored = scoring.among(scoring.by_default, channels)
    wrong = [LABELS[place] if place >= 0 else "unknown" for place in scored.said[scored.said != scored.language].tolist()]
    often = sorted(set(wrong), key=lambda name: (-wrong.count(name), name))[:3]
    right = Measured(100 * (1 - len(wrong) / len(channels)))
    return [right, ", ".join(f"{name} {wrong.count(name)}" for name in often)]


def _on_noise(listener: Listener, scoring: Scoring, options: Options) -> Table:
    chosen = np.random.default_rng(options.seed).permutation(len(options.noise))[:NOISES]
    clips = [Clip(options.noise[index], "noise", "", "", "") for index in np.sort(chosen).tolist()]
    rows: list[list[Cell]] = []
    for band in Band:
        passed = [one.whole for one in listener.hear(clips, band) if one.whole]
        rows.append([band, "what voice activity detection takes for speech", len(clips), *_unknown(passed, scoring)])
        for longest_s in _NOISE_S:
            forced = [one.whole for one in listener.hear_as_speech(clips, band, longest_s)]
            rows.append([band, f"{longest_s:g} s as if it were speech", len(clips), *_unknown(forced, scoring)])
    return Table("Recordings of noise", ["band", "what is heard", "recordings", "heard", "unknown of these %"], rows)


def _unknown(heard: Sequence[Posteriors], scoring: Scoring) -> list[Cell]:
    if not heard:
        return [0, None]
    said = [evidence_of(one).scores(LABELS, LABELS, calibration=scoring.calibration, floor=scoring.floor) for one in heard]
    return [len(heard), Measured(100 * sum(not scores for scores in said) / len(heard))]


def _plots(heard: Recordings, scoring: Scoring, options: Options) -> dict[str, Plot]:
    scored = {
        band: scoring.among(scoring.by_default, at_length(heard[band], None)) for band in Band if at_length(heard[band], None)
    }
    found: dict[str, Plot] = {f"confusion-{band}": _confusion(one, scoring.listed) for band, one in scored.items()}
    answered = {
        str(band): (one.probability.max(axis=1)[~one.unknown], _is_right(one)[~one.unknown]) for band, one in scored.items()
    }
    found["reliability"] = plots.reliability(answered)
    curves = {str(band): _curve(heard[band], scoring, options) for band in Band}
    found["right-by-speech"] = plots.over_duration(curves, "right among the default languages %")
    return found


def _is_right(scored: Trials) -> npt.NDArray[np.bool_]:
    right: npt.NDArray[np.bool_] = scored.said == scored.language
    return right


def _confusion(scored: Trials, listed: Sequence[str]) -> Plot:
    """Truths of the list; answers of the list, other ones, and none."""
    columns = {LABELS.index(name): place for place, name in enumerate(listed)}
    count = np.zeros((len(listed), len(listed) + 2), np.int64)
    for truth, said in zip(scored.language.tolist(), scored.said.tolist(), strict=True):
        count[columns[truth], columns.get(said, len(listed)) if said >= 0 else len(listed) + 1] += 1
    return plots.confusion(count, listed, [*listed, "other", "unknown"])


def _curve(heard: list[Heard], scoring: Scoring, options: Options) -> list[tuple[float, Measured]]:
    points = []
    for duration_s in DURATIONS_S:
        channels = at_length(heard, duration_s)
        if len(channels) >= _MIN_RECORDINGS:
            scored = scoring.among(scoring.by_default, channels)
            right = functools.partial(_right, scored)
            found = measured(right, scored.speaker, scale=100.0, resamples=options.resamples, seed=options.seed)
            points.append((duration_s, found))
    return points
