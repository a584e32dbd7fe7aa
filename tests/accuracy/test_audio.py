"""Recordings as they are evaluated: what is read, mixed, and carried by a telephone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.accuracy.audio import (
    SAMPLE_RATE_HZ,
    Band,
    Float32,
    RecordingError,
    pink_noise,
    read,
    resample,
    under_noise,
)
from pipeline.accuracy.speech import as_call, first_seconds, length_s, utterances
from pipeline.models.registry import fetch
from pipeline.models.silero import SileroVad
from pipeline.sample import sample_path
from pipeline.settings import default_cache_dir


def tone(frequency_hz: float, seconds: float = 1.0, rate_hz: int = SAMPLE_RATE_HZ, peak: float = 0.25) -> Float32:
    times_s = np.arange(round(seconds * rate_hz)) / rate_hz
    wave: Float32 = (peak * np.sin(2 * np.pi * frequency_hz * times_s)).astype(np.float32)
    return wave


def power_db(samples: Float32) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


def test_a_recording_is_mixed_and_resampled(tmp_path: Path) -> None:
    path = tmp_path / "two.wav"
    soundfile.write(path, np.stack([tone(440, rate_hz=44_100), np.zeros(44_100, np.float32)], 1), 44_100)
    samples = read(path)
    assert samples.dtype == np.float32
    assert samples.shape == (SAMPLE_RATE_HZ,)
    assert np.abs(samples - tone(440, peak=0.125))[200:-200].max() < 1e-3


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    for name, content, reason in (
        ("text.wav", b"no audio", "no audio that can be read"),
        ("headerless.raw", b"1234", "no audio that can be read"),
        ("empty.wav", b"", "no audio that can be read"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RecordingError, match=f"{name}: {reason}"):
            read(tmp_path / name)
    with pytest.raises(RecordingError, match=r"none\.wav: No such file or directory$"):
        read(tmp_path / "none.wav")
    soundfile.write(tmp_path / "short.wav", np.zeros(0), 8000)
    with pytest.raises(RecordingError, match=r"short\.wav: holds no audio$"):
        read(tmp_path / "short.wav")
    soundfile.write(tmp_path / "nan.wav", np.array([0, np.nan, 0]), 8000, subtype="FLOAT")
    with pytest.raises(RecordingError, match=r"nan\.wav: holds samples that are no numbers$"):
        read(tmp_path / "nan.wav")


def test_a_recording_is_read_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "unfinished.wav"
    soundfile.write(path, tone(440, 5.0), SAMPLE_RATE_HZ, subtype="PCM_16")
    content = path.read_bytes()
    path.write_bytes(content[:40] + bytes(4) + content[44:])
    assert np.abs(read(path) - tone(440, 5.0)).max() < 1e-4
    path.write_bytes(content + content)
    with pytest.raises(RecordingError, match=r"unfinished\.wav: holds several recordings"):
        read(path)


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 5.0, 20.0])
def test_noise_has_the_wanted_ratio_of_powers(snr_db: float) -> None:
    speech, noise = tone(440, 3.0, peak=0.05), pink_noise(7000, np.random.default_rng(1))  # shorter than the speech
    mixed = under_noise(speech, noise, snr_db)
    added = mixed - speech
    assert power_db(speech) - power_db(added) == pytest.approx(snr_db, abs=0.01)
    assert np.allclose(added[:7000], added[7000:14_000], atol=1e-6)


def test_a_mixture_beyond_full_scale_is_made_quieter_at_the_same_ratio() -> None:
    speech, noise = tone(440, peak=0.9), tone(1000, peak=0.01)
    mixed = under_noise(speech, noise, 0.0)
    assert np.abs(mixed).max() == pytest.approx(1)
    spectrum = np.abs(np.fft.rfft(mixed))
    assert spectrum[440] == pytest.approx(spectrum[1000], rel=1e-3)
    assert np.delete(spectrum, [440, 1000]).max() < 0.01 * spectrum[440]  # it was not clipped


def test_silence_has_no_ratio() -> None:
    speech, nothing = tone(440), np.zeros(100, np.float32)
    assert np.array_equal(under_noise(speech, nothing, 5), speech)
    assert not under_noise(nothing, speech, 5).any()


def test_pink_noise_has_equal_power_in_each_octave() -> None:
    noise = pink_noise(1 << 18, np.random.default_rng(3))
    power = np.abs(np.fft.rfft(noise)) ** 2
    octaves = [10 * np.log10(power[1 << low : 2 << low].sum()) for low in range(8, 16)]
    assert np.ptp(octaves) < 1
    assert np.abs(noise).max() == pytest.approx(1)


def test_a_telephone_carries_nothing_above_4_khz() -> None:
    low, rate_hz = as_call(tone(1000), Band.TELEPHONE)
    assert low.dtype == np.int16
    assert (rate_hz, len(low)) == (8000, 8000)
    high, _ = as_call(tone(5000), Band.TELEPHONE)
    assert np.abs(low[500:-500]).max() > 7000
    assert np.abs(high[500:-500]).max() < 100


def test_a_telephone_has_the_levels_of_mu_law() -> None:
    sent, _ = as_call(np.random.default_rng(1).uniform(-1, 1, 160_000).astype(np.float32), Band.TELEPHONE)
    assert len(np.unique(sent)) <= 255


def test_a_wide_band_carries_all_and_clips_at_full_scale() -> None:
    sent, rate_hz = as_call(tone(5000), Band.WIDE)
    assert rate_hz == SAMPLE_RATE_HZ
    assert np.abs(sent / 32_768 - tone(5000)).max() < 1 / 32_768
    loud, _ = as_call(np.array([-2, -1, 0, 1, 2], np.float32), Band.WIDE)
    assert loud.tolist() == [-32_768, -32_768, 0, 32_767, 32_767]


def test_the_same_rate_changes_nothing() -> None:
    assert resample(tone(440), SAMPLE_RATE_HZ, SAMPLE_RATE_HZ) is not None
    assert np.array_equal(resample(tone(440), SAMPLE_RATE_HZ, SAMPLE_RATE_HZ), tone(440))


@pytest.mark.parametrize("band", list(Band))
def test_utterances_are_the_speech_at_16_khz(band: Band) -> None:
    silero = SileroVad(fetch(default_cache_dir(), ["silero"])["silero"][0])
    samples = read(sample_path())
    padded = np.concatenate([np.zeros(SAMPLE_RATE_HZ * 5, np.float32), samples])
    heard = utterances(padded, band, silero)
    assert 10 < length_s(heard) < len(samples) / SAMPLE_RATE_HZ
    assert all(part.dtype == np.float32 and np.abs(part).max() <= 1.5 for part in heard)
    assert utterances(np.zeros(SAMPLE_RATE_HZ * 2, np.float32), band, silero) == []


def test_the_first_seconds_end_within_an_utterance() -> None:
    heard = [np.full(SAMPLE_RATE_HZ, number, np.float32) for number in range(3)]
    assert [(part[0], len(part)) for part in first_seconds(heard, 1.5)] == [(0, SAMPLE_RATE_HZ), (1, SAMPLE_RATE_HZ // 2)]
    assert length_s(first_seconds(heard, 2)) == 2
    assert length_s(first_seconds(heard, 60)) == 3
    assert first_seconds(heard, 0) == []
