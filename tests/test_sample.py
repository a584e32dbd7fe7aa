"""The bundled sample call: what it is, what it holds, whom it names; and the invariants of its construction."""

import numpy as np
import numpy.typing as npt
import pytest
import soundfile as sf
import webrtcvad
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sample import attribution_path, sample_path
from tools import build_sample

FRAME = 240  # 30 ms at 8 kHz, a length that webrtcvad takes


@pytest.fixture(scope="module")
def call() -> npt.NDArray[np.int16]:
    samples, _ = sf.read(sample_path(), dtype="int16")
    return np.asarray(samples, np.int16)


def speech(channel: npt.NDArray[np.int16]) -> npt.NDArray[np.bool_]:
    vad = webrtcvad.Vad(2)  # type: ignore[no-untyped-call]
    frames = channel[: len(channel) // FRAME * FRAME].reshape(-1, FRAME)
    return np.array([vad.is_speech(frame.astype("<i2").tobytes(), 8000) for frame in frames])  # type: ignore[no-untyped-call]


def test_it_is_a_two_channel_phone_call() -> None:
    info = sf.info(sample_path())
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", "PCM_16", 8000, 2)
    assert 70 <= info.duration <= 85
    assert sample_path().stat().st_size <= 900_000


def test_both_channels_speak_and_take_turns(call: npt.NDArray[np.int16]) -> None:
    english, italian = speech(call[:, 0]), speech(call[:, 1])
    assert 0.3 < english.mean() < 0.6
    assert 0.3 < italian.mean() < 0.6
    assert (english & italian).mean() < 0.1
    assert 0.02 < (~english & ~italian).mean() < 0.4


def test_levels_are_those_of_a_phone_call(call: npt.NDArray[np.int16]) -> None:
    for channel in call.T / 32768:
        power = build_sample.frame_power(channel)[build_sample.active_frames(channel)].mean()
        assert 10 * np.log10(power) == pytest.approx(build_sample.LEVEL_DBFS, abs=1.5)
        assert np.abs(channel).max() < 0.99


def test_every_source_is_attributed(call: npt.NDArray[np.int16]) -> None:
    text = attribution_path().read_text(encoding="utf-8")
    for source in build_sample.SOURCES:
        assert f"`{source.package}` {source.version}" in text
    for number, turn in enumerate(build_sample.TURNS, start=1):
        folder = build_sample.SOURCES[turn.channel].folder.rsplit("/", 1)[-1]
        assert f"| {number} | {turn.channel} | `{folder}/{turn.prompt}.wav` |" in text
    unwrapped = " ".join(text.split())
    assert "Creative Commons Attribution-ShareAlike 3.0 United States" in unwrapped
    assert "Creative Commons Attribution 3.0 Unported" in unwrapped
    assert build_sample.digest(call) in text, "the sample was rebuilt: tell its sha256 in ATTRIBUTION.md"


def test_the_order_of_the_speech_is_that_of_the_turns(call: npt.NDArray[np.int16]) -> None:
    """Frames in which one channel speaks, smoothed over a second, tell who has the turn."""
    active = np.stack([speech(call[:, c]) for c in (0, 1)], axis=1)
    speakers = [int(frame[1]) for frame in active if frame[0] != frame[1]]
    smoothed = [round(float(np.mean(speakers[i : i + 33]))) for i in range(0, len(speakers), 33)]
    changes = [s for s, before in zip(smoothed, [None, *smoothed], strict=False) if s != before]
    assert changes == [turn.channel for turn in build_sample.TURNS]


@given(st.lists(st.integers(8000, 80_000), min_size=12, max_size=12))
def test_turns_follow_one_another(lengths: list[int]) -> None:
    starts, total = build_sample.start_samples(lengths)
    assert starts == sorted(starts)
    assert total == starts[-1] + lengths[-1] + 8000
    for i, turn in enumerate(build_sample.TURNS[1:], start=1):
        pause_s = (starts[i] - starts[i - 1] - lengths[i - 1]) / 8000
        assert pause_s == pytest.approx(-0.4) if turn.overlaps else 0.3 <= pause_s <= 1.2


@given(st.integers(0, 4000), st.integers(0, 4000), st.floats(0.001, 0.9))
def test_trim_and_level_do_not_depend_on_silence_or_gain(before: int, after: int, gain: float) -> None:
    tone = np.sin(np.arange(1600) * 0.3)
    padded = np.concatenate([np.zeros(before), gain * tone, np.zeros(after)])
    trimmed = build_sample.trim(padded)
    assert abs(len(trimmed) - 1600) <= build_sample.FRAME
    level = build_sample.frame_power(build_sample.to_level(trimmed)).mean()
    assert 10 * np.log10(level) == pytest.approx(build_sample.LEVEL_DBFS, abs=0.5)


def test_silence_is_refused() -> None:
    with pytest.raises(build_sample.BuildError, match="silent"):
        build_sample.trim(np.zeros(1600))
