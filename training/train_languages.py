"""Train how far language posteriors are to be believed: `python -m training.train_languages SPEECH_DIR CACHE_DIR`.

SPEECH_DIR holds `clips.csv` (path, corpus, speaker, gender, language, seconds, rate) and the 16 kHz clips that it lists.
Trained on: librispeech_mini (LibriSpeech, CC BY 4.0), speechocean762 (CC BY 4.0), dspspeech_zh (MIT) and arabic_commands
(CC BY 4.0): English, Chinese and Arabic. Each clip as it is and as telephone copy (8 kHz, G.711 µ-law), cut by voice activity
detection as a worker cuts it, at several lengths of speech. For each size of the model two numbers, of least cross entropy,
every corpus and language weighing the same. They go to `pipeline/scoring/weights/language.json`. CACHE_DIR holds the fetched
models.
"""

from __future__ import annotations

import argparse
import collections
import datetime
from pathlib import Path

import msgspec
import numpy as np

from pipeline.accuracy.audio import Band
from pipeline.accuracy.evaluation import Options
from pipeline.accuracy.language_fitting import Examples, fitted
from pipeline.accuracy.language_trials import Listener
from pipeline.accuracy.manifest import Clip, read_clips
from pipeline.scoring.language_calibration import UNCALIBRATED, LanguageCalibration, LanguageProvenance

CORPORA = ("librispeech_mini", "speechocean762", "dspspeech_zh", "arabic_commands")
CLIPS = {"tiny": 60, "base": 60, "small": 25}  # of each corpus and language
DURATIONS_S = (1.0, 3.0, 5.0)
SEED = 20_261_125
_WEIGHTS_PATH = Path(__file__).resolve().parent.parent / "pipeline" / "scoring" / "weights" / "language.json"


def training_clips(speech_dir: Path, limit: int) -> list[Clip]:
    """A draw of each training corpus and language."""
    parts: dict[tuple[str, str], list[Clip]] = collections.defaultdict(list)
    for clip in read_clips(speech_dir / "clips.csv", "language"):
        if clip.corpus in CORPORA:
            parts[clip.corpus, clip.language].append(clip)
    generator = np.random.default_rng(SEED)
    return [parts[name][place] for name in sorted(parts) for place in generator.permutation(len(parts[name]))[:limit]]


def train(size: str, speech_dir: Path, cache_dir: Path) -> LanguageCalibration:
    """The calibration of one size of the model."""
    clips = training_clips(speech_dir, CLIPS[size])
    listener = Listener(Options(cache_dir=str(cache_dir), language_size=size, progress=print), DURATIONS_S)
    examples = Examples([one for band in Band for one in listener.hear(clips, band)])

    found = fitted(examples)
    provenance = LanguageProvenance(
        script="training/train_languages.py",
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
        seed=SEED,
        data=dict(collections.Counter(clip.corpus for clip in clips)),
        examples=len(examples.truth),
        cross_entropy_bits=round(examples.cross_entropy_bits(found), 4),
        uncalibrated_bits=round(examples.cross_entropy_bits(UNCALIBRATED), 4),
    )
    return msgspec.structs.replace(found, provenance=provenance)


def main() -> None:
    """Train each size, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech_dir", type=Path)
    parser.add_argument("cache_dir", type=Path)
    options = parser.parse_args()
    found = {size: train(size, options.speech_dir, options.cache_dir) for size in CLIPS}
    _WEIGHTS_PATH.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    for size, one in found.items():
        print(f"{size}: {one.scale} * s ** {one.exponent}")


if __name__ == "__main__":
    main()
