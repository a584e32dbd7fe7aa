"""Segments and missing stretches as results say them, and how much of an utterance is used: all exact."""

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audio.segments import SegmentLog, used_samples
from pipeline.audio.vad import SpeechSpan
from schemas.media import AudioFormat, CallOptions
from schemas.results import MissingAudio, VadResult

FRAME_MS = 10
rates = st.sampled_from([8000, 16000])
# Pauses and lengths of speech in frames of 10 ms, one after the other; a pause of none is a cut of long speech.
stretches = st.lists(st.tuples(st.integers(0, 500), st.integers(16, 1500)), max_size=20)
starts_s = st.one_of(
    st.just(0.0), st.floats(0, 604_800, allow_nan=False), st.integers(0, 604_800_000).map(lambda ms: ms / 1000)
)


def spans_of(parts: list[tuple[int, int]], rate_hz: int) -> list[SpeechSpan]:
    spans, at = [], 0
    for pause, length in parts:
        begin, at = at + pause, at + pause + length
        spans.append(SpeechSpan(begin * FRAME_MS * rate_hz // 1000, at * FRAME_MS * rate_hz // 1000))
    return spans


def result(spans: list[SpeechSpan], rate_hz: int, options: CallOptions, missing: list[tuple[int, int]]) -> VadResult:
    log = SegmentLog(AudioFormat(sample_rate_hz=rate_hz), rate_hz, options=options)
    for span in spans:
        log.add(0, span)
    return log.result(missing)


def exact(seconds: float) -> Decimal:
    """What is printed."""
    return Decimal(repr(seconds))


lost = st.builds(lambda start, length: (start, start + length), st.integers(0, 10**9), st.integers(1, 10**9))


@given(stretches, rates, starts_s, st.lists(lost, max_size=3))
def test_times_of_a_file_are_those_of_the_call_and_its_begin(
    parts: list[tuple[int, int]], rate_hz: int, start_s: float, missing: list[tuple[int, int]]
) -> None:
    spans = spans_of(parts, rate_hz)
    (plain,) = result(spans, rate_hz, CallOptions(), missing).channels
    (shifted,) = result(spans, rate_hz, CallOptions(start_time=start_s), missing).channels
    begin = exact(round(start_s * 1000) / 1000)
    assert shifted.speech_length == plain.speech_length
    assert exact(shifted.speech_length) == sum(exact(one.end_time) - exact(one.start_time) for one in shifted.segments)
    pairs = [*zip(shifted.segments, plain.segments, strict=True)]
    assert all(exact(one.start_time) == exact(other.start_time) + begin for one, other in pairs)
    assert all(exact(one.end_time) == exact(other.end_time) + begin for one, other in pairs)
    if missing:
        assert [exact(one.start_time) - begin for one in shifted.missing] == [  # type: ignore[union-attr]
            exact(one.start_time)
            for one in plain.missing  # type: ignore[union-attr]
        ]


def test_a_stretch_that_is_shorter_than_a_millisecond_is_told_as_one() -> None:
    (channel,) = result([], 48_000, CallOptions(), [(0, 2), (9600, 9632), (9640, 9672), (9740, 9742)]).channels
    assert channel.missing == [MissingAudio(0.0, 0.001), MissingAudio(0.1, 0.101), MissingAudio(0.101, 0.102)]


@given(st.lists(st.integers(1, 300), min_size=2, max_size=40), rates)
def test_no_lost_byte_goes_untold(lengths: list[int], rate_hz: int) -> None:
    """Each second stretch is lost: its place lies in what is told, give or take the half millisecond of rounding."""
    edges = [2 * sum(lengths[:count]) for count in range(len(lengths) + 1)]
    missing = [*zip(edges[:-1:2], edges[1::2], strict=False)]
    (channel,) = result([], rate_hz, CallOptions(), missing).channels
    assert isinstance(channel.missing, list)
    edges_s = [0.0, *(edge for one in channel.missing for edge in (one.start_time, one.end_time))]
    assert edges_s == sorted(edges_s)
    assert edges_s[-1] <= math.ceil(edges[-1] / (2 * rate_hz) * 1000) / 1000
    assert all(one.start_time < one.end_time for one in channel.missing)
    for start, end in missing:
        middle_s = (start + end) / 2 / (2 * rate_hz)
        assert any(one.start_time - 0.001 <= middle_s <= one.end_time + 0.001 for one in channel.missing)


def test_channels_are_named_as_the_options_say() -> None:
    log = SegmentLog(AudioFormat(channels=2), 8000, options=CallOptions(channel_numbers=[5, 1]))
    log.add(1, SpeechSpan(80, 1600))
    channels = log.result([]).channels
    assert [(one.channel_number, one.speech_length) for one in channels] == [(5, 0.0), (1, 0.19)]


@given(stretches, rates, st.one_of(st.floats(0, 300, exclude_min=True), st.integers(1, 300_000).map(lambda ms: ms / 1000)))
def test_at_most_the_limit_is_used_to_the_millisecond(parts: list[tuple[int, int]], rate_hz: int, limit_s: float) -> None:
    log = SegmentLog(AudioFormat(sample_rate_hz=rate_hz), rate_hz)
    used = []
    for span in spans_of(parts, rate_hz):
        used.append(used_samples(span, log.speech_ms(0), rate_hz, limit_s))
        log.add(0, span)
    limit_ms = int(exact(limit_s) * 1000)
    assert sum(used) * 1000 == min(limit_ms, log.speech_ms(0)) * rate_hz
    assert Fraction(sum(used), rate_hz) <= Fraction(limit_s) or limit_ms == Fraction(repr(limit_s)) * 1000
    lengths = [span.end_sample - span.start_sample for span in spans_of(parts, rate_hz)]
    cut = [index for index, (one, length) in enumerate(zip(used, lengths, strict=True)) if one < length]
    assert all(used[index] == 0 for index in cut[1:])  # one is cut, those behind it are not used


@pytest.mark.parametrize("before_ms", [0, 900, 10**6])
def test_without_a_limit_everything_is_used(before_ms: int) -> None:
    assert used_samples(SpeechSpan(80, 1600), before_ms, 8000, None) == 1520


@pytest.mark.parametrize(("limit_s", "before_ms", "used"), [(1.0, 0, 1520), (0.19, 0, 1520), (0.1, 0, 800), (0.29, 280, 80)])
def test_the_limit_counts_what_was_before(limit_s: float, before_ms: int, used: int) -> None:
    assert used_samples(SpeechSpan(80, 1600), before_ms, 8000, limit_s) == used
