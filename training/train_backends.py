"""Train the gender and the comparison back-end: `python -m training.train_backends SPEECH_DIR CACHE_DIR [--embeddings FILE]`.

SPEECH_DIR holds `clips.csv` (path, corpus, speaker, gender, language, seconds, rate) and the 16 kHz clips that it lists.
Trained on: librispeech_mini (LibriSpeech, CC BY 4.0), speechocean762 (CC BY 4.0), dspspeech_zh (MIT) and arabic_commands
(CC BY 4.0); gender on the first two, which are labelled. Measured on: msc_ml, asterisk_multi, picovoice_multi, watson_multi and
fsdd. Of each clip a stretch of 2 to 8 s, once as it is and once as telephone copy (8 kHz, G.711 µ-law). The weights go to
`pipeline/scoring/weights/`, the measurements to standard output. CACHE_DIR holds the fetched models.

With the same clips, models, seed and versions of the locked packages, the weights are the same.
"""

from __future__ import annotations

import argparse
import collections
import datetime
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.models.models import ModelSet
from pipeline.scoring.calibration import LinearBackend, Provenance
from training.backend_data import GENDER_TRAIN, HELD_OUT, TRAIN, Embeddings, FloatArray, load_or_embed
from training.logistic import Bools, Float64, balanced_weights, cllr, fit, measure

SEED = 20_261_121
SPEAKER_DIMENSION = 192
_RIDGES = [float(f"{digit}e{exponent}") for exponent in range(-5, -1) for digit in (1, 3)]
_WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "pipeline" / "scoring" / "weights"
_BANDS = (("wide", "wide"), ("telephone", "telephone"), ("wide", "telephone"))


class Trials:
    """Comparisons of pairs of clips within each corpus: cosine, whether it is one speaker, and the corpus's number."""

    def __init__(self, data: Embeddings, corpora: tuple[str, ...], bands: tuple[tuple[str, str], ...]) -> None:
        cosines, targets, groups = [], [], []
        for number, corpus in enumerate(corpora):
            part = data.corpus(corpus)
            for band_a, band_b in bands:
                cosine, target = _pairs(part, band_a, band_b)
                cosines.append(cosine)
                targets.append(target)
                groups.append(np.full(len(target), number))
        self.cosine: Float64 = np.concatenate(cosines)
        self.target: Bools = np.concatenate(targets)
        self.group: npt.NDArray[np.int64] = np.concatenate(groups)


def _pairs(data: Embeddings, band_a: str, band_b: str) -> tuple[Float64, Bools]:
    """Every pair of different clips once."""
    speakers = np.array([clip.speaker for clip in data.clips])
    a, b = (getattr(data, band)[:, :SPEAKER_DIMENSION].astype(np.float64) for band in (band_a, band_b))
    upper = np.triu_indices(len(speakers), k=1)
    return (a @ b.T)[upper], speakers[upper[0]] == speakers[upper[1]]


class GenderSet:
    """Labelled clips in both bands: (2n, 448), whether male, and the number of the speaker."""

    def __init__(self, data: Embeddings, bands: tuple[str, ...] = ("wide", "telephone")) -> None:
        labelled = data.of(clip.gender != "" for clip in data.clips)
        _, speaker = np.unique([f"{clip.corpus}/{clip.speaker}" for clip in labelled.clips], return_inverse=True)
        vectors: list[FloatArray] = [getattr(labelled, band) for band in bands]
        self.x: Float64 = np.concatenate(vectors).astype(np.float64)
        self.male: Bools = np.tile([clip.gender == "m" for clip in labelled.clips], len(bands))
        self.speaker: npt.NDArray[np.int64] = np.tile(speaker, len(bands))

    def fit(self, ridge: float) -> tuple[Float64, float]:
        """Weights and bias, every speaker counting the same."""
        return fit(self.x, self.male, balanced_weights(self.male, self.speaker), ridge)

    def llr(self, weights: Float64, bias: float) -> Float64:
        """Log-likelihood ratios (2n,)."""
        scores: Float64 = self.x @ weights + bias
        return scores


