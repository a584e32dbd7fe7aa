"""Embeddings of the training and the held-out clips, wide band and as telephone copies."""

from __future__ import annotations

import concurrent.futures
import csv
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from pipeline.models.models import ModelSet
from pipeline.scoring.voiceprint import unit

FloatArray = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
TRAIN = ("librispeech_mini", "speechocean762", "dspspeech_zh", "arabic_commands")
GENDER_TRAIN = ("librispeech_mini", "speechocean762")
HELD_OUT = ("msc_ml", "asterisk_multi", "picovoice_multi", "watson_multi", "fsdd")
MIN_CROP_S, MAX_CROP_S = 2.0, 8.0
_THREADS = 2


class Clip(NamedTuple):
    """One recording of the list `clips.csv`."""

    path: str
    corpus: str
    speaker: str
    gender: str  # m, f or empty


class Embeddings(NamedTuple):
    """Voiceprint vectors of clips: float32 (n, 448) for the wide band and for the telephone copy."""

    clips: list[Clip]
    wide: FloatArray
    telephone: FloatArray

    def of(self, keep: Iterable[bool]) -> Embeddings:
        """Some of the clips."""
        index = np.flatnonzero(np.fromiter(keep, bool, len(self.clips)))
        return Embeddings([self.clips[i] for i in index], self.wide[index], self.telephone[index])

    def corpus(self, name: str) -> Embeddings:
        """The clips of one corpus."""
        return self.of(clip.corpus == name for clip in self.clips)


def read_clips(speech_dir: Path) -> list[Clip]:
    """The clips of every corpus that is used, in the order of the list."""
    used = {*TRAIN, *HELD_OUT}
    with (speech_dir / "clips.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [Clip(row["path"], row["corpus"], row["speaker"], row["gender"]) for row in rows if row["corpus"] in used]


def telephone(samples: FloatArray) -> FloatArray:
    """16 kHz -> 8 kHz, G.711 µ-law and back, 16 kHz again: float32 (n,) -> float32 (n,)."""
    narrow = soxr.resample(samples, SAMPLE_RATE_HZ, 8000)
    wide: FloatArray = soxr.resample(mulaw_round_trip(narrow), 8000, SAMPLE_RATE_HZ)
    return np.resize(wide, samples.size)


def mulaw_round_trip(samples: FloatArray) -> FloatArray:
    """Quantise as ITU-T G.711 µ-law does: 14-bit magnitudes, eight segments of sixteen steps."""
    magnitude = np.minimum(np.abs(np.round(samples * 8192)), 8158).astype(np.int64) + 33
    segment = np.floor(np.log2(magnitude)).astype(np.int64) - 5
    step = (magnitude >> (segment + 1)) & 0x0F
    decoded = ((2 * step + 33) << segment) - 33
    result: FloatArray = (np.sign(samples) * decoded / 8192).astype(np.float32)
    return result


def crop(samples: FloatArray, generator: np.random.Generator) -> FloatArray:
    """A stretch of 2 to 8 s (log-uniform), as long as an utterance of a call is."""
    seconds = float(np.exp(generator.uniform(np.log(MIN_CROP_S), np.log(MAX_CROP_S))))
    length = min(samples.size, int(seconds * SAMPLE_RATE_HZ))
    start = int(generator.integers(0, samples.size - length + 1))
    return samples[start : start + length]


def embed_all(speech_dir: Path, clips: list[Clip], models: ModelSet, seed: int) -> Embeddings:
    """Embed every clip in both bands. The crop depends on the seed and the clip's place in the list only."""

    def embed(index: int) -> tuple[FloatArray, FloatArray]:
        heard = crop(_read(speech_dir / clips[index].path), np.random.default_rng([seed, index]))
        return _vector(models, heard), _vector(models, telephone(heard))

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        vectors = list(pool.map(embed, range(len(clips))))
    return Embeddings(clips, np.stack([wide for wide, _ in vectors]), np.stack([narrow for _, narrow in vectors]))


def _read(path: Path) -> FloatArray:
    """Mono samples at 16 kHz, float32 (n,)."""
    read, rate_hz = soundfile.read(path, dtype="float32")
    samples: FloatArray = np.asarray(read, np.float32)
    return samples if rate_hz == SAMPLE_RATE_HZ else soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ)


def _vector(models: ModelSet, samples: FloatArray) -> FloatArray:
    return np.concatenate([unit(models.speaker.embed(samples)), unit(models.voice.embed(samples))])


def load_or_embed(path: Path, speech_dir: Path, models: ModelSet, seed: int) -> Embeddings:
    """The embeddings of that file; where there is none they are computed and stored there."""
    clips = read_clips(speech_dir)
    if not path.is_file():
        computed = embed_all(speech_dir, clips, models, seed)
        np.savez(path, wide=computed.wide, telephone=computed.telephone)
    with np.load(path) as arrays:
        return Embeddings(clips, arrays["wide"], arrays["telephone"])
