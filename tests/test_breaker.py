"""When too much is too much: the counting alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.breaker import Breaker

LIMIT, WINDOW = 5, 20
OUTCOMES = st.lists(st.none() | st.binary(max_size=2), max_size=80)  # None is a good record, else a key that is buried


def feed(breaker: Breaker, outcomes: list[bytes | None]) -> list[bytes]:
    """What a runner does: asks before each dead letter, ends at the first that is too many. The keys that were buried."""
    buried = []
    for key in outcomes:
        if key is None:
            breaker.good()
        elif breaker.would_trip(key):
            breaker.open()
            break
        else:
            breaker.buried(key, "header.missing")
            buried.append(key)
    return buried


def keys(count: int) -> list[bytes | None]:
    return [str(number).encode() for number in range(count)]


def streak_only(limit: int = LIMIT) -> Breaker:
    return Breaker(limit, 1.0, WINDOW)


def ratio_only(ratio: float) -> Breaker:
    return Breaker(0, ratio, WINDOW)


def test_the_limit_is_buried_and_the_next_is_not() -> None:
    breaker = streak_only()
    assert feed(breaker, keys(20)) == keys(LIMIT)
    assert breaker.is_open
    assert breaker.streak_count == LIMIT


def test_one_broken_producer_counts_once() -> None:
    breaker = streak_only()
    assert len(feed(breaker, [b"broken"] * 1000)) == 1000
    assert feed(breaker, keys(20)) == keys(LIMIT - 1)
    assert breaker.is_open


def test_a_call_that_is_counted_may_be_buried_at_the_limit() -> None:
    breaker = streak_only()
    feed(breaker, keys(LIMIT))
    assert not breaker.would_trip(b"0")
    assert breaker.would_trip(b"another")


def test_an_open_breaker_stays_open() -> None:
    breaker = streak_only()
    feed(breaker, keys(20))
    breaker.good()
    assert breaker.would_trip(b"0")


@pytest.mark.parametrize(("ratio", "allowed"), [(0.5, 10), (0.25, 5), (0.04, 0)])
def test_the_share_is_judged_once_the_window_is_full(ratio: float, allowed: int) -> None:
    breaker = ratio_only(ratio)
    assert len(feed(breaker, [b"one"] * (WINDOW - 1))) == WINDOW - 1
    assert breaker.would_trip(b"one")
    full = ratio_only(ratio)
    feed(full, [None] * WINDOW)
    assert len(feed(full, [b"one"] * WINDOW)) == allowed


def test_what_leaves_the_window_no_longer_counts() -> None:
    breaker = ratio_only(0.5)
    assert len(feed(breaker, ([b"bad"] * 10 + [None] * 10) * 20)) == 200
    assert breaker.buried_count == 10


def test_switched_off_it_never_trips() -> None:
    assert len(feed(Breaker(0, 1.0, WINDOW), keys(5000))) == 5000


def test_it_says_how_many_and_what_most_of_them_are() -> None:
    breaker = streak_only()
    breaker.good()
    for number, error_type in enumerate(["key.invalid", "header.missing", "header.missing"]):
        breaker.buried(b"%d" % number, error_type)
    counts, most = breaker.describe("header.missing").split("; ")
    assert counts == "3 of the last 4 records are in dead-letters (3 keys in a row)"
    assert most == "most frequent error-type: header.missing (3 with the next)"


@given(OUTCOMES, st.integers(1, 12))
def test_it_trips_exactly_when_more_keys_than_the_limit_would_be_buried_in_a_row(
    outcomes: list[bytes | None], limit: int
) -> None:
    breaker = streak_only(limit)
    buried = feed(breaker, outcomes)
    streak: set[bytes] = set()
    expected = []
    for key in outcomes:
        streak = set() if key is None else streak | {key}
        if len(streak) > limit:
            break
        expected += [] if key is None else [key]
    assert buried == expected
    assert breaker.is_open == (len(streak) > limit)


@given(st.lists(st.binary(max_size=2), max_size=200), st.integers(1, 12))
def test_a_good_record_within_the_limit_keeps_it_closed(bad: list[bytes], limit: int) -> None:
    breaker = streak_only(limit)
    for start in range(0, len(bad), limit):
        assert feed(breaker, [*bad[start : start + limit], None]) == bad[start : start + limit]
    assert not breaker.is_open


@given(OUTCOMES, st.floats(0.01, 1.0), st.integers(1, 15))
def test_the_share_of_a_full_window_never_exceeds_the_ratio(outcomes: list[bytes | None], ratio: float, window: int) -> None:
    breaker = Breaker(0, ratio, window)
    last: list[bool] = []
    for key in outcomes:
        share = sum([*last, True][-window:]) / window
        must_trip = len(last) + 1 >= window and share > ratio
        if key is not None:
            assert breaker.would_trip(key) == must_trip
            if must_trip:
                return
        feed(breaker, [key])
        last.append(key is not None)
