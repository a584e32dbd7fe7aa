"""From samples to what the models are fed with: Kaldi's filter banks, and mel spectrograms as librosa and Whisper make them."""

from __future__ import annotations

import functools

import kaldi_native_fbank as knf
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
FFT_SAMPLES = 400  # 25 ms, a window's length too
HOP_SAMPLES = 160  # 10 ms


class KaldiFbank:
    """Log mel energies as Kaldi's compute-fbank-feats gives them, without dither (kaldi-native-fbank)."""

    def __init__(
        self,
        bins: int,
        window: str = "povey",
        frame_length_ms: float = 25.0,
        frame_shift_ms: float = 10.0,
        sample_rate_hz: int = 16_000,
    ) -> None:
        """Set up; nothing is kept between calls."""
        self._options = knf.FbankOptions()
        self._options.frame_opts.samp_freq = sample_rate_hz
        self._options.frame_opts.dither = 0.0
        self._options.frame_opts.window_type = window
        self._options.frame_opts.frame_length_ms = frame_length_ms
        self._options.frame_opts.frame_shift_ms = frame_shift_ms
        self._options.mel_opts.num_bins = bins
        self._sample_rate_hz = sample_rate_hz

    def __call__(self, samples: FloatArray) -> FloatArray:
        """float32 (n,) -> float32 (frames, bins); only whole frames, so none for less than a frame's length."""
        computer = knf.OnlineFbank(self._options)
        computer.accept_waveform(self._sample_rate_hz, samples.data)  # a list of floats would be made first
        computer.input_finished()
        energies = np.empty((computer.num_frames_ready, self._options.mel_opts.num_bins), np.float32)
        for index, row in enumerate(energies):
            row[:] = computer.get_frame(index)
        return energies


@functools.cache
def mel_filters(bins: int) -> FloatArray:
    """Triangular filters on Slaney's mel scale, of equal area: float32 (201, bins).

    As `librosa.filters.mel(sr=16000, n_fft=400)`, 0 to 8000 Hz.
    """
    fft_hz = np.fft.rfftfreq(FFT_SAMPLES, 1 / SAMPLE_RATE_HZ)
    edges_hz = _mel_to_hz(np.linspace(0.0, _hz_to_mel(SAMPLE_RATE_HZ / 2), bins + 2))
    widths = np.diff(edges_hz)
    ramps = edges_hz[:, np.newaxis] - fft_hz[np.newaxis]
    rising = -ramps[:-2] / widths[:-1, np.newaxis]
    falling = ramps[2:] / widths[1:, np.newaxis]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    areas = 2.0 / (edges_hz[2:] - edges_hz[:-2])
    filters: FloatArray = (triangles * areas[:, np.newaxis]).T.astype(np.float32)
    filters.setflags(write=False)
    return filters


def _hz_to_mel(hz: float) -> float:
    """Slaney's scale (Auditory Toolbox): linear up to 1000 Hz, then 27 steps for each factor of 6.4."""
    return hz * 3 / 200 if hz < 1000 else 15.0 + 27.0 * float(np.log(hz / 1000) / np.log(6.4))


def _mel_to_hz(mel: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = 1000.0 * np.exp(np.log(6.4) * (mel - 15.0) / 27.0)
    return np.where(mel < 15.0, mel * 200 / 3, above)


@functools.cache
def _hann() -> FloatArray:
    """The periodic Hann window, float32 (400,)."""
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FFT_SAMPLES) / FFT_SAMPLES)).astype(np.float32)
    window.setflags(write=False)
    return window


def mel_power(samples: FloatArray, bins: int, padding: str) -> FloatArray:
    """Mel power spectrogram with frames centred on every 10 ms: float32 (n,) -> float32 (n // 160 + 1, bins).

    `padding` is what lies beyond both ends: "constant" for zeros (librosa), "reflect" (torch.stft).
    """
    padded = np.pad(samples, FFT_SAMPLES // 2, mode=padding)  # type: ignore[call-overload]
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES]
    spectrum = np.fft.rfft(frames * _hann(), axis=1)
    power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32, copy=False)
    mel: FloatArray = power @ mel_filters(bins)
    return mel


def whisper_log_mel(samples: FloatArray, bins: int) -> FloatArray:
    """Whisper's features: float32 (n,), n a multiple of 160 -> float32 (bins, n // 160).

    As `log_mel_spectrogram` in whisper/audio.py: the last frame is dropped, 80 dB of range, shifted and scaled.
    """
    mel = mel_power(samples, bins, "reflect")[:-1]
    log = np.log10(np.maximum(mel, 1e-10))
    log = np.maximum(log, log.max() - 8.0)
    return np.ascontiguousarray(((log + 4.0) / 4.0).T, dtype=np.float32)
