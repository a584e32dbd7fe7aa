"""Accuracy and cost of voice activity detection: webrtcvad alone, silero alone, and the detector that cascades them.

    python -m benchmarks.vad [SPEECH_DIR]

SPEECH_DIR (default ../shared/speech beside the repository) holds `vad/*.flac` and `vad_segments.csv` (path, start, end in s).
Miss and false alarm are shares of the 10 ms frames that are labelled speech and non-speech. Every recording is measured at
16 kHz and, as a telephone would carry it, at 8 kHz through G.711 µ-law. Tables are Markdown; real-time factors count CPU time.
"""

import csv
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import webrtcvad

from benchmarks.machine import describe
from pipeline.audio.g711 import decode_mulaw, encode_mulaw
from pipeline.audio.vad import VoiceActivityDetector
from pipeline.audio.vad_spans import VadParameters
from pipeline.models.registry import fetch
from pipeline.models.silero import WINDOW_SAMPLES, SileroVad
from pipeline.settings import default_cache_dir

Int16Array = npt.NDArray[np.int16]
Frames = npt.NDArray[np.bool_]

CORPORA = {"tenvad": "TEN", "pyannote": "pyannote", "sppas": "SPPAS"}
WEBRTC_FRAME_MS = 20
FEED_MS = 200


class Recording(msgspec.Struct):
    """A labelled recording at one rate; `speech` has one entry for each 10 ms."""

    corpus: str
    rate_hz: int
    samples: Int16Array
    speech: Frames


class Verdict(msgspec.Struct):
    """What a detector said, for each 10 ms, and how many 32 ms windows silero saw."""

    speech: Frames
    judged: int = 0


Detector = Callable[[Int16Array, int], Verdict]


def at_rate(samples: npt.NDArray[np.float64], rate_hz: int, target_hz: int) -> Int16Array:
    """Int16 at the target rate; 8 kHz goes through µ-law."""
    resampled = soxr.resample(samples, rate_hz, target_hz) if rate_hz != target_hz else samples
    whole = np.clip(np.round(resampled * 32768), -32768, 32767).astype(np.int16)
    return decode_mulaw(encode_mulaw(whole)) if target_hz == 8000 else whole


