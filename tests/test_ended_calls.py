"""What is known of calls that have ended."""

from pipeline import ended_calls
from pipeline.ended_calls import KEPT_S, EndedCalls
from schemas.stream import CallEnded


def test_a_call_is_known_for_as_long_as_its_chunks_may_come_again() -> None:
    now_s = 1000.0
    calls = EndedCalls(clock=lambda: now_s)
    first = CallEnded("first", 3, [(1, 1)])
    calls.add(first)
    for number in range(30_000):
        calls.add(CallEnded(f"c{number}", 1, []))
    now_s += KEPT_S - 1
    calls.add(CallEnded("second", 1, []))
    assert calls.get("first") == first
    now_s += 2
    calls.add(CallEnded("third", 1, []))
    assert calls.get("first") is None
    assert "c29999" not in calls
    assert "second" in calls


def test_a_call_that_ends_again_is_known_for_another_day() -> None:
    now_s = 1000.0
    calls = EndedCalls(clock=lambda: now_s)
    calls.add(CallEnded("first", 3, []))
    now_s += KEPT_S - 1
    calls.add(CallEnded("first", 4, []))
    now_s += 2
    calls.add(CallEnded("second", 1, []))
    assert calls.get("first") == CallEnded("first", 4, [])


def test_no_more_are_kept_than_memory_has_room_for() -> None:
    calls = EndedCalls()
    kept = ended_calls.MOST
    for number in range(kept + 10):
        calls.add(CallEnded(str(number), 1, []))
    assert ("9" in calls, "10" in calls, str(kept + 9) in calls) == (False, True, True)
