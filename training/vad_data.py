"""Labelled recordings for voice activity detection, made of clean speech and noise: what is speech is known to 10 ms.

In clean speech the level alone tells speech from pause. A frame is speech within 24 dB of the loud ones (the 95th percentile),
in the whole band or in the treble (for consonants), and 8 dB above the quiet ones; gaps under 100 ms belong to speech, runs
under 40 ms do not. 24 dB is where silero at its own threshold of 0.5 misses as much of the clean speech as it alarms falsely.

`python -m training.vad_data SPEECH_DIR` prints the noises that were kept back, as a list for `callstream evaluate --noise`.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.accuracy.audio import SAMPLE_RATE_HZ, Float32, pink_noise, read

Bools = npt.NDArray[np.bool_]
Float64 = npt.NDArray[np.float64]

CORPORA = ("librispeech_mini", "speechocean762", "dspspeech_zh", "arabic_commands")
_TURNS = (0, 0, 0, 1, 1, 1, 1, 2, 3)  # corpora in turn
FRAME_SAMPLES = SAMPLE_RATE_HZ // 100
RECORDING_S = 20
SNRS_DB = (None, 20, 10, 5)
_HELD_OUT_EVERY = 5  # speakers, and noises
_DYNAMICS_DB = 24.0
_ABOVE_FLOOR_DB = 8.0
_LEAST_RANGE_DB = 35.0  # of a clip that counts as clean
_LEAST_GAP_FRAMES, _LEAST_BURST_FRAMES = 10, 4
_TINY = 1e-12


class Made(NamedTuple):
    """A recording (float32 at 16 kHz), for each 10 ms whether it is speech, and the noise's level beneath the speech."""

    samples: Float32
    speech: Bools
    snr_db: int | None


class Sources(NamedTuple):
    """Files to make recordings of: clips by corpus, and noises."""

    clips: dict[str, list[Path]]
    noises: list[Path]


def sources(speech_dir: Path, *, held_out: bool) -> Sources:
    """The files to train on, or the held-out fifth of the speakers and noises; of these none whose recording is trained on."""
    with (speech_dir / "clips.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["corpus"] in CORPORA]
    with (speech_dir / "noise.csv").open(newline="") as file:
        noises = [speech_dir / row["path"] for row in csv.DictReader(file)]
    kept_back = set(sorted({row["speaker"] for row in rows})[::_HELD_OUT_EVERY])
    clips = {
        corpus: [
            speech_dir / row["path"] for row in rows if row["corpus"] == corpus and (row["speaker"] in kept_back) == held_out
        ]
        for corpus in CORPORA
    }
    trained_on = [path for i, path in enumerate(noises) if i % _HELD_OUT_EVERY]
    heard = {_take_of(path) for path in trained_on}
    return Sources(clips, [path for path in noises if _take_of(path) not in heard] if held_out else trained_on)


def _take_of(noise: Path) -> str:
    """ESC-10 cuts several clips (A, B, …) from a recording."""
    return noise.stem.rpartition("-")[0] or noise.stem


def make(files: Sources, count: int, seed: int) -> list[Made]:
    """So many recordings; each depends on the seed and its number only."""
    return [_made(files, number, np.random.default_rng([seed, number])) for number in range(count)]


def speech_frames(samples: Float32) -> Bools | None:
    """For each 10 ms of a clean clip whether it is speech; None when the clip is not clean."""
    treble = np.append(samples[:1], samples[1:] - np.float32(0.9) * samples[:-1])
    levels = [_level_db(samples), _level_db(treble)]
    low, high = np.percentile(levels, [5, 95], axis=1)
    if (high - low).min() < _LEAST_RANGE_DB:
        return None
    above = [level > max(a + _ABOVE_FLOOR_DB, b - _DYNAMICS_DB) for level, a, b in zip(levels, low, high, strict=True)]
    return _smooth(above[0] | above[1])


def _level_db(samples: Float32) -> Float64:
    frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES).astype(np.float64)
    power = np.convolve((frames**2).mean(axis=1), [0.25, 0.5, 0.25], "same")
    level_db: Float64 = 10 * np.log10(power + _TINY)
    return level_db


def _smooth(speech: Bools) -> Bools:
    result = speech.copy()
    starts, ends = runs(result)
    for end, start in zip(ends[:-1], starts[1:], strict=True):
        result[end:start] |= start - end < _LEAST_GAP_FRAMES
    starts, ends = runs(result)
    for start, end in zip(starts, ends, strict=True):
        result[start:end] &= end - start >= _LEAST_BURST_FRAMES
    return result


def runs(speech: Bools) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """First frames of the runs of speech, and the frames behind their ends."""
    steps = np.diff(speech.astype(np.int8), prepend=0, append=0)
    return np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)