def recordings(folder: Path, target_hz: int) -> Iterator[Recording]:
    """All labelled recordings at a rate."""
    segments = defaultdict(list)
    with (folder / "vad_segments.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            segments[row["path"]].append((float(row["start"]), float(row["end"])))
    for path, spans in sorted(segments.items()):
        samples, rate_hz = soundfile.read(folder / path)
        audio = at_rate(np.asarray(samples, np.float64), rate_hz, target_hz)
        speech = np.zeros(len(audio) * 100 // target_hz, np.bool_)
        for start, end in spans:
            speech[round(start * 100) : round(end * 100)] = True
        yield Recording(CORPORA[Path(path).stem.split("_")[0]], target_hz, audio, speech)


def webrtc_alone(samples: Int16Array, rate_hz: int, *, mode: int) -> Verdict:
    """What webrtcvad says of every frame of 20 ms."""
    vad = webrtcvad.Vad(mode)  # type: ignore[no-untyped-call]
    size = rate_hz * WEBRTC_FRAME_MS // 1000
    frames = samples[: len(samples) // size * size].reshape(-1, size)
    speech = [vad.is_speech(frame.tobytes(), rate_hz) for frame in frames]  # type: ignore[no-untyped-call]
    return Verdict(np.repeat(np.array(speech, np.bool_), WEBRTC_FRAME_MS // 10))


def silero_alone(samples: Int16Array, rate_hz: int, *, silero: SileroVad, threshold: float) -> Verdict:
    """Every window whose probability reaches the threshold; five windows in a call, as the detector does."""
    size = WINDOW_SAMPLES[rate_hz]
    windows = samples[: len(samples) // size * size].reshape(-1, size).astype(np.float32) / np.float32(32768)
    state, parts = silero.initial_state(rate_hz), []
    for first in range(0, len(windows), 5):
        values, state = silero.probabilities(windows[first : first + 5], state)
        parts.append(values)
    probabilities = np.concatenate(parts)
    window_of_frame = (np.arange(len(samples) * 100 // rate_hz) * 10 + 5) // 32
    return Verdict(probabilities[np.minimum(window_of_frame, len(windows) - 1)] >= threshold, len(windows))


def cascade(samples: Int16Array, rate_hz: int, *, silero: SileroVad, parameters: VadParameters) -> Verdict:
    """The detector, fed with 200 ms at a time."""
    detector = VoiceActivityDetector(rate_hz, silero, parameters)
    step = rate_hz * FEED_MS // 1000
    spans = [span for start in range(0, len(samples), step) for span in detector.feed(samples[start : start + step])]
    speech = np.zeros(len(samples) * 100 // rate_hz, np.bool_)
    for span in spans + detector.finish():
        speech[span.start_sample * 100 // rate_hz : span.end_sample * 100 // rate_hz] = True
    return Verdict(speech, detector.windows_judged)


def counts(recording: Recording, verdict: Verdict) -> npt.NDArray[np.int64]:
    """Missed, speech, falsely alarmed, non-speech frames; judged, all windows."""
    said = np.zeros_like(recording.speech)
    size = min(len(said), len(verdict.speech))
    said[:size] = verdict.speech[:size]
    truth = recording.speech
    windows = len(recording.samples) // WINDOW_SAMPLES[recording.rate_hz]
    return np.array([(truth & ~said).sum(), truth.sum(), (~truth & said).sum(), (~truth).sum(), verdict.judged, windows])


def accuracy_row(name: str, detector: Detector, audio: list[Recording]) -> str:
    """One line of the table: miss / false alarm in percent by corpus, over all, and the share of windows that silero saw."""
    sums: dict[str, npt.NDArray[np.int64]] = defaultdict(lambda: np.zeros(6, np.int64))
    for recording in audio:
        found = counts(recording, detector(recording.samples, recording.rate_hz))
        sums[recording.corpus] += found
        sums["all"] += found
    cells = [f"{100 * c[0] / c[1]:.1f} / {100 * c[2] / c[3]:.1f}" for c in (sums[k] for k in (*CORPORA.values(), "all"))]
    return f"| {name} | {' | '.join(cells)} | {100 * sums['all'][4] / sums['all'][5]:.0f} % |"


def detectors(silero: SileroVad) -> dict[str, Detector]:
    """Everything that is compared."""
    found: dict[str, Detector] = {f"webrtcvad mode {mode}": partial(webrtc_alone, mode=mode) for mode in range(4)}
    for threshold in (0.2, 0.35, 0.5, 0.65, 0.8):
        found[f"silero at {threshold}"] = partial(silero_alone, silero=silero, threshold=threshold)
    default = VadParameters()
    found["**cascade**"] = partial(cascade, silero=silero, parameters=default)
    variants: dict[str, dict[str, int | float]] = {
        "no gate": {"gate_frames": 0},
        "gate in mode 1": {"webrtc_mode": 1},
        "gate in mode 3": {"webrtc_mode": 3},
        "gap 128 ms, no padding": {"gap_windows": 4, "padding_frames": 0},
        "gap 384 ms": {"gap_windows": 12},
        "onset 0.6": {"onset": 0.6},
        "restart every 1.6 s": {"restart_blocks": 10},
        "restart every 4.8 s": {"restart_blocks": 30},
        "no restart": {"restart_blocks": 1_000_000},
    }
    for name, changes in variants.items():
        found[f"cascade, {name}"] = partial(cascade, silero=silero, parameters=msgspec.structs.replace(default, **changes))
    return found


def speed(detector: Detector, audio: list[Int16Array], rate_hz: int) -> float:
    """Seconds of audio per second of CPU."""
    began_s = time.process_time()
    for samples in audio:
        detector(samples, rate_hz)
    return sum(map(len, audio)) / rate_hz / (time.process_time() - began_s)


def with_silence(samples: Int16Array, seed: int) -> Int16Array:
    """The samples with four times as much line noise (white, -72 dBFS) behind them."""
    noise = np.random.default_rng(seed).normal(0, 8, 4 * len(samples))
    return np.concatenate((samples, np.round(noise).astype(np.int16)))


def speed_table(silero: SileroVad, audio: list[Recording]) -> list[str]:
    """Real-time factors on speech-rich and on silence-rich audio."""
    rate_hz = audio[0].rate_hz
    rich = [recording.samples for recording in audio]
    quiet = [with_silence(samples, seed) for seed, samples in enumerate(rich)]
    rows = [
        "| detector | speech-rich (× real time) | 20 % of it, 80 % line noise | 20 % of it, 80 % digital zero |",
        "|---|---|---|---|",
    ]
    zero = [np.concatenate((samples, np.zeros(4 * len(samples), np.int16))) for samples in rich]
    wanted = {name: d for name, d in detectors(silero).items() if name in ("webrtcvad mode 2", "silero at 0.5", "**cascade**")}
    for name, detector in wanted.items():
        rows.append(
            f"| {name} | " + " | ".join(f"{speed(detector, part, rate_hz):,.0f}" for part in (rich, quiet, zero)) + " |"
        )
    return rows


def report(folder: Path, silero: SileroVad) -> None:
    """Print all tables."""
    print(describe())
    for rate_hz in (16000, 8000):
        audio = list(recordings(folder, rate_hz))
        share = np.concatenate([recording.speech for recording in audio]).mean()
        print(f"\n### {rate_hz} Hz{', µ-law' if rate_hz == 8000 else ''} ({100 * share:.0f} % speech)\n")
        print("Miss / false alarm in percent of 10 ms frames\n")
        print(f"| detector | {' | '.join(CORPORA.values())} | all | windows to silero |\n|---|---|---|---|---|---|")
        for name, detector in detectors(silero).items():
            print(accuracy_row(name, detector, audio), flush=True)
        print("\n" + "\n".join(speed_table(silero, audio)))


def main() -> int:
    """Run the benchmark, if its data are there."""
    default = Path(__file__).resolve().parents[2] / "shared" / "speech"
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default
    if not (folder / "vad_segments.csv").is_file():
        print(f"no labelled speech in {folder}: nothing measured")
        return 0
    report(folder, SileroVad(fetch(default_cache_dir(), ["silero"])["silero"][0]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
