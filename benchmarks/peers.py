"""The pure computation against its peers and limits, each measured in the same run, on one thread.

    python -m benchmarks.peers

Ratios are of time: below 1 we are faster. The speaker model's peer is sherpa-onnx with the same CAM++ (`pip install
sherpa-onnx`; left out without it); of a comparison the limit is numpy's product of the same two matrices.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import kaldi_native_fbank as knf
import numpy as np
import onnx
import soxr
from scipy.signal import resample_poly

from benchmarks.chain import Core
from benchmarks.machine import describe
from benchmarks.starting import voiceprints
from pipeline.audio.g711 import decode_mulaw
from pipeline.audio.resampling import to_wide
from pipeline.models.features import KaldiFbank
from pipeline.models.manifest import Role, load_manifest
from pipeline.models.store import model_paths
from pipeline.scoring.calibration import built_in_comparison, side
from pipeline.scoring.llr_matrix import comparison_llr, matrix_llr, rows_of
from pipeline.scoring.voiceprint import decode
from pipeline.settings import Settings, load

ROUNDS = 5
AUDIO = "audio s per s"
SHERPA = {
    "framework": "3d-speaker",
    "language": "any",
    "sample_rate": "16000",
    "output_dim": "192",
    "normalize_samples": "0",
    "feature_normalize_type": "global-mean",
}


class Row(NamedTuple):
    """What was measured: our seconds and the peer's, for so many units."""

    what: str
    peer: str
    ours_s: float
    peer_s: float
    units: float
    unit: str

    def markdown(self) -> str:
        """A line of the table."""
        return f"| {self.what} | {self.units / self.ours_s:,.0f} {self.unit} | {self.peer} | {self.ours_s / self.peer_s:.2f} |"


def least_s(work: Callable[[], object]) -> float:
    """CPU seconds of this thread, the least of several rounds."""
    times = []
    for _ in range(ROUNDS):
        began_s = time.thread_time()
        work()
        times.append(time.thread_time() - began_s)
    return min(times)


def g711() -> Row:
    """µ-law, against the C code that it is made of (audioop, a package from Python 3.13 on)."""
    audio = np.random.default_rng(0).integers(0, 256, 8000 * 600).astype(np.uint8).tobytes()
    ours_s = least_s(lambda: decode_mulaw(audio))
    audioop: Any = importlib.import_module("audioop")
    return Row("G.711 µ-law", "audioop (C)", ours_s, least_s(lambda: audioop.ulaw2lin(audio, 2)), 600, AUDIO)


def resampling(core: Core) -> Sequence[Row]:
    """From 8 to 16 kHz, utterance by utterance: ours from 16-bit samples, peers from floats that are there, or from these."""
    scaled = [one.audio.astype(np.float32) / 32768.0 for one in core.heard]
    audio = [one.audio for one in core.heard]
    ours_s = least_s(lambda: [to_wide(one.audio, 8000) for one in core.heard])
    soxr_s = least_s(lambda: [soxr.resample(one, 8000, 16_000, quality="HQ") for one in scaled])
    whole_s = least_s(lambda: [soxr.resample(one.astype(np.float32) / 32768.0, 8000, 16_000, quality="HQ") for one in audio])
    scipy_s = least_s(lambda: [resample_poly(one, 2, 1) for one in scaled])
    peers = (("soxr alone", soxr_s), ("soxr, from 16-bit samples", whole_s), ("scipy's resample_poly", scipy_s))
    return [Row("8 to 16 kHz", peer, ours_s, peer_s, core.speech_s, AUDIO) for peer, peer_s in peers]


def fbank(core: Core) -> Iterator[Row]:
    """Filter banks, against kaldi-native-fbank alone, and called as its README does, from arrays."""
    options = knf.FbankOptions()
    options.frame_opts.dither, options.mel_opts.num_bins = 0.0, 80
    lists, ours = [one.tolist() for one in core.wide], KaldiFbank(80)

    def alone(samples: list[float]) -> list[Any]:
        computer = knf.OnlineFbank(options)
        computer.accept_waveform(16_000, samples)
        computer.input_finished()
        return [computer.get_frame(index) for index in range(computer.num_frames_ready)]

    ours_s = least_s(lambda: [ours(one) for one in core.wide])
    for peer, peer_s in (
        ("kaldi-native-fbank, lists to lists", least_s(lambda: [alone(one) for one in lists])),
        ("kaldi-native-fbank, array to array", least_s(lambda: [np.stack(alone(one.tolist())) for one in core.wide])),
    ):
        yield Row("fbank of 80", peer, ours_s, peer_s, core.speech_s, AUDIO)


def campplus(settings: Settings, core: Core) -> Row | None:
    """Speaker embeddings with the same graph by sherpa-onnx."""
    if importlib.util.find_spec("sherpa_onnx") is None:
        return None
    sherpa: Any = importlib.import_module("sherpa_onnx")
    model = load_manifest(settings.manifest_path).chosen(Role.SPEAKER)
    with tempfile.TemporaryDirectory() as folder:
        graph = onnx.load(str(model_paths(settings.cache_dir, model)[0]))
        for name, value in SHERPA.items():
            graph.metadata_props.add(key=name, value=value)
        onnx.save(graph, f"{folder}/campplus.onnx")
        extractor = sherpa.SpeakerEmbeddingExtractor(
            sherpa.SpeakerEmbeddingExtractorConfig(model=f"{folder}/campplus.onnx", num_threads=1)
        )

    def theirs(samples: Any) -> Any:  # noqa: ANN401 - no types there
        stream = extractor.create_stream()
        stream.accept_waveform(16_000, samples)
        stream.input_finished()
        return extractor.compute(stream)

    peer_s = least_s(lambda: [theirs(one) for one in core.wide])
    ours_s = least_s(lambda: [core.models.speaker.embed(one) for one in core.wide])
    return Row("CAM++ of an utterance", f"sherpa-onnx {sherpa.__version__}", ours_s, peer_s, core.speech_s, AUDIO)


def comparison(count_a: int, count_b: int) -> Iterator[Row]:
    """Scores, against numpy's product of the embeddings: the core alone, and from voiceprints, which are put into matrices."""
    a, b = ([decode(one) for one in voiceprints(count, seed)] for count, seed in ((count_a, 1), (count_b, 2)))
    matrix_a, matrix_b = (np.stack([one.embedding for one in part]) for part in (a, b))
    backend = built_in_comparison()
    rows, columns = rows_of(a), side(b, backend)
    peer_s = least_s(lambda: matrix_a @ matrix_b.T)
    scores, unit = count_a * count_b / 1e6, "million scores per s"
    for what, work in (
        ("core", lambda: matrix_llr(rows, columns, backend)),
        ("from lists of voiceprints", lambda: comparison_llr(a, b)),
    ):
        yield Row(f"comparison, {count_a:,} x {count_b:,}, {what}", "numpy's product", least_s(work), peer_s, scores, unit)


def main() -> None:
    """Print the table."""
    settings = load()
    core = Core(settings)
    print(describe() + "\n")
    print("| what | ours, a CPU second | peer or limit | time, ours to theirs |\n|---|---|---|---|")
    rows = [g711(), *resampling(core), *fbank(core), campplus(settings, core)]
    rows += [*comparison(1000, 1000), *comparison(50_000, 20)]
    for row in rows:
        print(row.markdown() if row else "| CAM++ of an utterance | | sherpa-onnx is not installed | |", flush=True)


if __name__ == "__main__":
    main()
