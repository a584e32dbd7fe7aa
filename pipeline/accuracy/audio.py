"""Recordings as they are evaluated: read at 16 kHz, under noise, and what carries them."""

from __future__ import annotations

import enum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from pipeline.media.errors import MediaError
from pipeline.media.whole import WholeFile

Float32 = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
NARROW_RATE_HZ = 8000
_PART_FRAMES = 1 << 16


class Band(enum.StrEnum):
    """What carried the speech."""

    WIDE = "wide"
    TELEPHONE = "telephone"  # 8 kHz, G.711 µ-law


class RecordingError(Exception):
    """A recording of the manifest cannot be read; the message names it."""


def read(path: Path) -> Float32:
    """A recording, its channels mixed: float32 (n,) at 16 kHz, full scale 1 (what is of float itself may go beyond).

    Raises RecordingError.
    """
    try:
        samples, rate_hz = _decoded(path)
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from None
    except MediaError as error:
        raise RecordingError(f"{path}: {error.reason}") from None
    except soundfile.SoundFileError as error:
        raise RecordingError(f"{path}: no audio that can be read ({_reason(error)})") from None
    if not len(samples):
        raise RecordingError(f"{path}: holds no audio")
    if not np.isfinite(samples).all():
        raise RecordingError(f"{path}: holds samples that are no numbers")
    return resample(samples, rate_hz, SAMPLE_RATE_HZ)


def _decoded(path: Path) -> tuple[Float32, int]:
    with path.open("rb") as file, WholeFile(file.fileno()) as recording:  # libsndfile calls whatever the system says one error
        parts = [part.mean(axis=1) for part in recording.parts(_PART_FRAMES, "float32")]
        return np.concatenate([np.zeros(0, np.float32), *parts]), recording.samplerate


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).rstrip(".")


def resample(samples: Float32, rate_hz: int, target_hz: int) -> Float32:
    """Float32 (n,) at another rate."""
    result: Float32 = samples if rate_hz == target_hz else soxr.resample(samples, rate_hz, target_hz).astype(np.float32)
    return result


def under_noise(samples: Float32, noise: Float32, snr_db: float) -> Float32:
    """Speech (n,) with noise (m,) added, repeated as long as needed, at a ratio of the mean powers of both, pauses included.

    Where the sum would go beyond full scale, all of it is made quieter. Digital silence on either side changes nothing.
    """
    extended = np.resize(noise, samples.size)
    power, noise_power = (float(np.mean(np.square(part, dtype=np.float64))) for part in (samples, extended))
    if noise_power == 0 or power == 0:
        return samples
    gain = np.sqrt(power / noise_power / 10 ** (snr_db / 10))
    mixed: Float32 = (samples + np.float32(gain) * extended).astype(np.float32)
    peak = float(np.abs(mixed).max())
    return mixed if peak <= 1 else mixed / np.float32(peak)


def pink_noise(size: int, generator: np.random.Generator) -> Float32:
    """Noise (size,) of equal power in each octave, its peak 1, where no recordings of noise are given."""
    spectrum = np.fft.rfft(generator.normal(size=size))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0
    noise = np.fft.irfft(spectrum, size)
    scaled: Float32 = (noise / max(float(np.abs(noise).max()), 1e-12)).astype(np.float32)
    return scaled
