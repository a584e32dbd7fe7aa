"""How well voiceprints tell speakers apart, and whether the log-likelihood ratios mean what they say."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from pipeline.accuracy import plots
from pipeline.accuracy.audio import Band
from pipeline.accuracy.evaluation import Cell, Evaluation, Options, Plot, Table
from pipeline.accuracy.sessions import (
    LONG_S,
    SHORT_S,
    Condition,
    Sample,
    Session,
    chosen_clips,
    extractor,
    long_samples,
    short_samples,
    whole_samples,
)
from pipeline.accuracy.trials import COLUMNS, NOTE, Trials, across, figures, within

SNRS_DB = (20, 10, 5)
NOISE_S = 5.0
NOISE_LIMIT = 150  # recordings of each corpus that are heard under noise

Sessions = dict[Condition, list[Session]]


def evaluate(manifest: Path, options: Options) -> Evaluation:
    """Voiceprint comparison on the clips of a list. Raises ManifestError, RecordingError and ModelError."""
    clips = chosen_clips(manifest, "speaker", limit=options.limit, corpora=options.corpora)
    few = chosen_clips(manifest, "speaker", limit=min(options.limit, NOISE_LIMIT), corpora=options.corpora)
    extract, say = extractor(options).sessions, options.progress
    heard: Sessions = {Condition(band): extract(clips, Condition(band), say) for band in Band}
    for band, snr_db in itertools.product(Band, SNRS_DB):
        heard[Condition(band, snr_db)] = extract(few, Condition(band, snr_db), say, (NOISE_S,))
    tables = [
        by_duration(heard, options),
        by_enrolment(heard, options),
        by_corpus(heard, options),
        by_noise(heard, options),
    ]
    return Evaluation(tables, _plots(heard, options), len(clips), _notes(heard), noisy=True)


def durations(sessions: Sequence[Session]) -> list[tuple[str, list[Sample]]]:
    """The samples of each length of speech."""
    short = [(f"{duration_s:g} s", short_samples(sessions, duration_s)) for duration_s in SHORT_S]
    long = [(f"{duration_s:g} s or more", long_samples(sessions, duration_s)) for duration_s in LONG_S]
    return [*short, *long, ("all of a recording", whole_samples(sessions))]


def by_duration(heard: Sessions, options: Options) -> Table:
    """Both sides as long."""
    rows: list[list[Cell]] = [
        [band, name, *figures(within(samples, options), options)]
        for band in Band
        for name, samples in durations(heard[Condition(band)])
    ]
    return Table("By speech on either side, all corpora", ["band", "speech", *COLUMNS], rows, NOTE)


def by_enrolment(heard: Sessions, options: Options) -> Table:
    """All speech of a recording against a short one, in one band and across."""
    rows: list[list[Cell]] = []
    for enrolled, tested in ((Band.WIDE, Band.WIDE), (Band.TELEPHONE, Band.TELEPHONE), (Band.WIDE, Band.TELEPHONE)):
        whole = whole_samples(heard[Condition(enrolled)])
        for name, samples in durations(heard[Condition(tested)]):
            if samples and samples[0].session >= 0:
                rows.append([f"{enrolled} / {tested}", name, *figures(across(whole, samples, options), options)])
    return Table("All speech of one recording against a part of another", ["bands", "speech", *COLUMNS], rows, NOTE)


def by_corpus(heard: Sessions, options: Options) -> Table:
    """Each corpus, and all of them with one threshold and one calibration."""
    rows: list[list[Cell]] = []
    for band in Band:
        for name, part in itertools.product(("3 s", "all of a recording"), _corpora(heard[Condition(band)])):
            samples = dict(durations(part))[name]
            rows.append([part[0].corpus, band, name, *figures(within(samples, options), options)])
    return Table("By corpus", ["corpus", "band", "speech", *COLUMNS], rows, NOTE)


def _corpora(sessions: list[Session]) -> list[list[Session]]:
    names = dict.fromkeys(one.corpus for one in sessions)
    return [[one for one in sessions if one.corpus == name] for name in names]


def by_noise(heard: Sessions, options: Options) -> Table:
    """The first seconds, under noise."""
    rows: list[list[Cell]] = []
    for band in Band:
        for snr_db in SNRS_DB:
            samples = short_samples(heard[Condition(band, snr_db)], NOISE_S)
            rows.append([band, f"{snr_db} dB", *figures(within(samples, options), options)])
    note = "Noise may hide speech from voice activity detection: what it does not find has no trials."
    return Table(f"Under noise, {NOISE_S:g} s on either side", ["band", "speech to noise", *COLUMNS], rows, note)


def _plots(heard: Sessions, options: Options) -> dict[str, Plot]:
    found: dict[str, Plot] = {}
    for band in Band:
        curves = {name: within(samples, options) for name, samples in durations(heard[Condition(band)])}
        usable = {name: trials for name, trials in curves.items() if trials.target.any() and not trials.target.all()}
        found[f"det-{band}"] = plots.det({name: (one.llr, one.target) for name, one in usable.items()})
        if usable:
            whole = list(usable.values())[-1]
            found[f"scores-{band}"] = plots.histograms(*_split(whole), "log-likelihood ratio")
    return found


def _split(trials: Trials) -> tuple[plots.Float64, plots.Float64]:
    return trials.llr[trials.target], trials.llr[~trials.target]


def _notes(heard: Sessions) -> list[str]:
    return [
        f"{condition.band}: {sum(not one.utterances for one in sessions)} of {len(sessions)} sessions without speech"
        for condition, sessions in heard.items()
        if condition.snr_db is None
    ]
