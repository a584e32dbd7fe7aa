"""From voiceprints to calibrated log-likelihood ratios (natural log): 0 is undecided.

Both back-ends are logistic regressions at equal priors, so that their log-odds are log-likelihood ratios (Brümmer and du Preez
2006, "Application-independent evaluation of speaker detection"). `training/train_backends.py` makes their weights.
"""

from __future__ import annotations

import functools
from importlib import resources

import msgspec
import numpy as np
import numpy.typing as npt

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


class Provenance(msgspec.Struct, frozen=True):
    """What a back-end's weights were made from."""

    script: str
    date: str
    seed: int
    data: dict[str, int]  # clips of each corpus
    counts: dict[str, int]  # training examples or trials of each class
    regularisation: float


class LinearBackend(msgspec.Struct, frozen=True):
    """LLR = weights · x + bias."""

    weights: list[float]
    bias: float
    provenance: Provenance


# Made here, once: msgspec 0.22 crashes when two threads are the first to read a type.
_DECODER = msgspec.json.Decoder(LinearBackend)


@functools.cache
def load_backend(name: str) -> LinearBackend:
    """The weights of `gender` or `comparison` as shipped in the package."""
    data = resources.files("pipeline.scoring").joinpath("weights", f"{name}.json").read_bytes()
    return _DECODER.decode(data)


def gender_llr(voiceprint_matrix: Float32) -> Float64:
    """Male against female: float32 (n, 448), unit CAM++ and unit GE2E embedding side by side -> float64 (n,); zeros give 0.

    Positive is male. Raises ValueError for another width.
    """
    backend = load_backend("gender")
    matrix = _checked(voiceprint_matrix, len(backend.weights)).astype(np.float64)
    # einsum sums every row in the same order whatever their number, which BLAS does not
    scores = np.einsum("ij,j->i", matrix, np.array(backend.weights)) + backend.bias
    return np.where(matrix.any(axis=1), scores, 0.0)


def comparison_llr(a: Float32, b: Float32) -> Float32:
    """Same speaker against another: a float32 (m, 192), b float32 (n, 192), of unit length or zero -> float32 (n, m).

    Rows are b, columns are a; zero vectors give 0. Raises ValueError for another width.
    """
    backend = load_backend("comparison")
    width = 192
    columns, rows = _checked(a, width), _checked(b, width)
    llr: Float32 = rows @ columns.T
    llr *= np.float32(backend.weights[0])
    llr += np.float32(backend.bias)
    llr[~rows.any(axis=1)] = 0.0
    llr[:, ~columns.any(axis=1)] = 0.0
    return llr


def _checked(matrix: Float32, width: int) -> Float32:
    if matrix.ndim != 2 or matrix.shape[1] != width:
        raise ValueError(f"voiceprints of shape {matrix.shape} where (n, {width}) is needed")
    return matrix
