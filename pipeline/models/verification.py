"""Does a converted model still give what the original gives? Compared on a synthetic voice, so that no recording is shipped.

`reference.json` was made once, from conversions that equalled the original frameworks' outputs on real speech.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.models.errors import ModelError
from pipeline.models.features import SAMPLE_RATE_HZ
from pipeline.models.manifest import Model, Role
from pipeline.models.models import open_language, open_speaker, open_voice
from pipeline.models.session import open_session

FloatArray = npt.NDArray[np.float32]

_SIGNAL_S = 3
_FORMANTS_HZ = ((700.0, 90.0), (1220.0, 110.0), (2600.0, 160.0))  # centre and width, of an open vowel
# Float models agree to rounding on any CPU. Roundings to eight bits turn over with the last bit of a sum, so posteriors get
# more room: a wrong graph is off by far more.
_RELATIVE_TOLERANCE = 1e-3
_POSTERIOR_TOLERANCE = 0.25  # total variation distance


class Reference(msgspec.Struct, frozen=True):
    """The original's output on `reference_signal`, and the checksum of the packaged file that gave it."""

    sha256: str
    output: list[float]


# Made here, once: msgspec 0.22 crashes when two threads are the first to read a type.
_REFERENCES = msgspec.json.Decoder(dict[str, Reference])


@functools.cache
def references() -> dict[str, Reference]:
    """The stored outputs by model name."""
    data = resources.files("pipeline.models").joinpath("reference.json").read_bytes()
    return _REFERENCES.decode(data)


@functools.cache
def reference_signal() -> FloatArray:
    """3 s of a voice-like sound, float32 (48000,) in [-1, 1]: a gliding pitch through formants, in syllables, with some noise.

    Whole 16-bit numbers, so that it is the same on every machine.
    """
    time_s = np.arange(_SIGNAL_S * SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    pitch_hz = 120.0 + 25.0 * np.sin(2 * np.pi * 0.7 * time_s)
    phase = 2 * np.pi * np.cumsum(pitch_hz) / SAMPLE_RATE_HZ
    voice = np.zeros_like(time_s)
    for harmonic in range(1, 40):
        hz = harmonic * pitch_hz
        gain = sum(1.0 / (1.0 + ((hz - centre) / width) ** 2) for centre, width in _FORMANTS_HZ)
        voice += gain * np.sin(harmonic * phase)
    syllables = np.clip(0.3 + np.sin(2 * np.pi * 3.0 * time_s), 0.0, 1.0)
    noise = _noise(time_s.size)
    pcm = np.round(2000.0 * syllables * voice + 60.0 * noise)
    return (np.clip(pcm, -32768, 32767) / 32768).astype(np.float32)


def _noise(count: int) -> npt.NDArray[np.float64]:
    """Uniform in [-1, 1] from a hash of the index (Knuth's multiplicative hash, twice), the same everywhere."""
    x = np.arange(1, count + 1, dtype=np.uint64)
    for _ in range(2):
        x = (x * np.uint64(2_654_435_761)) & np.uint64(0xFFFFFFFF)
        x ^= x >> np.uint64(15)
    return x.astype(np.float64) / 2.0**31 - 1.0


def check_conversion(model: Model, paths: Sequence[Path]) -> None:
    """Run a model on the reference signal and compare. Raises ModelError when it is not what it was converted from.

    Of a model without stored output (the user's own) the shape and finite values are checked.
    """
    output = model_output(model, paths)
    if not np.isfinite(output).all():
        raise ModelError(f"model {model.name!r} gives values that are no numbers: do not use it")
    if model.role is not Role.VAD and output.shape != (model.dimension,):
        raise ModelError(f"model {model.name!r} gives {output.size} values, not {model.dimension}; correct the manifest")
    reference = references().get(model.name)
    if reference is None or reference.sha256 != model.files[0].sha256:
        return
    if (distance := _distance(model, output, np.array(reference.output, np.float32))) > 1.0:
        raise ModelError(
            f"model {model.name!r} is {distance:.1f} times the tolerance from what it was made from: fetch it again"
        )


def model_output(model: Model, paths: Sequence[Path]) -> FloatArray:
    """What a model says of the reference signal, float32 (n,)."""
    signal = reference_signal()
    if model.role is Role.SPEAKER:
        return open_speaker(model, paths).embed(signal)
    if model.role is Role.VOICE:
        return open_voice(model, paths).embed(signal)
    if model.role is Role.LANGUAGE:
        return np.exp(open_language(model, paths).log_posteriors(signal))
    return _speech_probabilities(model, paths[0], signal)


def _distance(model: Model, output: FloatArray, reference: FloatArray) -> float:
    """How far apart they are, as a multiple of what is tolerated."""
    if output.shape != reference.shape:
        return float("inf")
    gap = np.abs(output - reference)
    if model.role is Role.LANGUAGE:
        return float(gap.sum() / 2) / _POSTERIOR_TOLERANCE
    return float(gap.max() / np.abs(reference).max()) / _RELATIVE_TOLERANCE


def _speech_probabilities(model: Model, path: Path, signal: FloatArray) -> FloatArray:
    """Silero VAD's probability for each window of 512 samples, each behind the 64 samples before it."""
    file = model.files[0]
    session = open_session(path)
    samples_name, state_name, rate_name = file.inputs
    state = np.zeros((2, 1, 128), np.float32)
    rate_hz = np.array(SAMPLE_RATE_HZ, np.int64)
    padded = np.concatenate([np.zeros(64, np.float32), signal])
    probabilities = []
    for start in range(0, signal.size - 511, 512):
        window = padded[start : start + 576][np.newaxis]
        outputs = session.run(file.outputs, {samples_name: window, state_name: state, rate_name: rate_hz})
        probability, state = (np.asarray(output, np.float32) for output in outputs)
        probabilities.append(probability.item())
    return np.array(probabilities, np.float32)
