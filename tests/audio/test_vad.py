"""The detector as its callers see it, on real speech mixed with what calls have besides."""

import itertools
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
import webrtcvad
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.accuracy.audio import Band
from pipeline.accuracy.manifest import read_labelled
from pipeline.accuracy.vad_detectors import carried, detector, silero_alone
from pipeline.audio.vad import SpeechSpan, VadSnapshot, VoiceActivityDetector
from pipeline.audio.vad_spans import VadParameters
from pipeline.models.silero import SileroVad

Int16Array = npt.NDArray[np.int16]
Speech = dict[int, Int16Array]

RATES_HZ = [8000, 16000]
SHARED_SPEECH = Path(__file__).resolve().parents[3] / "shared" / "speech"
# restarts often enough to happen in short audio
SHORT_GRID = VadParameters(restart_blocks=7)

pieces = st.one_of(
    st.tuples(st.just("speech"), st.floats(0, 70), st.floats(0.05, 5)),
    st.tuples(st.just("noise"), st.floats(0, 4), st.floats(0.05, 2)),
    st.tuples(st.just("zero"), st.just(0.0), st.floats(0.05, 1.5)),
)
mixes = st.lists(pieces, min_size=1, max_size=5)


def piece(kind: str, value: float, length: int, rate_hz: int, speech: Speech) -> Int16Array:
    """Speech from second `value` on, noise of 10^value, or digital zero."""
    if kind == "speech":
        start = int(value * rate_hz)
        return speech[rate_hz][start : start + length]
    if kind == "noise":
        noise = np.random.default_rng(length).normal(0, 10**value, length)
        return np.clip(noise, -32768, 32767).astype(np.int16)
    return np.zeros(length, np.int16)


def mixed(plan: list[tuple[str, float, float]], rate_hz: int, speech: Speech) -> Int16Array:
    return np.concatenate([piece(kind, value, int(s * rate_hz), rate_hz, speech) for kind, value, s in plan])


def detect(audio: Int16Array, rate_hz: int, silero: SileroVad, parameters: VadParameters = SHORT_GRID) -> list[SpeechSpan]:
    one = VoiceActivityDetector(rate_hz, silero, parameters)
    return one.feed(audio) + one.finish()


