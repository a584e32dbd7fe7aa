"""Cost of voice activity detection, and its errors against those of its peers and of other settings.

    python -m benchmarks.vad [SPEECH_DIR]

SPEECH_DIR (default ../shared/speech beside the repository) holds `vad_segments.csv` (path, start, end in s) and what it lists.
Speed is seconds of audio per second of CPU, on one thread: webrtcvad, silero as its package runs it, the same silero by fives
as we run it, and the detector that needs silero for some blocks only. Miss and false alarm are shares of the 10 ms
frames that are labelled speech and non-speech; with intervals and by recording they come from `callstream evaluate`. Every
recording is measured at 16 kHz and, as a telephone would carry it, at 8 kHz through G.711 µ-law. Tables are Markdown.
"""

import time
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import SessionOptions

from benchmarks.machine import describe
from benchmarks.recordings import listed
from pipeline.accuracy.audio import Band
from pipeline.accuracy.manifest import read_labelled
from pipeline.accuracy.vad_detectors import (
    Detector,
    Labelled,
    Said,
    by_window,
    carried,
    detector,
    frames_of,
    silero_alone,
    webrtc_alone,
)
from pipeline.audio.vad_spans import VadParameters
from pipeline.models.registry import fetch
from pipeline.models.silero import WINDOW_SAMPLES, SileroVad
from pipeline.settings import default_cache_dir

Int16Array = npt.NDArray[np.int16]

OURS, PACKAGED = "**callstream**", "silero, as packaged"
REPEATS = 3  # the fastest counts: other processes only slow one down
VARIANTS: dict[str, dict[str, int | float]] = {
    "no gate": {"gate_frames": 0},
    "gate in mode 1": {"webrtc_mode": 1},
    "gate in mode 3": {"webrtc_mode": 3},
    "gap 130 ms": {"gap_frames": 13},
    "gap 380 ms": {"gap_frames": 38},
    "burst 160 ms": {"burst_frames": 16},
    "onset 0.4, offset 0.3": {"onset": 0.4, "offset": 0.3},
    "onset 0.7, offset 0.6": {"onset": 0.7, "offset": 0.6},
    "restart every 1.6 s": {"restart_blocks": 10},
    "restart every 4.8 s": {"restart_blocks": 30},
    "no restart": {"restart_blocks": 1_000_000},
}


