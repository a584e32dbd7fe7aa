"""The rules that turn probabilities into spans."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio.vad_readout import LAG_FRAMES
from pipeline.audio.vad_spans import MAX_SPAN_FRAMES, Frames, SpanBuilder, VadParameters

PARAMETERS = VadParameters()
LOUD, QUIET = 0.9, 0.1
BEFORE = [QUIET] * LAG_FRAMES  # the frames that lie before the audio

# runs of equal probability reach states that single values never would
runs = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.49, 0.51, 0.54, 0.56, 0.7, 1.0]), st.integers(1, 900)), max_size=12)
chunks = st.lists(st.integers(1, 40), min_size=1, max_size=50)


def build(probabilities: list[float], last_frame: int | None = None) -> list[Frames]:
    builder = SpanBuilder(PARAMETERS)
    return builder.push([*BEFORE, *probabilities]) + builder.close(last_frame)


def test_a_span_is_as_long_as_its_speech() -> None:
    assert build([QUIET] * 30 + [LOUD] * 40 + [QUIET] * 40) == [Frames(30, 70)]


def test_speech_before_the_audio_begins_with_it() -> None:
    builder = SpanBuilder(PARAMETERS)
    assert builder.push([LOUD] * LAG_FRAMES) == []
    assert not builder.is_open
    assert builder.push([LOUD] * 40 + [QUIET] * 40) == [Frames(0, 40)]


def test_a_burst_is_dropped() -> None:
    assert build([QUIET] * 10 + [LOUD] * (PARAMETERS.burst_frames - 1) + [QUIET] * 50) == []
    assert len(build([QUIET] * 10 + [LOUD] * PARAMETERS.burst_frames + [QUIET] * 50)) == 1


def test_a_short_gap_is_bridged_and_a_long_one_is_not() -> None:
    bridged = [LOUD] * 30 + [QUIET] * (PARAMETERS.gap_frames - 1) + [LOUD] * 30
    parted = [LOUD] * 30 + [QUIET] * PARAMETERS.gap_frames + [LOUD] * 30
    assert len(build(bridged)) == 1
    assert len(build(parted)) == 2


def test_a_span_is_given_as_soon_as_its_gap_is_over() -> None:
    builder = SpanBuilder(PARAMETERS)
    assert builder.push([*BEFORE, *[LOUD] * 30, *[QUIET] * (PARAMETERS.gap_frames - 1)]) == []
    assert builder.push([QUIET]) == [Frames(0, 30)]


def test_hysteresis() -> None:
    between = (PARAMETERS.onset + PARAMETERS.offset) / 2
    assert build([between] * 100) == []
    assert build([LOUD] + [between] * 99) == [Frames(0, 100)]


def test_a_span_ends_with_the_audio() -> None:
    assert build([LOUD] * 50, 45) == [Frames(0, 45)]
    assert build([QUIET] * 50 + [LOUD] * 10, 50) == []


def test_long_speech_is_cut_where_it_is_least_like_speech() -> None:
    probabilities = [LOUD] * 3000
    probabilities[1275:1286] = [0.55] * 11  # within the last 5 s of the first 15 s
    first, second, third = build(probabilities)
    assert first == Frames(0, 1280)
    assert second.start == first.end
    assert third.start == second.end
    assert third.end == 3000


def test_what_remains_of_a_cut_is_no_burst() -> None:
    # the cut is 1 s before the limit at the latest, and silence follows at once
    spans = build([LOUD] * 1406 + [0.55] * 20 + [LOUD] * 75 + [QUIET] * 50)
    assert len(spans) == 2
    assert spans[0].end <= 1401
    assert spans[0].end == spans[1].start
    assert spans[1].end == 1501


def test_skipping_is_pushing_silence() -> None:
    skipping, pushing = SpanBuilder(PARAMETERS), SpanBuilder(PARAMETERS)
    skipping.skip(160)
    assert pushing.push([0.0] * 160) == []
    assert skipping.state == pushing.state
    skipping.push([LOUD] * 20)
    with pytest.raises(ValueError, match="between spans"):
        skipping.skip(1)


@given(runs, st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_spans_are_ordered_disjoint_and_short(blocks: list[tuple[float, int]], missing_frames: int) -> None:
    probabilities = BEFORE + [probability for probability, count in blocks for _ in range(count)]
    last_frame = max(0, len(probabilities) - LAG_FRAMES - missing_frames)
    builder, end = SpanBuilder(PARAMETERS), 0
    for probability in [*probabilities, None]:
        keep_from = builder.keep_from_frame
        for span in builder.close(last_frame) if probability is None else builder.push([probability]):
            assert keep_from <= span.start
            assert end <= span.start < span.end <= span.start + MAX_SPAN_FRAMES
            end = span.end
            assert end <= last_frame


@given(runs, chunks)
@settings(max_examples=100, deadline=None)
def test_chunks_change_nothing(blocks: list[tuple[float, int]], sizes: list[int]) -> None:
    probabilities = BEFORE + [probability for probability, count in blocks for _ in range(count)]
    builder, spans, position = SpanBuilder(PARAMETERS), [], 0
    for number in range(len(probabilities)):
        size = sizes[number % len(sizes)]
        spans += builder.push(probabilities[position : position + size])
        position += size
    assert spans + builder.close() == build(probabilities[LAG_FRAMES:])


@given(runs, st.integers(0, 6000))
@settings(max_examples=100, deadline=None)
def test_a_builder_goes_on_from_a_copied_state(blocks: list[tuple[float, int]], cut: int) -> None:
    probabilities = BEFORE + [probability for probability, count in blocks for _ in range(count)]
    first = SpanBuilder(PARAMETERS)
    spans = first.push(probabilities[:cut])
    second = SpanBuilder(PARAMETERS, first.copy_state())
    first.push([1.0] * 1000)
    assert len(second.state.recent) <= 500
    spans += second.push(probabilities[cut:])
    assert spans + second.close() == build(probabilities[LAG_FRAMES:])


def test_an_open_span_pauses_after_30_ms_without_speech() -> None:
    builder = SpanBuilder(PARAMETERS)
    builder.push([*BEFORE, *[LOUD] * 30, *[QUIET] * 2])
    assert builder.pausing() is None
    builder.push([QUIET])
    assert builder.pausing() == Frames(0, 30)
    builder.push([LOUD])
    assert builder.pausing() is None
    builder.push([QUIET] * PARAMETERS.gap_frames)
    assert builder.pausing() is None  # it is over


def test_what_may_be_a_burst_does_not_pause_and_what_remains_of_a_cut_does() -> None:
    builder = SpanBuilder(PARAMETERS)
    builder.push([*BEFORE, *[LOUD] * (PARAMETERS.burst_frames - 1), *[QUIET] * 5])
    assert builder.pausing() is None
    state = builder.copy_state()
    state.cut = True
    assert SpanBuilder(PARAMETERS, state).pausing() == Frames(0, PARAMETERS.burst_frames - 1)


@given(runs, chunks)
@settings(max_examples=200, deadline=None)
def test_what_pauses_is_what_comes_if_no_more_is_said(blocks: list[tuple[float, int]], sizes: list[int]) -> None:
    probabilities = BEFORE + [probability for probability, count in blocks for _ in range(count)]
    builder, position = SpanBuilder(PARAMETERS), 0
    for number in range(len(probabilities)):
        builder.push(probabilities[position : position + sizes[number % len(sizes)]])
        position += sizes[number % len(sizes)]
        state = builder.copy_state()
        paused = builder.pausing()
        assert builder.copy_state() == state
        if paused is not None:
            assert SpanBuilder(PARAMETERS, state).push([0.0] * PARAMETERS.gap_frames)[:1] == [paused]