def choose_ridge(data: Embeddings) -> float:
    """The strength of regularisation with the least Cllr when trained on one corpus and tried on the other."""
    sets = [GenderSet(data.corpus(name)) for name in GENDER_TRAIN]
    pairs = [(sets[0], sets[1]), (sets[1], sets[0])]
    costs = {}
    for ridge in _RIDGES:
        costs[ridge] = float(np.mean([cllr(test.llr(*train.fit(ridge)), test.male) for train, test in pairs]))
        print(f"gender: ridge {ridge:8.1e}, Cllr on the other corpus {costs[ridge]:.4f}")
    return min(_RIDGES, key=lambda ridge: costs[ridge])


def train_gender(data: Embeddings) -> LinearBackend:
    """The gender back-end."""
    ridge = choose_ridge(data)
    train = GenderSet(data.of(clip.corpus in GENDER_TRAIN for clip in data.clips))
    weights, bias = train.fit(ridge)
    counts = {"male": int(train.male.sum()), "female": int((~train.male).sum())}
    return LinearBackend(_rounded(weights), round(bias, 6), _provenance(data, GENDER_TRAIN, counts, ridge))


def train_comparison(data: Embeddings) -> LinearBackend:
    """The comparison back-end; every corpus counts the same."""
    trials = Trials(data, TRAIN, _BANDS)
    weights, bias = fit(trials.cosine[:, np.newaxis], trials.target, balanced_weights(trials.target, trials.group), 1e-9)
    counts = {"target": int(trials.target.sum()), "nontarget": int((~trials.target).sum())}
    return LinearBackend(_rounded(weights), round(bias, 6), _provenance(data, TRAIN, counts, 1e-9))


def _rounded(weights: Float64) -> list[float]:
    return [round(value, 6) for value in weights.tolist()]


def _provenance(data: Embeddings, corpora: tuple[str, ...], counts: dict[str, int], ridge: float) -> Provenance:
    clips = collections.Counter(clip.corpus for clip in data.clips if clip.corpus in corpora)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Provenance("training/train_backends.py", today, SEED, dict(clips), counts, ridge)


def report_gender(data: Embeddings, backend: LinearBackend) -> None:
    """Accuracy on labelled held-out corpora, and over those with both genders Cllr."""
    weights = np.array(backend.weights)
    for corpus in HELD_OUT:
        for band in ("wide", "telephone"):
            test = GenderSet(data.corpus(corpus), (band,)) if any(c.gender and c.corpus == corpus for c in data.clips) else None
            if test is None:
                continue
            llr = test.llr(weights, backend.bias)
            right = float(((llr > 0) == test.male).mean())
            cost = f", Cllr {cllr(llr, test.male):.3f}" if 0 < test.male.mean() < 1 else ""
            print(f"gender {corpus:16} {band:9} {len(llr):4} clips, {100 * right:5.1f} % right{cost}")


def report_comparison(data: Embeddings, backend: LinearBackend) -> None:
    """Cllr, minimum Cllr and EER on held-out corpora."""
    for corpus in HELD_OUT:
        for bands in _BANDS:
            trials = Trials(data, (corpus,), (bands,))
            cost, least, eer = measure(backend.weights[0] * trials.cosine + backend.bias, trials.target)
            counts = f"{int(trials.target.sum()):5} + {int((~trials.target).sum()):6} trials"
            print(
                f"comparison {corpus:16} {'/'.join(bands):20} {counts}, Cllr {cost:.3f}, min {least:.3f}, EER {100 * eer:.2f} %"
            )


def main() -> None:
    """Train, measure, and write the weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("speech_dir", type=Path)
    parser.add_argument("cache_dir", type=Path)
    parser.add_argument(
        "--embeddings", type=Path, default=Path("embeddings.npz"), help="kept here and used again (%(default)s)"
    )
    options = parser.parse_args()
    data = load_or_embed(options.embeddings, options.speech_dir, ModelSet.load(options.cache_dir), SEED)
    gender, comparison = train_gender(data), train_comparison(data)
    for name, backend in (("gender", gender), ("comparison", comparison)):
        (_WEIGHTS_DIR / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(backend), indent=1) + b"\n")
    print(f"comparison: LLR = {comparison.weights[0]:.3f} cos {comparison.bias:+.3f}")
    report_gender(data, gender)
    report_comparison(data, comparison)


if __name__ == "__main__":
    main()
