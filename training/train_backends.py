"""Train the gender and the comparison back-end: `python -m training.train_backends SPEECH_DIR CACHE_DIR`.

SPEECH_DIR holds `clips.csv` (path, corpus, speaker, gender, language, seconds, rate) and the 16 kHz clips that it lists.
Trained on: librispeech_mini (LibriSpeech, CC BY 4.0), speechocean762 (CC BY 4.0), dspspeech_zh (MIT) and arabic_commands
(CC BY 4.0); gender on the first two, which are labelled. Each clip as it is and as telephone copy (8 kHz, G.711 µ-law), cut by
voice activity detection as a worker cuts it, at 1, 2, 3 and 5 s of speech, all of it, and 10 and 30 s of several clips. The
weights go to `pipeline/scoring/weights/`. CACHE_DIR holds the fetched models.

With the same clips, models and versions of the locked packages, the weights are the same. How good they are on recordings that
they have not seen is what `callstream evaluate` says.
"""

from __future__ import annotations

import argparse
import collections
import datetime
from pathlib import Path

import msgspec

from pipeline.accuracy.audio import Band
from pipeline.accuracy.evaluation import Options
from pipeline.accuracy.fitting import fit_comparison, fit_gender
from pipeline.accuracy.manifest import Clip, read_clips
from pipeline.accuracy.sessions import Condition, Extractor
from pipeline.scoring.calibration import Provenance

PER_SPEAKER = {"librispeech_mini": 9, "speechocean762": 3, "dspspeech_zh": 6, "arabic_commands": 4}
GENDER_CORPORA = ("librispeech_mini", "speechocean762")
SEED = 0
_WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "pipeline" / "scoring" / "weights"


def training_clips(speech_dir: Path) -> list[Clip]:
    """The first clips of each speaker of the training corpora."""
    taken: collections.Counter[tuple[str, str]] = collections.Counter()
    kept = []
    for clip in read_clips(speech_dir / "clips.csv", "speaker"):
        if taken[clip.corpus, clip.speaker] < PER_SPEAKER.get(clip.corpus, 0):
            taken[clip.corpus, clip.speaker] += 1
            kept.append(clip)
    return kept


def provenance(data: dict[str, int], counts: dict[str, int], ridge: float) -> Provenance:
    """What the weights were made from."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Provenance("training/train_backends.py", today, SEED, data, counts, ridge)


def main() -> None:
    """Train, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech_dir", type=Path)
    parser.add_argument("cache_dir", type=Path)
    options = parser.parse_args()
    clips = training_clips(options.speech_dir)
    extractor = Extractor(Options(cache_dir=str(options.cache_dir)))
    heard = {band: extractor.sessions(clips, Condition(band), print) for band in Band}
    labelled = {band: [one for one in sessions if one.corpus in GENDER_CORPORA] for band, sessions in heard.items()}
    for name, backend in (("comparison", fit_comparison(heard, provenance)), ("gender", fit_gender(labelled, provenance))):
        (_WEIGHTS_DIR / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(backend), indent=1) + b"\n")
        print(f"{name}: {backend.weights}, bias {backend.bias}")


if __name__ == "__main__":
    main()
