"""The rules that turn probabilities into spans."""

from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.audio.vad_spans import MAX_SPAN_FRAMES, Frames, SpanBuilder, VadParameters

PARAMETERS = VadParameters()
LOUD, QUIET = 0.9, 0.1

# runs of equal probability reach states that single values never would
runs = st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.34, 0.36, 0.49, 0.51, 0.7, 1.0]), st.integers(1, 300)), max_size=12)


def build(probabilities: list[float], last_frame: int | None = None) -> list[Frames]:
    builder = SpanBuilder(PARAMETERS)
    spans = [span for probability in probabilities for span in builder.push(probability)]
    return spans + builder.close(last_frame)


def test_a_span_is_padded_and_on_the_frame_grid() -> None:
    # windows 10 to 19 are 320 to 640 ms, and 20 ms are added at both ends
    assert build([QUIET] * 10 + [LOUD] * 10 + [QUIET] * 10) == [Frames(30, 66)]


def test_a_burst_is_dropped() -> None:
    assert build([QUIET] * 10 + [LOUD] * (PARAMETERS.burst_windows - 1) + [QUIET] * 20) == []
    assert len(build([QUIET] * 10 + [LOUD] * PARAMETERS.burst_windows + [QUIET] * 20)) == 1


def test_a_short_gap_is_bridged_and_a_long_one_is_not() -> None:
    bridged = [LOUD] * 10 + [QUIET] * (PARAMETERS.gap_windows - 1) + [LOUD] * 10
    parted = [LOUD] * 10 + [QUIET] * PARAMETERS.gap_windows + [LOUD] * 10
    assert len(build(bridged)) == 1
    assert len(build(parted)) == 2


def test_hysteresis() -> None:
    between = (PARAMETERS.onset + PARAMETERS.offset) / 2
    assert build([between] * 100) == []
    assert build([LOUD] + [between] * 99) == [Frames(0, 322)]


def test_long_speech_is_cut_where_it_is_least_like_speech() -> None:
    probabilities = [LOUD] * 1000
    probabilities[400] = 0.5  # 12.8 s, within the last 5 s of the first 15 s
    first, second, third = build(probabilities)
    assert first == Frames(0, (400 * 32 + 16) // 10)
    assert second.start == first.end
    assert third.start == second.end
    assert third.end == 3202


def test_what_remains_of_a_cut_is_no_burst() -> None:
    # the cut is 1 s before the limit at the latest, and silence follows at once
    probabilities = [LOUD] * 470 + [QUIET] * 20
    spans = build(probabilities)
    assert len(spans) == 2
    assert spans[0].end == spans[1].start
    assert spans[1].end == 1506


def test_skipping_is_pushing_zeros() -> None:
    skipping, pushing = SpanBuilder(PARAMETERS), SpanBuilder(PARAMETERS)
    for probability in [LOUD] * 10:
        assert skipping.push(probability) == pushing.push(probability) == []
    assert skipping.skip(20) == [span for _ in range(20) for span in pushing.push(0.0)] != []
    assert skipping.state == pushing.state


@given(runs, st.integers(0, 3))
@settings(max_examples=200, deadline=None)
def test_spans_are_ordered_disjoint_and_short(blocks: list[tuple[float, int]], missing_frames: int) -> None:
    probabilities = [probability for probability, count in blocks for _ in range(count)]
    last_frame = max(0, len(probabilities) * 32 // 10 - missing_frames)
    builder, end = SpanBuilder(PARAMETERS), 0
    for probability in [*probabilities, None]:
        keep_from = builder.keep_from_frame
        for span in builder.close(last_frame) if probability is None else builder.push(probability):
            assert keep_from <= span.start
            assert end <= span.start < span.end <= span.start + MAX_SPAN_FRAMES
            end = span.end
            assert end <= last_frame


@given(runs, st.integers(0, 3000))
@settings(max_examples=100, deadline=None)
def test_a_builder_goes_on_from_a_copied_state(blocks: list[tuple[float, int]], cut: int) -> None:
    probabilities = [probability for probability, count in blocks for _ in range(count)]
    first = SpanBuilder(PARAMETERS)
    spans = [span for probability in probabilities[:cut] for span in first.push(probability)]
    second = SpanBuilder(PARAMETERS, first.copy_state())
    first.skip(1000)
    spans += [span for probability in probabilities[cut:] for span in second.push(probability)]
    assert spans + second.close() == build(probabilities)
