"""The probabilities of frames that are read from silero's LSTM."""

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio import vad_readout
from pipeline.audio.vad_readout import (
    BLOCK_FRAMES,
    BLOCK_WINDOWS,
    LAG_FRAMES,
    OFFSETS_MS,
    PAST_WINDOWS,
    Readout,
    ReadoutFile,
    interpolation,
)
from pipeline.models.silero import HIDDEN, SileroVad
from training.train_vad import design
from training.vad_data import speech_frames

RATES_HZ = [8000, 16000]


def hidden(blocks: int, seed: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(-1, 1, (blocks, BLOCK_WINDOWS, HIDDEN)).astype(np.float32)


@pytest.mark.parametrize("offset_ms", OFFSETS_MS)
def test_frames_are_between_the_windows_beside_them(offset_ms: int) -> None:
    mix = interpolation(offset_ms)
    np.testing.assert_allclose(mix.sum(axis=1), 1)  # no window of the next block is wanted, nor one further back
    window_middles_ms = (np.arange(PAST_WINDOWS + BLOCK_WINDOWS) - PAST_WINDOWS + 0.5) * 32
    frame_middles_ms = (np.arange(BLOCK_FRAMES) - LAG_FRAMES + 0.5) * 10
    np.testing.assert_allclose(mix @ window_middles_ms, frame_middles_ms + offset_ms)
    assert ((mix > 0).sum(axis=1) <= 2).all()


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@given(st.integers(1, 8), st.integers(0, 8), st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_it_goes_on_from_its_state(rate_hz: int, blocks: int, cut: int, seed: int) -> None:
    heard, whole, parts = hidden(blocks, seed), [], []
    one = Readout(rate_hz)
    for number, block in enumerate(heard):
        whole.append(one.read(block))
        if number == cut:
            saved = one.state.copy()
    first = Readout(rate_hz)
    for number, block in enumerate(heard):
        if number == cut + 1:
            first = Readout(rate_hz, saved)
        parts.append(first.read(block))
    assert parts == whole


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_it_reads_what_was_trained(rate_hz: int) -> None:
    heard = hidden(6, 3)
    found = msgspec.json.decode(Path(vad_readout.__file__).with_suffix(".json").read_bytes(), type=ReadoutFile).rates[rate_hz]
    trained = design(heard.reshape(-1, HIDDEN)) @ np.array(found.weights).ravel() + found.bias
    readout = Readout(rate_hz)
    frames = [probability for block in heard for probability in readout.read(block)] + readout.last()
    inner = slice(LAG_FRAMES, 6 * BLOCK_FRAMES)  # before it stands silence in a call, in training the first window
    np.testing.assert_allclose(frames[LAG_FRAMES:][inner], 1 / (1 + np.exp(-trained))[inner], atol=1e-5)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_silence_is_improbable_and_forgets(rate_hz: int) -> None:
    readout = Readout(rate_hz)
    assert readout.is_silent
    assert max(readout.skip()) < 0.1
    readout.read(hidden(1, 1)[0])
    assert not readout.is_silent
    after = [readout.skip(), readout.skip()]
    assert readout.is_silent
    assert after[1] == Readout(rate_hz).skip()


def test_the_last_frames_take_the_end_for_going_on() -> None:
    readout, steady = Readout(16000), np.tile(hidden(1, 2)[0, :1], (BLOCK_WINDOWS, 1))
    readout.read(steady)
    expected = readout.read(steady)
    np.testing.assert_allclose(readout.last(), expected, atol=1e-6)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_it_tells_speech_from_silence(silero: SileroVad, speech: dict[int, npt.NDArray[np.int16]], rate_hz: int) -> None:
    state, readout, found = silero.initial_state(rate_hz), Readout(rate_hz), []
    blocks = speech[rate_hz][: 20 * rate_hz // (rate_hz * 16 // 100) * (rate_hz * 16 // 100)].reshape(
        -1, 5, rate_hz * 32 // 1000
    )
    for block in blocks:
        heard = silero.listen(block.astype(np.float32) / np.float32(32768), state)
        state = heard.state
        found += readout.read(heard.hidden)
    power = (blocks.astype(np.float64) ** 2).reshape(-1, rate_hz // 100).mean(axis=1)
    frames = np.array(found[LAG_FRAMES:])
    loud, quiet = power[:-LAG_FRAMES] > 1e6, np.convolve(power, np.ones(31), "same")[:-LAG_FRAMES] < 31
    assert loud.sum() > 100
    assert quiet.sum() > 100
    assert np.median(frames[loud]) > 0.95
    assert np.median(frames[quiet]) < 0.05


def test_the_record_names_what_the_weights_are_from() -> None:
    file = msgspec.json.decode(Path(vad_readout.__file__).with_suffix(".json").read_bytes(), type=ReadoutFile)
    assert set(file.rates) == set(RATES_HZ)
    for weights in file.rates.values():
        assert np.shape(weights.weights) == (len(OFFSETS_MS), HIDDEN)
        assert len(weights.silence) == len(OFFSETS_MS)
    assert set(file.training.clips) == {"librispeech_mini", "speechocean762", "dspspeech_zh", "arabic_commands"}


def test_the_labels_of_clean_speech_are_its_loud_stretches() -> None:
    random = np.random.default_rng(1)
    level = np.full(300, 1e-4)
    level[50:120] = level[125:160] = 0.1  # a gap of 50 ms is a consonant's
    level[200:202] = 0.1  # a click
    level[240:290] = 0.1
    samples = (np.repeat(level, 160) * random.normal(size=300 * 160)).astype(np.float32)
    frames = speech_frames(samples)
    assert frames is not None
    expected = np.zeros(300, np.bool_)
    expected[49:161] = expected[239:291] = True  # the level is smoothed over three frames
    assert (frames[:190] == expected[:190]).all()
    assert (frames[210:] == expected[210:]).all()
    assert speech_frames(random.normal(size=16000).astype(np.float32)) is None
