"""How well male and female voices are told apart, and whether the log-likelihood ratios mean what they say."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.accuracy import measures, plots
from pipeline.accuracy.audio import Band
from pipeline.accuracy.evaluation import Cell, Evaluation, Options, Plot, Table
from pipeline.accuracy.intervals import measured
from pipeline.accuracy.sessions import (
    SHORT_S,
    Condition,
    Sample,
    Session,
    chosen_clips,
    extractor,
    short_samples,
    whole_samples,
)
from pipeline.scoring.calibration import GenderBackend, gender_llr

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

COLUMNS = ["male", "female", "right %", "male right %", "female right %", "Cllr bits", "min Cllr bits"]
MIN_SAMPLES = 10

Sessions = dict[Band, list[Session]]


def evaluate(manifest: Path, options: Options) -> Evaluation:
    """Gender identification on the labelled clips of a list. Raises ManifestError, RecordingError and ModelError."""
    clips = chosen_clips(manifest, "gender", "speaker", limit=options.limit, corpora=options.corpora)
    heard = {band: extractor(options).sessions(clips, Condition(band), options.progress) for band in Band}
    tables = [_by_duration(heard, options), _by_corpus(heard, options)]
    silent = {band: sum(not one.utterances for one in sessions) for band, sessions in heard.items()}
    notes = [f"{band}: {count} sessions without speech, of which nothing is said" for band, count in silent.items()]
    return Evaluation(tables, _plots(heard, options), len(clips), notes)


def durations(sessions: Sequence[Session]) -> list[tuple[str, list[Sample]]]:
    """The samples of each length of speech."""
    short = [(f"{duration_s:g} s", short_samples(sessions, duration_s)) for duration_s in SHORT_S]
    return [*short, ("all of a recording", whole_samples(sessions))]


def _by_duration(heard: Sessions, options: Options) -> Table:
    rows: list[list[Cell]] = [
        [band, name, *figures(samples, options)] for band in Band for name, samples in durations(heard[band])
    ]
    return Table("By speech, all corpora", ["band", "speech", *COLUMNS], rows)


def _by_corpus(heard: Sessions, options: Options) -> Table:
    names = dict.fromkeys(one.corpus for one in heard[Band.WIDE])
    rows: list[list[Cell]] = []
    for name, band in itertools.product(names, Band):
        samples = whole_samples([one for one in heard[band] if one.corpus == name])
        rows.append([name, band, *figures(samples, options)])
    return Table("By corpus, all speech of a recording", ["corpus", "band", *COLUMNS], rows)


def scores(samples: Sequence[Sample], backend: GenderBackend | None) -> tuple[Float64, Bools]:
    """The log-likelihood ratio of male against female of each sample, and whether it is male."""
    llr = gender_llr([one.voiceprint for one in samples], backend)
    return llr, np.array([one.gender == "m" for one in samples], np.bool_)


def figures(samples: Sequence[Sample], options: Options) -> list[Cell]:
    """The cells of `COLUMNS`; without Cllr where there is one gender only."""
    if len(samples) < MIN_SAMPLES:
        males = sum(one.gender == "m" for one in samples)
        return [males, len(samples) - males, *[None] * 5]
    llr, male = scores(samples, options.profile.gender)
    _, speaker = np.unique([f"{one.corpus}/{one.speaker}" for one in samples], return_inverse=True)
    right = (llr > 0) == male

    def figure(statistic: Callable[[Float64], float], needed: tuple[Bools, ...], scale: float = 1.0) -> Cell:
        if not all(part.sum() >= MIN_SAMPLES for part in needed):
            return None

        def of(weight: Float64) -> float:
            return statistic(weight) if all((weight[part] > 0).any() for part in needed) else math.nan

        return measured(of, speaker, scale=scale, resamples=options.resamples, seed=options.seed)

    def of_gender(part: Bools) -> Cell:
        return figure(lambda weight: measures.share(right[part], weight[part]), (part,), 100.0)

    return [
        int(male.sum()),
        int((~male).sum()),
        figure(lambda weight: measures.share(right, weight), (), 100.0),
        of_gender(male),
        of_gender(~male),
        figure(lambda weight: measures.cllr(llr, male, weight), (male, ~male)),
        figure(lambda weight: measures.min_cllr(llr, male, weight), (male, ~male)),
    ]


def _plots(heard: Sessions, options: Options) -> dict[str, Plot]:
    found: dict[str, Plot] = {}
    for band in Band:
        samples = whole_samples(heard[band])
        if len(samples) < MIN_SAMPLES:
            continue
        llr, male = scores(samples, options.profile.gender)
        found[f"scores-{band}"] = plots.histograms(llr[male], llr[~male], "log-likelihood ratio, male positive")
        confidence = 1 / (1 + np.exp(-np.abs(llr)))
        found[f"reliability-{band}"] = plots.reliability({"all corpora": (confidence, (llr > 0) == male)})
    return found
