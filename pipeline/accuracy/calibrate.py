"""A calibration profile of one source: the built-in back-ends, moved to what its recordings show.

Little data moves little: a source's means weigh as its speakers do against `_PRIOR_SPEAKERS`, and scale and offset of the
scores are fitted with a penalty that draws them to 1 and 0.
"""

from __future__ import annotations

import collections
import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from pipeline.accuracy import language_trials
from pipeline.accuracy.audio import Band
from pipeline.accuracy.evaluation import Options
from pipeline.accuracy.fitting import MEAN_SHARE, balanced, recordings, rounded
from pipeline.accuracy.language_fitting import Examples, rescaled
from pipeline.accuracy.manifest import ManifestError, read_clips
from pipeline.accuracy.measures import cllr, min_cllr
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
from pipeline.accuracy.trials import Trials, across, joined, numbered, within
from pipeline.models.language import LABELS
from pipeline.scoring.calibration import (
    BandMeans,
    ComparisonBackend,
    GenderBackend,
    Provenance,
    built_in_comparison,
    built_in_gender,
    gender_llr,
)
from pipeline.scoring.language_calibration import LanguageCalibration, calibration_of
from pipeline.scoring.profile import Profile
from pipeline.scoring.voiceprint import MODEL, SPEAKER_DIMENSION

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MIN_SPEAKERS: Final = 5
_PRIOR_SPEAKERS: Final = 10.0  # how many of its speakers move a source's means half the way
_PRIOR_STRENGTH: Final = 0.5  # bits that a scale of e, or an offset of `_OFFSET`, costs when there is one speaker
_OFFSET: Final = 3.0
_LANGUAGE_S: Final = (1.0, 3.0, 5.0)
_DECIMALS: Final = 6


Heard = dict[Band, list[Session]]


class Moved(NamedTuple):
    """A cost in bits over the recordings that a profile was made of: Cllr, of languages cross entropy.

    `least` is that of any rising function of the scores, NaN for languages.
    """

    before: float
    after: float
    least: float


class Scaling(NamedTuple):
    """What log-likelihood ratios become."""

    scale: float  # positive
    offset: float

    def of(self, llr: Float64) -> Float64:
        """Scaled and moved."""
        return self.scale * llr + self.offset


def calibrate(manifest: Path, bands: Sequence[Band], options: Options) -> tuple[Profile, dict[str, Moved]]:
    """A profile of what the list's recordings can tell. Raises ManifestError, RecordingError and ModelError."""
    clips = chosen_clips(manifest, "speaker", limit=options.limit)
    heard = {band: extractor(options).sessions(clips, Condition(band), options.progress) for band in bands}
    for band, sessions in heard.items():
        speakers = {(one.corpus, one.speaker) for one in sessions if one.utterances}
        if len(speakers) < MIN_SPEAKERS:
            raise ManifestError(f"{manifest}: speech of {len(speakers)} speakers ({band}); a profile takes {MIN_SPEAKERS}")
    comparison, compared = comparison_of(heard, options)
    gender, told = gender_of(heard)
    language, said = language_of(manifest, bands, options)
    moved = {"comparison": compared, "gender": told, "language": said}
    size = options.language_size if language else ""
    profile = Profile(comparison, gender, language, voiceprint_model=MODEL, language_size=size)
    return profile, {name: one for name, one in moved.items() if one is not None}


def comparison_of(heard: Heard, options: Options) -> tuple[ComparisonBackend, Moved | None]:
    """The means of the source; scale and offset when speakers were recorded more than once.

    The whole mean is subtracted only where the scores can be scaled to it; else the share that the weights were trained with.
    """
    built_in = built_in_comparison()
    before = source_trials(heard, _with(options, built_in))
    counts = {"target": int(before.target.sum()), "nontarget": int((~before.target).sum())}
    built_in = msgspec.structs.replace(built_in, provenance=_provenance(heard, counts))
    if min(counts.values()) == 0:
        return _with_means(built_in, heard, MEAN_SHARE), None
    centred = _with_means(built_in, heard, 1.0)
    after = source_trials(heard, _with(options, centred))
    weight = balanced(after.target, after.speaker_a)
    found = scaling(after.llr, after.target, weight, len(np.unique(after.speaker_a[after.target])))
    scaled = msgspec.structs.replace(
        centred,
        weights=rounded(found.scale * np.array(centred.weights)),
        bias=round(found.scale * centred.bias + found.offset, _DECIMALS),
    )
    return scaled, _moved(before.llr, found.of(after.llr), after.target, weight)


def _with(options: Options, backend: ComparisonBackend) -> Options:
    return msgspec.structs.replace(options, profile=Profile(comparison=backend))


def source_trials(heard: Heard, options: Options) -> Trials:
    """Recordings with each other, and with the first seconds of others."""
    numbers = numbered(one for sessions in heard.values() for one in whole_samples(sessions))
    parts = []
    for sessions in heard.values():
        whole = whole_samples(sessions)
        parts.append(within(whole, options, numbers))
        parts += [across(whole, short_samples(sessions, duration_s), options, numbers) for duration_s in SHORT_S]
    return joined(parts)


