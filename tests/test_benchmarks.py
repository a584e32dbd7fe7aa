"""What benchmarks print, as JSON; and what their limits are made of."""

import itertools
import time
from typing import cast

import numpy as np
import pytest

from benchmarks import calls
from benchmarks.calls import Shape, Track, limit_cpu_s
from benchmarks.everything import tables
from benchmarks.live import Measured, report, search
from benchmarks.worker import Usage
from pipeline.models.models import ModelSet
from pipeline.settings import Settings
from schemas.tasks import Technology

PRINTED = """A machine, 2 cores

| calls | CPU of the core |
|---|---|
| 20 | 31% |
| 40 | 59% |

and more: 3.4 s

| what | time |
| :-- | --: |
| one | 1.0 |
"""


def test_tables_are_read_row_by_row() -> None:
    assert list(tables(PRINTED)) == [
        [{"calls": "20", "CPU of the core": "31%"}, {"calls": "40", "CPU of the core": "59%"}],
        [{"what": "one", "time": "1.0"}],
    ]


def test_text_without_tables_has_none() -> None:
    assert list(tables("nothing measured\n| not a table |\n")) == []


def test_the_limit_is_what_hearing_takes_and_not_the_making_of_the_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of CPU that goes on by 2 s while a call is heard, and by 5 s while it is made."""
    now_s = 0.0

    class Made:
        shape = Shape(300.0, 0.4, 500)

        def of_call(self, number: int) -> calls.Frames:
            nonlocal now_s
            now_s += 5.0
            return np.full((8000, 2), number, np.int16)

        def listen(self, frames: calls.Frames) -> None:
            """Nothing is said."""

    def hear(*_: object) -> None:
        nonlocal now_s
        now_s += 2.0

    monkeypatch.setattr(time, "thread_time", lambda: now_s)
    monkeypatch.setattr(calls, "hear", hear)
    assert limit_cpu_s(cast(ModelSet, None), Settings(), cast(Track, Made()), numbers=range(3)) == pytest.approx(2.0 / 300.0)


def test_calls_begin_at_places_that_do_not_follow_from_one_another() -> None:
    """Else those that begin one after the other say the same at the same time."""
    track = Track.__new__(Track)
    track.shape, track._frames = Shape(1.0, 0.4, 500), np.arange(16_000_000, dtype=np.int32)[:, None].astype(np.int16)
    begins = [int(track.of_call(number)[0, 0]) for number in range(20)]
    assert begins == [int(track.of_call(number)[0, 0]) for number in range(20)]
    assert len({later - earlier for earlier, later in itertools.pairwise(begins)}) > 15


@pytest.mark.parametrize(
    ("latency_ms", "are_silent", "borne"),
    [({}, False, False), ({}, True, True), ({key: [400.0] for key in Technology}, False, True)],
    ids=["no result at all", "nobody speaks", "in time"],
)
def test_calls_that_speak_and_give_nothing_are_not_borne(
    latency_ms: dict[Technology, list[float]], are_silent: bool, borne: bool
) -> None:
    assert report(60, 0.01, Measured(latency_ms, 0.0, Usage(1, 0.0, 0.0, 0.0)), are_silent=are_silent) is borne


@pytest.mark.parametrize(
    ("borne", "tried"),
    [(100, [30, 40, 50]), (45, [30, 40, 50]), (35, [30, 40]), (25, [30, 20]), (15, [30, 20, 10]), (0, [30, 20, 10])],
)
def test_the_largest_number_of_calls_is_looked_for_upwards_or_downwards(borne: int, tried: list[int]) -> None:
    asked: list[int] = []

    def is_borne(count: int) -> bool:
        asked.append(count)
        return count <= borne

    search(is_borne, [30, 40, 50], [20, 10])
    assert asked == tried
