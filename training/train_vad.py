"""Train the readout of voice activity detection: `python -m training.train_vad SPEECH_DIR CACHE_DIR`.

SPEECH_DIR holds `clips.csv` and `noise.csv` and what they list. Trained on recordings made (see `training.vad_data`) of clips
of librispeech_mini (LibriSpeech, CC BY 4.0), speechocean762 (CC BY 4.0), dspspeech_zh (MIT), arabic_commands (CC BY 4.0),
noises of ESC-10 (CC BY) and generated sounds; a fifth of the speakers and of the noises is held out and measured. Each
recording as it is at 16 kHz and at 8 kHz through G.711 µ-law; silero's own weights stay as they are. The weights go to
`pipeline/audio/vad_readout.json`.

With the same files, seed and versions of the locked packages, the weights are the same.
"""

from __future__ import annotations

import argparse
import datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.accuracy.audio import Band
from pipeline.accuracy.fitting import Bools, Float64, regress
from pipeline.accuracy.speech import as_call
from pipeline.audio.vad_readout import (
    BLOCK_FRAMES,
    BLOCK_WINDOWS,
    LAG_FRAMES,
    OFFSETS_MS,
    PAST_WINDOWS,
    ReadoutFile,
    Training,
    Weights,
    interpolation,
)
from pipeline.models.registry import fetch
from pipeline.models.silero import HIDDEN, WINDOW_SAMPLES, SileroVad
from training.vad_data import Made, make, sources

SEED = 20_261_125
RECORDINGS, HELD_OUT_RECORDINGS = 360, 90
_RIDGE = 1e-3
_EVERY_FRAMES = 4  # neighbours say nearly the same
_DEEP_WINDOWS = 5  # so far from any speech is silence
_PATH = Path(__file__).resolve().parent.parent / "pipeline" / "audio" / "vad_readout.json"


class Heard(NamedTuple):
    """One recording at one rate: the LSTM's outputs (n, 128), silero's probabilities (n,), and the truth each 10 ms."""

    hidden: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]
    speech: Bools


def hear(silero: SileroVad, made: Made, band: Band) -> Heard:
    """What silero makes of a recording, in whole blocks."""
    samples, rate_hz = as_call(made.samples, band)
    size = WINDOW_SAMPLES[rate_hz]
    blocks = len(samples) // (size * BLOCK_WINDOWS)
    windows = samples[: blocks * size * BLOCK_WINDOWS].reshape(-1, size).astype(np.float32) / np.float32(32768)
    heard = silero.listen(windows, silero.initial_state(rate_hz))
    return Heard(heard.hidden, heard.probabilities, made.speech[: blocks * BLOCK_FRAMES])


def design(hidden: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The LSTM's outputs as each 10 ms sees them: (frames, 3 x 128)."""
    blocks = len(hidden) // BLOCK_WINDOWS + 1
    padded = np.pad(hidden, ((PAST_WINDOWS, BLOCK_WINDOWS), (0, 0)), "edge")
    seen = np.lib.stride_tricks.sliding_window_view(padded, PAST_WINDOWS + BLOCK_WINDOWS, axis=0)[::BLOCK_WINDOWS][:blocks]
    parts = [seen @ interpolation(offset_ms).T.astype(np.float32) for offset_ms in OFFSETS_MS]  # (blocks, 128, 16)
    frames = np.concatenate(parts, axis=1).transpose(0, 2, 1).reshape(-1, len(OFFSETS_MS) * HIDDEN)
    result: npt.NDArray[np.float32] = frames[LAG_FRAMES : LAG_FRAMES + len(hidden) // BLOCK_WINDOWS * BLOCK_FRAMES]
    return result


def train(recordings: list[Heard]) -> tuple[Weights, dict[str, int]]:
    """The weights of one rate, and how many frames of each kind they came from."""
    x = np.concatenate([design(one.hidden)[::_EVERY_FRAMES] for one in recordings]).astype(np.float64)
    speech = np.concatenate([one.speech[::_EVERY_FRAMES] for one in recordings])
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    weights, bias = regress((x - mean) / scale, speech, np.full(len(x), 1 / len(x)), _RIDGE)
    weights = (weights / scale).round(6)
    by_offset = weights.reshape(len(OFFSETS_MS), HIDDEN)
    silence = _silent_windows(recordings).astype(np.float64) @ by_offset.T
    found = Weights(by_offset.tolist(), round(bias - float(weights @ mean), 6), silence.mean(axis=0).round(6).tolist())
    return found, {"speech": int(speech.sum()), "silence": int((~speech).sum())}


def _silent_windows(recordings: list[Heard]) -> npt.NDArray[np.float32]:
    """The LSTM's outputs far from any speech."""
    kept = []
    for one in recordings:
        frame = (np.arange(len(one.hidden)) * BLOCK_FRAMES // BLOCK_WINDOWS).astype(np.int64)
        near = np.convolve(one.speech[frame], np.ones(2 * _DEEP_WINDOWS + 1), "same") > 0
        kept.append(one.hidden[~near])
    return np.concatenate(kept)


def report(name: str, weights: Weights, recordings: list[Heard]) -> None:
    """Miss and false alarm of frames at 0.5, of the readout and of silero alone."""
    flat = np.array(weights.weights).ravel()
    said = np.concatenate([design(one.hidden) @ flat + weights.bias > 0 for one in recordings])
    frame = [(np.arange(len(one.speech)) * 10 + 5) // 32 for one in recordings]
    alone = np.concatenate([one.probabilities[at] > 0.5 for one, at in zip(recordings, frame, strict=True)])
    truth = np.concatenate([one.speech for one in recordings])
    print(f"{name:16} readout {_errors(said, truth)}, silero {_errors(alone, truth)} (miss / false alarm, {len(truth)} frames)")


def _errors(said: Bools, truth: Bools) -> str:
    missed: Float64 = (~said[truth]).mean() * 100
    alarmed: Float64 = said[~truth].mean() * 100
    return f"{missed:.1f} / {alarmed:.1f} %"


def main() -> None:
    """Train, measure, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech_dir", type=Path)
    parser.add_argument("cache_dir")
    options = parser.parse_args()
    silero = SileroVad(fetch(options.cache_dir, ["silero"])["silero"][0])
    files = sources(options.speech_dir, held_out=False)
    made = make(files, RECORDINGS, SEED)
    unseen = make(sources(options.speech_dir, held_out=True), HELD_OUT_RECORDINGS, SEED)
    rates: dict[int, Weights] = {}
    frames: dict[str, int] = {}
    for band, rate_hz in ((Band.WIDE, 16_000), (Band.TELEPHONE, 8000)):
        rates[rate_hz], frames = train([hear(silero, one, band) for one in made])
        for snr_db in (None, 20, 10, 5):
            part = [hear(silero, one, band) for one in unseen if one.snr_db == snr_db]
            report(f"{band} {f'{snr_db} dB' if snr_db else 'clean'}", rates[rate_hz], part)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    clips = {corpus: len(paths) for corpus, paths in files.clips.items()}
    record = Training("training/train_vad.py", today, SEED, RECORDINGS, clips, len(files.noises), frames, _RIDGE)
    _PATH.write_bytes(msgspec.json.format(msgspec.json.encode(ReadoutFile(rates, record)), indent=1) + b"\n")


if __name__ == "__main__":
    main()
