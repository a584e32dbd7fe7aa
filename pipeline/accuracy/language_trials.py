"""Recordings in known languages as the language agent would score them, at several lengths of speech."""

from __future__ import annotations

import collections
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.accuracy import audio
from pipeline.accuracy.audio import SAMPLE_RATE_HZ, Band, Float32
from pipeline.accuracy.evaluation import Options
from pipeline.accuracy.manifest import Clip, ManifestError, read_clips
from pipeline.accuracy.speech import as_call, first_seconds, length_s, utterances
from pipeline.audio.resampling import to_wide
from pipeline.models.language import LABELS, LanguageIdentifier
from pipeline.models.manifest import load_manifest
from pipeline.models.models import ModelSet
from pipeline.models.registry import fetch
from pipeline.models.silero import SileroVad
from pipeline.scoring.language_calibration import LanguageCalibration
from pipeline.scoring.languages import LanguageEvidence, log_posteriors_of

Float64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
T = TypeVar("T")
R = TypeVar("R")

DURATIONS_S = (1.0, 2.0, 3.0, 5.0, 10.0)
LONGEST_S = 60.0  # of a recording's speech
CLIPS_PER_LANGUAGE = 60  # of each corpus

Posteriors = list[tuple[Float32, float]]  # of utterances: float32 (99,), empty when too short, and seconds of speech


class Heard(NamedTuple):
    """A recording: the posteriors of its utterances, all of them and those of its first seconds by their number."""

    clip: Clip
    whole: Posteriors
    first: dict[float, Posteriors]


class Listener:
    """Hears recordings as workers do."""

    def __init__(self, options: Options, durations_s: Sequence[float] = DURATIONS_S) -> None:
        """Open the models, fetched when they are not there. Raises ModelError."""
        manifest = load_manifest(options.manifest_path)
        fetch(options.cache_dir, manifest=manifest, language_size=options.language_size)
        models = ModelSet.load(options.cache_dir, options.language_size, manifest, options.execution)
        self._identifier = models.language
        self._silero = SileroVad(models.silero_path)
        self._durations_s = durations_s
        self._options = options

    def hear(self, clips: Sequence[Clip], band: Band) -> list[Heard]:
        """The clips in this order. Raises RecordingError."""

        def one(clip: Clip) -> Heard:
            heard = utterances(audio.read(clip.path), band, self._silero)
            kept = first_seconds(heard, LONGEST_S)
            return heard_in(clip, kept, self._identifier, self._durations_s)

        return self._each(one, clips, f"languages, {band}")

    def hear_as_speech(self, clips: Sequence[Clip], band: Band, longest_s: float) -> list[Heard]:
        """As if voice activity detection had passed the first so many seconds as one utterance. Raises RecordingError."""

        def one(clip: Clip) -> Heard:
            samples = audio.read(clip.path)[: round(longest_s * SAMPLE_RATE_HZ)]
            return heard_in(clip, [as_heard(samples, band)], self._identifier, ())

        return self._each(one, clips, f"noise, {band}")

    def _each(self, work: Callable[[T], R], items: Sequence[T], what: str) -> list[R]:
        found: list[R] = []
        with ThreadPoolExecutor(self._options.threads) as pool:
            for number, result in enumerate(pool.map(work, items), 1):
                found.append(result)
                if number % 50 == 0 or number == len(items):
                    self._options.progress(f"{what}: {number} of {len(items)} recordings")
        return found


def as_heard(samples: Float32, band: Band) -> Float32:
    """Samples at 16 kHz as extraction would get them if all of them were one utterance."""
    sent, rate_hz = as_call(samples, band)
    return to_wide(sent, rate_hz)


def heard_in(clip: Clip, heard: list[Float32], identifier: LanguageIdentifier, durations_s: Sequence[float]) -> Heard:
    """A recording's utterances, and its first seconds at each of these lengths that it has; no audio is extracted twice."""
    whole = [(log_posteriors_of(identifier, one), len(one) / SAMPLE_RATE_HZ) for one in heard]
    first: dict[float, Posteriors] = {}
    for duration_s in durations_s:
        if length_s(heard) < duration_s:
            continue
        kept = first_seconds(heard, duration_s)
        last, same = kept[-1], len(kept[-1]) == len(heard[len(kept) - 1])
        cut = whole[len(kept) - 1] if same else (log_posteriors_of(identifier, last), len(last) / SAMPLE_RATE_HZ)
        first[duration_s] = [*whole[: len(kept) - 1], cut]
    return Heard(clip, whole, first)


def evidence_of(posteriors: Posteriors) -> LanguageEvidence:
    """As the agent adds up a channel."""
    evidence = LanguageEvidence()
    for log_posteriors, speech_s in posteriors:
        evidence.add(log_posteriors, speech_s)
    return evidence


class Trials(NamedTuple):
    """Channels (n,), each of one language.

    `probability` (n, 99) is that of each label as the agent says it, zeros where it said nothing; `language` the true label's
    place, `speaker` numbers the speakers, `unknown` says where there were no scores.
    """

    probability: Float64
    language: Ints
    speaker: Ints
    unknown: Bools

    @property
    def said(self) -> Ints:
        """The place of the most probable label, -1 where nothing was said (n,)."""
        best: Ints = np.where(self.unknown, -1, self.probability.argmax(axis=1))
        return best


def trials(
    channels: Sequence[tuple[Clip, Posteriors]], allowed: Sequence[str], calibration: LanguageCalibration, floor: float
) -> Trials:
    """Score channels among the allowed languages."""
    probability = np.zeros((len(channels), len(LABELS)))
    for row, (_, posteriors) in enumerate(channels):
        for score in evidence_of(posteriors).scores(LABELS, allowed, calibration=calibration, floor=floor):
            probability[row, LABELS.index(score.identifier)] = score.probability
    names = [f"{clip.corpus}/{clip.speaker or clip.path}" for clip, _ in channels]
    _, speaker = np.unique(names, return_inverse=True)
    language = np.array([LABELS.index(clip.language) for clip, _ in channels], np.int64)
    return Trials(probability, language, speaker.astype(np.int64), probability.sum(axis=1) == 0)


def chosen_clips(manifest: Path, seed: int, limit: int = CLIPS_PER_LANGUAGE, corpora: Collection[str] = ()) -> list[Clip]:
    """The list's clips in languages that the model knows; of each corpus and language a draw of at most so many.

    Raises ManifestError.
    """
    clips = [clip for clip in read_clips(manifest, "language", corpora=corpora) if clip.language in LABELS]
    if not clips:
        raise ManifestError(f"{manifest}: no recording is in a language that the model knows ({', '.join(LABELS)})")
    parts: dict[tuple[str, str], list[int]] = collections.defaultdict(list)
    for index, clip in enumerate(clips):
        parts[clip.corpus, clip.language].append(index)
    generator = np.random.default_rng(seed)
    kept = [generator.permutation(parts[name])[:limit] for name in sorted(parts)]
    return [clips[index] for index in np.sort(np.concatenate(kept)).tolist()]