def _made(files: Sources, number: int, random: np.random.Generator) -> Made:
    """A recording; every tenth holds only sounds that are no speech."""
    corpus = CORPORA[_TURNS[number % len(_TURNS)]]
    clips = [] if number % 10 == 9 else files.clips[corpus]
    parts: list[tuple[Float32, Bools]] = []
    while sum(len(speech) for _, speech in parts) < RECORDING_S * 100:
        parts += _parts(clips, files.noises, random)
    samples, speech = (np.concatenate(column) for column in zip(*parts, strict=True))
    snr_db = SNRS_DB[random.integers(len(SNRS_DB))]
    if snr_db is not None and speech.any():
        samples = samples + _background(files.noises, samples, speech, snr_db, random)
    if random.random() < 0.8:  # the line's noise; without it digital silence
        samples = samples + random.normal(size=len(samples)) * _gain(random, -85, -55)
    samples = samples * _gain(random, -24, 0) / max(1.0, float(np.abs(samples).max()))
    return Made(samples.astype(np.float32), speech, snr_db)


def _parts(clips: list[Path], noises: list[Path], random: np.random.Generator) -> list[tuple[Float32, Bools]]:
    """A sound that is no speech, or a clip and now and then digital silence behind it."""
    if not clips or random.random() < 0.12:
        sound = _noise(noises, random) if random.random() < 0.6 else _generated(random)
        return [_silent(_at_peak(sound, _gain(random, -40, -10 if clips else 0)))]
    clip = _whole_frames(read(clips[random.integers(len(clips))]))
    speech = speech_frames(clip)
    if speech is None:
        return []
    spoken = [(_at_peak(clip, 0.7 * _gain(random, -12, 0)), speech)]
    if random.random() < 0.15:
        spoken.append(_silent(np.zeros(int(random.integers(20, 150)) * FRAME_SAMPLES, np.float32)))
    return spoken


def _generated(random: np.random.Generator) -> Float32:
    """Some seconds of what lines carry besides: hiss, tones of signalling, buzz, crackle, rushing."""
    size = int(random.integers(100, 500)) * FRAME_SAMPLES
    time_s = np.arange(size) / SAMPLE_RATE_HZ
    kind = random.integers(5)
    sound: npt.NDArray[np.floating]
    if kind == 0:
        sound = random.normal(size=size).clip(-random.uniform(0.5, 4), random.uniform(0.5, 4))
    elif kind == 1:
        tones = [np.sin(2 * np.pi * random.uniform(100, 3000) * time_s) for _ in range(random.integers(1, 3))]
        sound = np.sum(tones, axis=0) * ((time_s % random.uniform(0.1, 2.0)) < random.uniform(0.05, 2.0))
    elif kind == 2:
        sound = np.sign(np.sin(2 * np.pi * random.uniform(20, 500) * time_s))
    elif kind == 3:
        sound = (np.arange(size) % random.integers(20, 4000) == 0).astype(np.float64)
    else:
        sound = pink_noise(size, random)
    return sound.astype(np.float32)


def _background(noises: list[Path], samples: Float32, speech: Bools, snr_db: float, random: np.random.Generator) -> Float64:
    """Noise as long as the recording: one, several in turn, or white; its power against that of the speech alone."""
    kind = random.integers(5)
    if kind < 3:
        noise = np.concatenate([_noise(noises, random) for _ in range(1 if kind == 0 else 6)]).astype(np.float64)
    else:
        noise = random.normal(size=len(samples))
    noise = np.resize(noise, len(samples))
    power = np.mean(samples[np.repeat(speech, FRAME_SAMPLES)].astype(np.float64) ** 2)
    scaled: Float64 = noise * np.sqrt(power / (np.mean(noise**2) + _TINY) / 10 ** (snr_db / 10))
    return scaled


def _noise(noises: list[Path], random: np.random.Generator) -> Float32:
    return _whole_frames(read(noises[random.integers(len(noises))]))


def _whole_frames(samples: Float32) -> Float32:
    return samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES]


def _silent(samples: Float32) -> tuple[Float32, Bools]:
    return samples, np.zeros(len(samples) // FRAME_SAMPLES, np.bool_)


def _at_peak(samples: Float32, peak: float) -> Float32:
    scaled: Float32 = (samples * (peak / max(1e-3, float(np.abs(samples).max())))).astype(np.float32)
    return scaled


def _gain(random: np.random.Generator, low_db: float, high_db: float) -> float:
    return float(10 ** (random.uniform(low_db, high_db) / 20))


if __name__ == "__main__":
    print("path")
    for path in sources(Path(sys.argv[1]), held_out=True).noises:
        print(path.resolve())