def packaged_session(path: Path) -> InferenceSession:
    """The model as the silero package opens it."""
    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def packaged_silero(samples: Int16Array, rate_hz: int, *, session: InferenceSession) -> Said:
    """As the silero package runs it: one window a call, behind the last samples of the one before."""
    size = WINDOW_SAMPLES[rate_hz]
    windows = samples[: len(samples) // size * size].reshape(-1, 1, size).astype(np.float32) / np.float32(32768)
    state, context, rate = np.zeros((2, 1, 128), np.float32), np.zeros((1, size // 8), np.float32), np.array(rate_hz, np.int64)
    values = []
    for window in windows:
        audio = np.concatenate((context, window), axis=1)
        value, state = map(np.asarray, session.run(None, {"input": audio, "state": state, "sr": rate}))
        values.append(value.item())
        context = window[:, -size // 8 :]
    return by_window(np.array(values), frames_of(samples, rate_hz))


def counts(recording: Labelled, said: Said) -> npt.NDArray[np.int64]:
    """Missed, speech, falsely alarmed, non-speech frames; heard, all windows."""
    truth, found = recording.speech, said.speech
    windows = len(recording.samples) // WINDOW_SAMPLES[recording.rate_hz]
    return np.array([(truth & ~found).sum(), truth.sum(), (~truth & found).sum(), (~truth).sum(), said.windows, windows])


def accuracy_row(name: str, detect: Detector, audio: list[Labelled]) -> str:
    """One line of the table: miss / false alarm in percent by corpus, over all, and the share of windows that silero heard."""
    sums: dict[str, npt.NDArray[np.int64]] = {}
    for recording in audio:
        found = counts(recording, detect(recording.samples, recording.rate_hz))
        sums[recording.corpus] = sums.get(recording.corpus, 0) + found
    total = np.sum(list(sums.values()), axis=0)
    cells = [f"{100 * c[0] / c[1]:.1f} / {100 * c[2] / c[3]:.1f}" for c in (*sums.values(), total)]
    return f"| {name} | {' | '.join(cells)} | {100 * total[4] / total[5]:.0f} % |"


def detectors(silero: SileroVad) -> dict[str, Detector]:
    """Everything whose errors are compared."""
    found: dict[str, Detector] = {f"webrtcvad mode {mode}": partial(webrtc_alone, mode=mode) for mode in range(4)}
    for threshold in (0.2, 0.35, 0.5, 0.65, 0.8):
        found[f"silero at {threshold}"] = partial(silero_alone, silero=silero, threshold=threshold)
    found[OURS] = partial(detector, silero=silero)
    for name, changes in VARIANTS.items():
        parameters = msgspec.structs.replace(VadParameters(), **changes)
        found[f"callstream, {name}"] = partial(detector, silero=silero, parameters=parameters)
    return found


def speed(detect: Detector, audio: list[Int16Array], rate_hz: int) -> float:
    """Seconds of audio per second of CPU."""
    fastest_s = np.inf
    for _ in range(REPEATS):
        began_s = time.process_time()
        for samples in audio:
            detect(samples, rate_hz)
        fastest_s = min(fastest_s, time.process_time() - began_s)
    return sum(map(len, audio)) / rate_hz / fastest_s


def with_silence(samples: Int16Array, seed: int) -> Int16Array:
    """The samples with four times as much line noise (white, -72 dBFS) behind them."""
    return np.concatenate((samples, line_noise(4 * len(samples), 8, seed)))


def line_noise(size: int, deviation: float, seed: int) -> Int16Array:
    """White noise of so many steps of 16 bits."""
    return np.round(np.random.default_rng(seed).normal(0, deviation, size)).astype(np.int16)


def mixes(rich: list[Int16Array]) -> dict[str, list[Int16Array]]:
    """What speed is measured on: the recordings, and as a fifth of a call."""
    return {
        "speech-rich": rich,
        "20 % of it, 80 % line noise at -72 dBFS": [with_silence(samples, seed) for seed, samples in enumerate(rich)],
        "80 % line noise at -60 dBFS": [
            np.concatenate((samples, line_noise(4 * len(samples), 32, seed))) for seed, samples in enumerate(rich)
        ],
        "80 % digital zero": [np.concatenate((samples, np.zeros(4 * len(samples), np.int16))) for samples in rich],
    }


def speed_table(silero: SileroVad, session: InferenceSession, audio: list[Labelled]) -> list[str]:
    """Real-time factors, and how many times as fast as the packaged silero each is."""
    parts, rate_hz = mixes([recording.samples for recording in audio]), audio[0].rate_hz
    wanted: dict[str, Detector] = {
        PACKAGED: partial(packaged_silero, session=session),
        "silero, by fives": partial(silero_alone, silero=silero),
        "webrtcvad mode 2": webrtc_alone,
        OURS: partial(detector, silero=silero),
    }
    measured = {name: [speed(detect, part, rate_hz) for part in parts.values()] for name, detect in wanted.items()}
    rows = [f"| detector (× real time) | {' | '.join(parts)} |", f"|---|{'---|' * len(parts)}"]
    for name, factors in measured.items():
        cells = [f"{x:,.0f} ({x / peer:.1f} times)" for x, peer in zip(factors, measured[PACKAGED], strict=True)]
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def report(manifest: Path, model: Path) -> None:
    """Print all tables."""
    print(describe())
    silero, session = SileroVad(model), packaged_session(model)
    for band in Band:
        audio = [carried(one, band) for one in read_labelled(manifest)]
        share = np.concatenate([recording.speech for recording in audio]).mean()
        print(f"\n### {audio[0].rate_hz} Hz, {band} ({100 * share:.0f} % speech)\n")
        print("\n".join(speed_table(silero, session, audio)), flush=True)
        corpora = list(dict.fromkeys(recording.corpus for recording in audio))
        print("\nMiss / false alarm in percent of 10 ms frames\n")
        print(f"| detector | {' | '.join(corpora)} | all | windows to silero |\n|---|{'---|' * (len(corpora) + 2)}")
        for name, detect in detectors(silero).items():
            print(accuracy_row(name, detect, audio), flush=True)


def main() -> None:
    """Run the benchmark, if its data are there."""
    manifest = listed("vad_segments.csv")
    if manifest is not None:
        report(manifest, fetch(default_cache_dir(), ["silero"])["silero"][0])


if __name__ == "__main__":
    main()