def _with_means(backend: ComparisonBackend, heard: Heard, share: float) -> ComparisonBackend:
    """The back-end with its means moved to the source's, band by band."""
    speaker, voice = msgspec.structs.asdict(backend.speaker_means), msgspec.structs.asdict(backend.voice_means)
    for band, sessions in heard.items():
        mean, speakers = _mean(whole_samples(sessions))
        own = speakers / (speakers + _PRIOR_SPEAKERS)
        for means, part in ((speaker, share * mean[:SPEAKER_DIMENSION]), (voice, mean[SPEAKER_DIMENSION:])):
            means[band] = (own * part + (1 - own) * np.array(means[band])).round(_DECIMALS).tolist()
    return msgspec.structs.replace(backend, speaker_means=BandMeans(**speaker), voice_means=BandMeans(**voice))


def _mean(samples: Sequence[Sample]) -> tuple[Float64, int]:
    """The mean embedding (448,), each speaker weighing the same, and how many speakers there are."""
    by_speaker: dict[tuple[str, str], list[Float64]] = collections.defaultdict(list)
    for one in samples:
        by_speaker[one.corpus, one.speaker].append(one.voiceprint.embedding.astype(np.float64))
    mean: Float64 = np.mean([np.mean(mine, axis=0) for mine in by_speaker.values()], axis=0)
    return mean, len(by_speaker)


def gender_of(heard: Heard) -> tuple[GenderBackend | None, Moved | None]:
    """Scale and offset for the source, when it has speakers of both genders that are labelled."""
    labelled = {band: [one for one in sessions if one.gender] for band, sessions in heard.items()}
    samples = [one for sessions in labelled.values() for one in (*whole_samples(sessions), *_first(sessions))]
    male = np.array([one.gender == "m" for one in samples], np.bool_)
    if male.all() or not male.any():
        return None, None
    _, speaker = np.unique([f"{one.corpus}/{one.speaker}" for one in samples], return_inverse=True)
    built_in = built_in_gender()
    llr, weight = gender_llr([one.voiceprint for one in samples]), balanced(male, speaker)
    found = scaling(llr, male, weight, min(len(np.unique(speaker[part])) for part in (male, ~male)))
    backend = msgspec.structs.replace(
        built_in,
        weights=rounded(found.scale * np.array(built_in.weights)),
        bias=round(found.scale * built_in.bias + found.offset, _DECIMALS),
        provenance=_provenance(labelled, {"male": int(male.sum()), "female": int((~male).sum())}),
    )
    return backend, _moved(llr, found.of(llr), male, weight)


def language_of(manifest: Path, bands: Sequence[Band], options: Options) -> tuple[LanguageCalibration | None, Moved | None]:
    """The scale for the source, when its recordings say which language is spoken."""
    if not any(clip.language in LABELS for clip in read_clips(manifest)):
        return None, None
    clips = language_trials.chosen_clips(manifest, options.seed, min(language_trials.CLIPS_PER_LANGUAGE, options.limit))
    listener = language_trials.Listener(options, _LANGUAGE_S)
    heard = [one for band in bands for one in listener.hear(clips, band)]
    examples, before = Examples(heard), calibration_of(options.language_size)
    if not len(examples):
        return None, None
    after = rescaled(examples, before, _PRIOR_STRENGTH / len({(clip.corpus, clip.speaker) for clip in clips}))
    return after, Moved(examples.cross_entropy_bits(before), examples.cross_entropy_bits(after), math.nan)


def _first(sessions: Sequence[Session]) -> list[Sample]:
    return [one for duration_s in SHORT_S for one in short_samples(sessions, duration_s)]


def scaling(llr: Float64, target: Bools, weight: Float64, speakers: int) -> Scaling:
    """The scale and offset of least cost, drawn to 1 and 0 the more the fewer speakers the rarer class has."""
    penalty = _PRIOR_STRENGTH / max(speakers, 1)

    def cost(theta: Float64) -> float:
        log_scale, offset = theta
        drawn = float(penalty * (log_scale**2 + (offset / _OFFSET) ** 2))
        return cllr(np.exp(log_scale) * llr + offset, target, weight) + drawn

    log_scale, offset = minimize(cost, np.zeros(2), method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-7}).x
    return Scaling(float(np.exp(log_scale)), float(offset))


def _moved(before: Float64, after: Float64, target: Bools, weight: Float64) -> Moved:
    return Moved(cllr(before, target, weight), cllr(after, target, weight), min_cllr(after, target, weight))


def _provenance(heard: Heard, counts: dict[str, int]) -> Provenance:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    sessions = next(iter(heard.values()))
    return Provenance("callstream calibrate", today, 0, recordings(sessions), counts, _PRIOR_STRENGTH)
