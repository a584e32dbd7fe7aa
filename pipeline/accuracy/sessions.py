"""Voiceprints of a list's recordings, by speaker and session, at several lengths of speech.

A recording is a session, and never compared with itself: what one room, device and day have in common would pass for a voice.
A speaker with one recording is only somebody else than the others.
"""

from __future__ import annotations

import collections
import functools
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from pipeline.accuracy import audio
from pipeline.accuracy.audio import Band, Float32
from pipeline.accuracy.evaluation import Options
from pipeline.accuracy.manifest import Clip, read_clips
from pipeline.accuracy.speech import enough, first_seconds, length_s, utterances
from pipeline.models.manifest import load_manifest
from pipeline.models.models import ModelSet
from pipeline.models.registry import fetch
from pipeline.models.silero import SileroVad
from pipeline.scoring.extraction import voiceprint_of
from pipeline.scoring.profile import Profile
from pipeline.scoring.voiceprint import Voiceprint, VoiceprintSum

SHORT_S = (1.0, 2.0, 3.0, 5.0)  # the first so many seconds of a session
LONG_S = (10.0, 30.0)  # utterances of a speaker's sessions, one after the other, until there is as much
_PINK_S = 10.0


class Condition(NamedTuple):
    """What a recording went through; `snr_db` None for no noise."""

    band: Band
    snr_db: int | None = None


class Session(msgspec.Struct, frozen=True):
    """One speaker at one time: the voiceprint of each utterance, and of its first seconds by their number."""

    corpus: str
    speaker: str
    gender: str
    utterances: list[Voiceprint]
    first: dict[float, Voiceprint]


class Sample(msgspec.Struct, frozen=True):
    """A voiceprint of a speaker. `session` numbers the session that it is of, -1 when it is of several."""

    session: int
    corpus: str
    speaker: str
    gender: str
    voiceprint: Voiceprint


class Extractor:
    """Hears recordings as a worker does and makes voiceprints of them; what it has heard it remembers."""

    def __init__(self, options: Options) -> None:
        """Open the models, fetched when they are not there. Raises ModelError."""
        manifest = load_manifest(options.manifest_path)
        fetch(options.cache_dir, manifest=manifest, language_size=options.language_size)
        self._models = ModelSet.load(options.cache_dir, options.language_size, manifest, options.execution)
        self._silero = SileroVad(self._models.silero_path)
        self._options = options
        self._known: dict[tuple[Clip, Condition, Sequence[float]], Session] = {}

    def sessions(
        self,
        clips: Sequence[Clip],
        condition: Condition,
        say: Callable[[str], None],
        first_s: Sequence[float] = SHORT_S,
    ) -> list[Session]:
        """The session of each clip, with its first seconds: as many as are asked for."""

        def hear(clip: Clip) -> Session:
            key = (clip, condition, first_s)
            if key not in self._known:
                self._known[key] = self._hear(*key)
            return self._known[key]

        found: list[Session] = []
        with ThreadPoolExecutor(self._options.threads) as pool:
            for number, session in enumerate(pool.map(hear, clips), 1):
                found.append(session)
                if number % 100 == 0 or number == len(clips):
                    say(f"{_named(condition)}: {number} of {len(clips)} recordings")
        return found

    def _hear(self, clip: Clip, condition: Condition, first_s: Sequence[float]) -> Session:
        samples = audio.read(clip.path)
        if condition.snr_db is not None:
            samples = audio.under_noise(samples, self._noise(clip), condition.snr_db)
        return self._session(clip, utterances(samples, condition.band, self._silero), first_s, whole=condition.snr_db is None)

    def _noise(self, clip: Clip) -> Float32:
        """A noise that depends on the recording's name alone, so that another list mixes the same."""
        seed = int.from_bytes(hashlib.sha256(clip.path.name.encode()).digest()[:8])
        generator = np.random.default_rng([self._options.seed, seed])
        if not self._options.noise:
            return audio.pink_noise(int(_PINK_S * audio.SAMPLE_RATE_HZ), generator)
        return audio.read(self._options.noise[int(generator.integers(len(self._options.noise)))])

    def _session(self, clip: Clip, heard: list[Float32], first_s: Sequence[float], *, whole: bool) -> Session:
        made: dict[tuple[int, int], Voiceprint] = {}
        voiced = len(enough(heard, self._options.voice_enough_s, _seconds))

        def of(number: int, part: Float32) -> Voiceprint:
            if (number, len(part)) not in made:
                wants_voice = number < voiced
                made[number, len(part)] = voiceprint_of(self._models, part, _seconds(part), wants_voice=wants_voice)
            return made[number, len(part)]

        def all_of(parts: list[Float32]) -> list[Voiceprint]:
            return [of(number, part) for number, part in enumerate(parts)]

        wanted_s = [one_s for one_s in first_s if length_s(heard) >= one_s]
        first = {one_s: merged(all_of(first_seconds(heard, one_s))) for one_s in wanted_s}
        taken = enough(heard, self._options.voiceprint_enough_s, _seconds)
        return Session(clip.corpus, clip.speaker, clip.gender, all_of(taken) if whole else [], first)


