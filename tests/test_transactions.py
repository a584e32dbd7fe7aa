"""Transactions that stay open are told: once they have held a partition up for long, and again later."""

import pytest
from faust.types import TP

from pipeline.transactions import SAY_AGAIN_S, OpenTransactions

HELD, OTHER = TP("media", 3), TP("media", 4)
PATIENCE_S = 60.0


def test_a_long_one_is_told_and_again(caplog: pytest.LogCaptureFixture) -> None:
    watch, told = OpenTransactions(PATIENCE_S), []
    for now_s in range(0, 1000, 5):
        caplog.clear()
        watch.look({HELD: 17}, float(now_s))
        if caplog.messages:
            told.append(now_s)
            [text] = caplog.messages
            assert text.startswith(f"media/3: a producer's transaction that begins at offset 17 has been open for {now_s} s")
    assert told == [60, 360, 660, 960]
    assert told[1] - told[0] == SAY_AGAIN_S


def test_short_ones_one_behind_the_other_are_not(caplog: pytest.LogCaptureFixture) -> None:
    watch = OpenTransactions(PATIENCE_S)
    for now_s in range(600):
        watch.look({HELD: now_s // 50}, float(now_s))
        watch.look({HELD: now_s // 50} if now_s % 50 else {}, float(now_s))
    assert caplog.messages == []


def test_each_has_its_own_time(caplog: pytest.LogCaptureFixture) -> None:
    watch = OpenTransactions(PATIENCE_S)
    watch.look({HELD: 1}, 0.0)
    watch.look({HELD: 1, OTHER: 1}, 50.0)
    watch.look({HELD: 1, OTHER: 1}, 60.0)
    assert [text.partition(":")[0] for text in caplog.messages] == ["media/3"]
    watch.look({OTHER: 1}, 100.0)
    watch.look({HELD: 1, OTHER: 1}, 110.0)  # taken over anew: it counts from now
    assert [text.partition(":")[0] for text in caplog.messages] == ["media/3", "media/4"]