def assert_sound(spans: list[SpeechSpan], samples: int, rate_hz: int) -> None:
    """On the grid of 10 ms, in order, disjoint, at most 15 s long, within the audio."""
    end = 0
    for span in spans:
        assert end <= span.start_sample < span.end_sample <= samples
        assert span.end_sample - span.start_sample <= 15 * rate_hz
        assert span.start_sample % (rate_hz // 100) == span.end_sample % (rate_hz // 100) == 0
        end = span.end_sample


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@given(mixes, st.lists(st.integers(1, 40_000), max_size=30), st.integers(1, 3000))
@settings(max_examples=25, deadline=None)
def test_cuts_change_nothing(
    silero: SileroVad, speech: Speech, rate_hz: int, plan: list[tuple[str, float, float]], cuts: list[int], last: int
) -> None:
    audio = mixed(plan, rate_hz, speech)
    detector, spans = VoiceActivityDetector(rate_hz, silero, SHORT_GRID), []
    position = 0
    for size in [*cuts, *[last] * (len(audio) // last + 1)]:
        keep_from = detector.keep_from_sample
        found = detector.feed(audio[position : position + size])
        position += size
        assert all(span.start_sample >= keep_from for span in found)
        spans += found
    keep_from = detector.keep_from_sample
    found = detector.finish()
    assert all(span.start_sample >= keep_from for span in found)
    assert detector.position_sample == detector.keep_from_sample == len(audio)
    assert spans + found == detect(audio, rate_hz, silero)
    assert_sound(spans + found, len(audio), rate_hz)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@given(mixes, st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_restored_goes_on_as_if_nothing_had_been(
    silero: SileroVad, speech: Speech, rate_hz: int, plan: list[tuple[str, float, float]], share: float
) -> None:
    audio = np.concatenate((mixed(plan, rate_hz, speech), speech[rate_hz][: 2 * rate_hz]))
    first = VoiceActivityDetector(rate_hz, silero, SHORT_GRID)
    first.feed(audio[: int(len(audio) * share)])
    snapshot = first.snapshot()
    if snapshot is None:  # not 7 blocks yet
        assert int(len(audio) * share) < 8 * 0.16 * rate_hz
        return
    first.feed(audio[::-1].copy())  # the snapshot must not change with its detector
    snapshot = msgspec.msgpack.decode(msgspec.msgpack.encode(snapshot), type=VadSnapshot)
    before = VoiceActivityDetector(rate_hz, silero, SHORT_GRID).feed(audio[: snapshot.position_sample])
    second = VoiceActivityDetector.restore(snapshot, silero, SHORT_GRID)
    assert second.position_sample == snapshot.position_sample
    assert second.keep_from_sample == snapshot.keep_from_sample
    after = second.feed(audio[snapshot.position_sample :]) + second.finish()
    assert all(span.start_sample >= snapshot.keep_from_sample for span in after)
    assert before + after == detect(audio, rate_hz, silero)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_every_snapshot_restores_all_of_the_state(silero: SileroVad, speech: Speech, rate_hz: int) -> None:
    # faint noise keeps the gate from closing on digital zero; the next snapshot shows silero's state to the last bit
    noise = np.random.default_rng(3).normal(0, 3, 30 * rate_hz).astype(np.int16)
    audio, step = speech[rate_hz][: len(noise)] // 2 + noise, rate_hz * 16 // 100
    parameters = VadParameters(restart_blocks=3)
    detector, snapshots, spans = VoiceActivityDetector(rate_hz, silero, parameters), [], []
    for start in range(0, len(audio), step):
        spans.append(detector.feed(audio[start : start + step]))
        snapshots.append(detector.snapshot())
    for block in range(3, len(snapshots) - 4, 3):
        snapshot = snapshots[block]
        assert snapshot is not None
        assert snapshot.position_sample == block * step
        restored = VoiceActivityDetector.restore(snapshot, silero, parameters)
        assert restored.feed(audio[block * step : (block + 4) * step]) == [
            one for part in spans[block : block + 4] for one in part
        ]
        assert restored.snapshot() == snapshots[block + 3]


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_snapshots_come_every_16_s_and_are_small(silero: SileroVad, speech: Speech, rate_hz: int) -> None:
    detector = VoiceActivityDetector(rate_hz, silero)
    assert detector.snapshot() is None
    detector.feed(speech[rate_hz][: 50 * rate_hz])
    snapshot = detector.snapshot()
    assert snapshot is not None
    assert snapshot.position_sample == 48 * rate_hz
    assert len(msgspec.msgpack.encode(snapshot)) < 10_000


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_finds_the_speech_of_a_call(silero: SileroVad, speech: Speech, rate_hz: int) -> None:
    # between its stretches of speech the bundled call is nearly silent, so its level tells the truth
    audio = speech[rate_hz][: len(speech[rate_hz]) // rate_hz * rate_hz]
    level = np.sqrt((audio.reshape(-1, rate_hz // 10).astype(np.float64) ** 2).mean(axis=1))
    found = np.zeros(len(audio), np.bool_)
    for span in detect(audio, rate_hz, silero, VadParameters()):
        found[span.start_sample : span.end_sample] = True
    share = found.reshape(-1, rate_hz // 10).mean(axis=1)
    assert share[level > 500].mean() > 0.97
    assert share[level < 1].mean() < 0.03


@pytest.mark.parametrize("band", list(Band))
def test_finds_more_of_what_people_marked_than_silero_alone(silero: SileroVad, band: Band) -> None:
    if not (SHARED_SPEECH / "vad_segments.csv").is_file():
        pytest.skip("no labelled speech in ../shared/speech")
    errors: dict[str, list[npt.NDArray[np.int64]]] = {"ours": [], "silero": []}
    frames: list[tuple[int, int]] = []
    for recording in read_labelled(SHARED_SPEECH / "vad_segments.csv"):
        audio = carried(recording, band)
        frames.append((int(audio.speech.sum()), int((~audio.speech).sum())))
        for name, said in (
            ("ours", detector(audio.samples, audio.rate_hz, silero=silero)),
            ("silero", silero_alone(audio.samples, audio.rate_hz, silero=silero)),
        ):
            errors[name].append(np.array([(audio.speech & ~said.speech).sum(), (~audio.speech & said.speech).sum()]))
    ours, alone = (np.sum(errors[name], axis=0) / np.sum(frames, axis=0) for name in ("ours", "silero"))
    assert (ours < alone).all()
    assert ours.sum() < 0.95 * alone.sum()


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_span_comes_within_half_a_second(silero: SileroVad, speech: Speech, rate_hz: int) -> None:
    detector, step, seen = VoiceActivityDetector(rate_hz, silero), rate_hz // 50, 0
    for start in range(0, len(speech[rate_hz]), step):
        for span in detector.feed(speech[rate_hz][start : start + step]):
            assert start + step - span.end_sample <= 0.52 * rate_hz  # 20 ms of it are the step
            seen += 1
    assert seen >= 5


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@given(mixes)
@settings(max_examples=25, deadline=None)
def test_no_span_comes_later(silero: SileroVad, speech: Speech, rate_hz: int, plan: list[tuple[str, float, float]]) -> None:
    audio, step = mixed(plan, rate_hz, speech), rate_hz // 100
    detector = VoiceActivityDetector(rate_hz, silero, SHORT_GRID)
    for start in range(0, len(audio), step):
        for span in detector.feed(audio[start : start + step]):
            is_cut = span.end_sample - span.start_sample >= 9 * rate_hz
            assert is_cut or start + step - span.end_sample <= rate_hz // 2 or start < 0.8 * rate_hz


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_long_speech_is_split_into_touching_spans(silero: SileroVad, speech: Speech, rate_hz: int) -> None:
    longest = max(detect(speech[rate_hz], rate_hz, silero), key=lambda span: span.end_sample - span.start_sample)
    inner = speech[rate_hz][longest.start_sample + rate_hz // 10 : longest.end_sample - rate_hz // 10]
    audio = np.tile(inner, -(-60 * rate_hz // len(inner)))
    spans = detect(audio, rate_hz, silero)
    assert_sound(spans, len(audio), rate_hz)
    assert any(one.end_sample == other.start_sample for one, other in itertools.pairwise(spans))
    assert sum(span.end_sample - span.start_sample for span in spans) > 0.9 * len(audio)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_less_than_800_ms_is_no_speech(silero: SileroVad, speech: Speech, rate_hz: int) -> None:
    start = next(iter(detect(speech[rate_hz], rate_hz, silero))).start_sample
    size = rate_hz * 8 // 10
    assert detect(speech[rate_hz][start : start + size - 1], rate_hz, silero) == []
    assert len(detect(speech[rate_hz][start : start + size], rate_hz, silero)) == 1
    # speech that is over before the 800 ms are full waits for them
    detector = VoiceActivityDetector(rate_hz, silero)
    burst = np.concatenate((speech[rate_hz][start : start + size * 5 // 8], np.zeros(size, np.int16)))
    assert detector.feed(burst[: size - 1]) == []
    assert detector.keep_from_sample < size // 2
    assert len(detector.feed(burst[size - 1 :]) + detector.finish()) == 1


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("extra", [0, 1, 79, 81, 1279, 2559])
def test_a_span_ends_with_the_audio(silero: SileroVad, speech: Speech, rate_hz: int, extra: int) -> None:
    first = next(iter(detect(speech[rate_hz], rate_hz, silero)))
    size = first.start_sample + 2 * rate_hz + extra
    spans = detect(speech[rate_hz][:size], rate_hz, silero)
    assert_sound(spans, size, rate_hz)
    assert size - spans[-1].end_sample < rate_hz // 100


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("extra", [1, 10, 40])
def test_a_last_window_that_is_nearly_empty_takes_nothing_from_the_words_before_it(
    silero: SileroVad, speech: Speech, rate_hz: int, extra: int
) -> None:
    """Speech around second 29, cut off at the begin of a window."""
    window = rate_hz * 32 // 1000
    for number in range(29 * rate_hz // window, 29 * rate_hz // window + 10):
        samples = number * window + extra
        last = detect(speech[rate_hz][:samples], rate_hz, silero)[-1]
        assert samples - last.end_sample < rate_hz // 50


def hostile(kind: str, samples: int, speech: Int16Array) -> Int16Array:
    """Audio that no telephone should send."""
    random = np.random.default_rng(1)
    made: dict[str, npt.NDArray[np.float64]] = {
        "square": 32767 * np.sign(np.sin(np.arange(samples) / 20)),
        "noise": random.uniform(-32768, 32767, samples),
        "dc": np.full(samples, 32767.0),
        "negative-dc": np.full(samples, -32768.0),
        "zeros": np.zeros(samples),
        "clipped": speech[:samples].astype(np.float64) * 100,
        "impulses": np.where(np.arange(samples) % 1000 == 0, 32767.0, 0.0),
    }
    return np.clip(made[kind], -32768, 32767).astype(np.int16)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("kind", ["square", "noise", "dc", "negative-dc", "zeros", "clipped", "impulses"])
@pytest.mark.parametrize("duration_s", [0.0, 0.05, 1.0, 20.0])
def test_hostile_audio(silero: SileroVad, speech: Speech, rate_hz: int, kind: str, duration_s: float) -> None:
    audio = hostile(kind, int(duration_s * rate_hz), speech[rate_hz])
    spans = detect(audio, rate_hz, silero)
    assert_sound(spans, len(audio), rate_hz)
    if kind == "clipped" and duration_s == 20.0:
        assert spans
    elif kind == "square":  # a buzz that begins at full scale may be taken for the begin of a word
        assert sum(span.end_sample - span.start_sample for span in spans) < 0.5 * rate_hz
    elif kind != "clipped":
        assert spans == []


def test_silence_never_reaches_silero(silero: SileroVad) -> None:
    detector = VoiceActivityDetector(8000, silero)
    detector.feed(np.zeros(8000 * 60, np.int16))
    detector.feed(np.random.default_rng(2).normal(0, 9, 8000 * 600).astype(np.int16))  # -71 dBFS
    assert detector.windows_judged == 0
    detector.feed(np.random.default_rng(2).normal(0, 32, 8000 * 600).astype(np.int16))
    assert detector.windows_judged < 0.03 * 600 / 0.032  # webrtc hears something when it begins anew
    detector.feed(np.zeros(1, np.int16))
    assert detector.position_sample - detector.keep_from_sample < 8000


def passing(blocks: Int16Array, rate_hz: int) -> npt.NDArray[np.bool_]:
    """Which blocks have 3 of 8 frames that webrtc, asked until that is sure, takes for speech."""
    gate, found = webrtcvad.Vad(2), []  # type: ignore[no-untyped-call]
    for block in blocks:
        speech: list[bool] = []
        while sum(speech) < 3 and len(speech) - sum(speech) < 6:
            frame = block.reshape(8, -1)[len(speech)]
            speech.append(gate.is_speech(frame.tobytes(), rate_hz))  # type: ignore[no-untyped-call]
        found.append(sum(speech) == 3)
    return np.array(found)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_silero_judges_what_webrtc_passes_and_the_blocks_beside(silero: SileroVad, speech: Speech, rate_hz: int) -> None:
    noise = np.random.default_rng(4).normal(0, 12, 16 * rate_hz).astype(np.int16)
    audio = speech[rate_hz][: len(noise)] // 2 + noise
    passed = passing(audio.reshape(-1, rate_hz * 16 // 100), rate_hz)
    near = np.convolve(passed, [1, 1, 1], "same") > 0
    assert 0 < passed.sum() < near.sum() < len(near)
    never = VadParameters(onset=2.0)  # an open span would call for more
    detector = VoiceActivityDetector(rate_hz, silero, never)
    detector.feed(audio)
    assert detector.windows_judged == 5 * near.sum()


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_silero_judges_on_while_a_span_is_open(silero: SileroVad, speech: Speech, rate_hz: int) -> None:
    shut = VadParameters(gate_frames=8, offset=0.0)  # a span never ends, and webrtc passes next to nothing
    detector = VoiceActivityDetector(rate_hz, silero, shut)
    judged = []
    for start in range(0, 10 * rate_hz, rate_hz * 16 // 100):
        detector.feed(np.maximum(speech[rate_hz][start : start + rate_hz * 16 // 100], 11))
        judged.append(detector.windows_judged)
    first = judged.index(next(count for count in judged if count))
    assert np.diff(judged[first + 2 :]).min() == 5


def test_four_hours_of_silence_take_no_memory(silero: SileroVad) -> None:
    detector, minute = VoiceActivityDetector(8000, silero), np.zeros(60 * 8000, np.int16)
    detector.feed(minute)
    tracemalloc.start()
    for _ in range(4 * 60):
        assert detector.feed(minute) == []
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 100_000
    assert detector.windows_judged == 0
    assert detector.finish() == []


def test_misuse_is_refused(silero: SileroVad) -> None:
    with pytest.raises(ValueError, match="8000 or 16000 Hz, not 44100"):
        VoiceActivityDetector(44100, silero)
    detector = VoiceActivityDetector(8000, silero)
    with pytest.raises(ValueError, match="int16"):
        detector.feed(np.zeros(80, np.float32))
    with pytest.raises(ValueError, match="one-dimensional"):
        detector.feed(np.zeros((80, 2), np.int16))
    detector.finish()
    with pytest.raises(ValueError, match="finished"):
        detector.feed(np.zeros(80, np.int16))
    with pytest.raises(ValueError, match="finished"):
        detector.finish()