def _seconds(samples: Float32) -> float:
    return len(samples) / audio.SAMPLE_RATE_HZ


def extractor(options: Options) -> Extractor:
    """One for the same options, so that what is evaluated next knows what was heard. Raises ModelError."""
    return _extractor(msgspec.structs.replace(options, progress=_nothing, profile=Profile()))


@functools.cache
def _extractor(options: Options) -> Extractor:
    return Extractor(options)


def _nothing(_: str) -> None:
    """Say nothing; one function, so that options are the same."""


def _named(condition: Condition) -> str:
    return condition.band if condition.snr_db is None else f"{condition.band}, noise at {condition.snr_db} dB"


def merged(voiceprints: Sequence[Voiceprint]) -> Voiceprint:
    """As a call's channel merges its utterances."""
    total = VoiceprintSum()
    for voiceprint in voiceprints:
        total.add(voiceprint)
    return total.merged()


def short_samples(sessions: Sequence[Session], duration_s: float) -> list[Sample]:
    """The first seconds of each session that has as many."""
    return [_sample(number, one, one.first[duration_s]) for number, one in enumerate(sessions) if duration_s in one.first]


def whole_samples(sessions: Sequence[Session]) -> list[Sample]:
    """All speech of each session."""
    return [_sample(number, one, merged(one.utterances)) for number, one in enumerate(sessions) if one.utterances]


def long_samples(sessions: Sequence[Session], duration_s: float) -> list[Sample]:
    """Each speaker's utterances in groups of at least so many seconds; no two groups have a session in common."""
    by_speaker: dict[tuple[str, str], list[Session]] = collections.defaultdict(list)
    for one in sessions:
        by_speaker[one.corpus, one.speaker].append(one)
    return [_sample(-1, mine[0], merged(group)) for mine in by_speaker.values() for group in _groups(mine, duration_s)]


def _groups(sessions: list[Session], duration_s: float) -> Iterator[list[Voiceprint]]:
    group: list[Voiceprint] = []
    for session in sessions:
        for heard in session.utterances:
            group.append(heard)
            if sum(each.speech_s for each in group) >= duration_s:
                yield group
                group = []
                break  # what is left of this session would be compared with what it had before


def _sample(number: int, session: Session, voiceprint: Voiceprint) -> Sample:
    return Sample(number, session.corpus, session.speaker, session.gender, voiceprint)


def chosen_clips(manifest: Path, *needed: str, limit: int, corpora: Collection[str] = ()) -> list[Clip]:
    """The list's clips, of a larger corpus the first of each speaker in turn up to a limit. Raises ManifestError."""
    clips = read_clips(manifest, *needed, corpora=corpora)
    rank: collections.Counter[tuple[str, str]] = collections.Counter()
    order: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
    for index, clip in enumerate(clips):
        order[clip.corpus].append((rank[clip.corpus, clip.speaker], index))
        rank[clip.corpus, clip.speaker] += 1
    kept = sorted(index for places in order.values() for _, index in sorted(places)[:limit])
    return [clips[index] for index in kept]
