"""The hub by itself: who is told what, and how often."""

import asyncio
import json
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.query import events
from pipeline.query.events import Arrival, Hub, Stream, TooManyListenersError, event_of, value_of
from pipeline.query.records import read_change
from pipeline.query.view import Known, Removal, TaskRow, View, now_ms
from schemas.tasks import TaskState
from tests.query.arrivals import IDS, RESULT, VAD, Event, arrival, done, parsed, record, running
from tests.query.conftest import DAY_S

ERROR = {"type": "internal", "message": "Service error.", "detail": []}


def queued(stream: Stream) -> list[str]:
    return [parsed(event).id for event in stream._events]


def test_a_value_of_several_lines_is_one_line_of_the_same_json() -> None:
    value = json.dumps(json.loads(record(IDS[0], 3, "running", note="a\nb\r")), indent=2).replace("\n", "\r\n").encode()
    [row] = [read_change(None, value, now_ms())]
    assert isinstance(row, TaskRow)
    assert parsed(event_of(row, value)) == Event(f"{IDS[0]}/3", "running", json.loads(value))


@pytest.mark.parametrize(
    "value",
    [
        record(IDS[0], 0, "pending"),
        record(IDS[0], 1, "running", owner="shop"),
        record(IDS[0], 2, "done", result={"channels": [{"x": 1.25}]}),
        record(IDS[0], 2, "done", result_ref="ab/cd"),
        record(IDS[0], 2, "failed", error=ERROR),
        record(IDS[0], 2, "rejected", error={**ERROR, "type": "task.validation-error"}, call_id=None),
    ],
)
def test_what_the_view_holds_is_told_as_the_record_was(value: bytes) -> None:
    row = read_change(None, value, now_ms())
    assert isinstance(row, TaskRow)
    assert json.loads(value_of(row)) == json.loads(value)


def test_a_partial_result_is_all_that_the_view_does_not_hold() -> None:
    row = read_change(None, record(IDS[0], 1, "running", partial=RESULT), now_ms())
    assert isinstance(row, TaskRow)
    assert json.loads(value_of(row)) == json.loads(record(IDS[0], 1, "running"))


class Script(NamedTuple):
    """Revisions of three tasks of one call as they arrive, some again, in batches. A listener joins, and looks later."""

    batches: list[list[tuple[str, int]]]
    joins_at: int
    looks_after: list[int]  # of the batches since it joined, for one task after another


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    # within a task the order is the topic's; a redelivery goes back a few revisions
    order = draw(st.lists(st.sampled_from(IDS), max_size=25))
    seen: dict[str, int] = {}
    flat: list[tuple[str, int]] = []
    for task_id in order:
        last = seen.get(task_id, -1)
        back = draw(st.integers(0, 2))
        flat.extend((task_id, revision) for revision in range(max(0, last + 1 - back), last + 2))
        seen[task_id] = last + 1
    cuts = sorted(draw(st.sets(st.integers(0, len(flat)), max_size=5)))
    batches = [flat[a:b] for a, b in zip([0, *cuts], [*cuts, len(flat)], strict=True)]
    joins_at = draw(st.integers(0, len(batches)))
    looks_after = draw(st.lists(st.integers(0, len(batches) - joins_at), min_size=len(IDS), max_size=len(IDS)))
    return Script(batches, joins_at, sorted(looks_after))


def _arrivals(batch: Sequence[tuple[str, int]]) -> list[Arrival]:
    return [running(task_id, revision, partial={"n": revision}) for task_id, revision in batch]


@given(scripts(), st.booleans())
@hypothesis_settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_stream_tells_the_current_states_and_each_later_revision_once(view: View, script: Script, is_between: bool) -> None:
    view.apply([Removal(task_id) for task_id in IDS], {})
    hub, told, looked = Hub(DAY_S), [], {}
    batches = [_arrivals(batch) for batch in script.batches]
    for batch in batches[: script.joins_at]:
        view.apply([change for change, _ in batch], {})
        hub.publish(batch)
    with hub.streaming("call", lambda owner: True) as stream:
        rest = batches[script.joins_at :]
        if is_between and rest:  # the batch is committed before the look and told after it
            view.apply([change for change, _ in rest[0]], {})
        known = view.tasks_of_call("call")
        stream.expect(known)
        for at in range(len(rest) + 1):
            for task in [task for task, look in zip(known, script.looks_after, strict=False) if look == at]:
                row = view.get(task.task_id)
                assert row is not None
                looked[task.task_id] = range(task.revision, row.revision + 1)
                told += [parsed(event).id for event in [stream.current(row)] if event is not None]
            if at < len(rest):
                view.apply([change for change, _ in rest[at]], {})
                hub.publish(rest[at])
        told += queued(stream)
    for task_id in IDS:
        row = view.get(task_id)
        revisions = [int(each.split("/")[1]) for each in told if each.startswith(task_id)]
        assert (row is None) == (not revisions)
        if row is not None:
            assert revisions == list(range(revisions[0], row.revision + 1))
            assert revisions[0] in looked.get(task_id, [0])  # no older than what was known when it joined
    assert hub.listeners == 0


@given(st.lists(st.sampled_from([TaskState.PENDING, TaskState.RUNNING, TaskState.DONE, None]), max_size=6))
@hypothesis_settings(max_examples=60, deadline=None)
def test_whoever_waits_is_stirred_by_every_other_state_and_by_no_other_task(states: list[TaskState | None]) -> None:
    async def is_stirred() -> bool:
        hub = Hub(DAY_S)
        with hub.waiting(IDS[0], TaskState.RUNNING) as waiter:
            hub.publish([done(IDS[1], 2)])
            for revision, state in enumerate(states):
                change = Removal(IDS[0]) if state is None else TaskRow(IDS[0], VAD, revision, state, b"", None, 0)
                hub.publish([Arrival(change, None)])
            try:
                async with asyncio.timeout(0):
                    await waiter.stirred()
            except TimeoutError:
                return False
            return True

    assert asyncio.run(is_stirred()) == any(state is not TaskState.RUNNING for state in states)


def test_a_stream_shows_only_what_its_reader_may_see() -> None:
    hub = Hub(DAY_S)
    with (
        hub.streaming("call", lambda owner: owner == "a") as a,
        hub.streaming("call", lambda owner: True) as every,
        hub.streaming("other", lambda owner: True) as other,
    ):
        hub.publish([running(IDS[0], 0, owner="a"), running(IDS[1], 0, owner="b"), running(IDS[2], 0, call_id=None)])
        assert queued(a) == [f"{IDS[0]}/0"]
        assert queued(every) == [f"{IDS[0]}/0", f"{IDS[1]}/0"]
        assert queued(other) == []


def test_the_call_id_of_a_task_that_has_expired_begins_anew() -> None:
    hub = Hub(ttl_s=10.0)
    with hub.streaming("call", lambda owner: True) as stream:
        for revision, at_ms in ((0, 0), (1, 5), (0, 9_000), (0, 10_005), (0, 10_006)):
            hub.publish([arrival(IDS[0], record(IDS[0], revision, "running"), at_ms)])
        assert queued(stream) == [f"{IDS[0]}/0", f"{IDS[0]}/1", f"{IDS[0]}/0"]


def test_the_current_state_is_not_told_before_a_record_that_came_first() -> None:
    hub = Hub(DAY_S)
    with hub.streaming("call", lambda owner: True) as stream:
        stream.expect([Known(IDS[0], 5, TaskState.RUNNING, 0)])
        hub.publish([running(IDS[0], 6)])
        row = running(IDS[0], 7).change  # committed, and not told of yet
        assert isinstance(row, TaskRow)
        assert stream.current(row) is None
        hub.publish([running(IDS[0], 7)])
        assert queued(stream) == [f"{IDS[0]}/6", f"{IDS[0]}/7"]


def test_an_old_record_that_comes_again_is_not_told_for_the_current_state() -> None:
    hub = Hub(DAY_S)
    with hub.streaming("call", lambda owner: True) as stream:
        row = running(IDS[0], 6).change
        assert isinstance(row, TaskRow)
        stream.expect([Known(IDS[0], 6, TaskState.RUNNING, row.updated_at_ms)])
        hub.publish([running(IDS[0], 5)])
        assert parsed(stream.current(row) or b"").id == f"{IDS[0]}/6"
        hub.publish([running(IDS[0], 7)])
        assert queued(stream) == [f"{IDS[0]}/7"]


def test_a_view_that_is_begun_anew_shows_no_older_state_than_was_expected() -> None:
    hub = Hub(DAY_S)
    with hub.streaming("call", lambda owner: True) as stream:
        stream.expect([Known(IDS[0], 6, TaskState.RUNNING, now_ms())])
        for revision in (4, 5):
            row = running(IDS[0], revision).change
            assert isinstance(row, TaskRow)
            hub.publish([running(IDS[0], revision)])
            assert stream.current(row) is None
        hub.publish([running(IDS[0], 6), running(IDS[0], 7)])
        assert queued(stream) == [f"{IDS[0]}/6", f"{IDS[0]}/7"]


@pytest.mark.parametrize("is_known", [False, True], ids=["heard", "expected"])
def test_what_the_view_does_not_show_behind_a_final_state_is_not_told(view: View, is_known: bool) -> None:
    """A fault that a successor did not meet: it goes on with a task that has failed."""
    hub, failed = Hub(DAY_S), arrival(IDS[0], record(IDS[0], 2, "failed", error=ERROR))
    behind = [running(IDS[0], 3), done(IDS[0], 4)]
    told = []
    view.apply([failed.change], {})
    with hub.streaming("call", lambda owner: True) as stream:
        if is_known:
            stream.expect(view.tasks_of_call("call"))
        else:
            hub.publish([failed])
        view.apply([change for change, _ in behind], {})
        hub.publish(behind)
        event = stream.current(view.get(IDS[0]))
        told += [] if event is None else [parsed(event).id]
        told += queued(stream)
    assert told == [f"{IDS[0]}/2"]


@pytest.mark.parametrize(("padding", "count"), [(0, events.MAX_EVENTS), (events.MAX_EVENT_BYTES // 10, 9)])
async def test_a_reader_too_far_behind_is_let_go(padding: int, count: int) -> None:
    hub = Hub(DAY_S)
    with hub.streaming("call", lambda owner: True) as stream:
        for revision in range(count):
            hub.publish([running(IDS[0], revision, note="x" * padding)])
        assert len(stream._events) == count
        for revision in range(count, count + 2):
            hub.publish([running(IDS[0], revision, note="x" * padding)])
        await stream.ended()
        assert await stream.next() is None
        assert not stream._events


@pytest.mark.parametrize(("padding", "count"), [(0, 3 * events.MAX_EVENTS), (events.MAX_EVENT_BYTES // 10, 20)])
async def test_a_reader_that_keeps_up_is_never_let_go(padding: int, count: int) -> None:
    hub = Hub(DAY_S)
    with hub.streaming("call", lambda owner: True) as stream:
        for revision in range(count):
            hub.publish([running(IDS[0], revision, note="x" * padding)])
            assert parsed(await stream.next() or b"").id == f"{IDS[0]}/{revision}"


def test_there_are_so_many_places_and_they_are_given_back() -> None:
    hub = Hub(DAY_S, max_listeners=2)
    for _ in range(3):
        with hub.waiting(IDS[0], TaskState.PENDING), hub.streaming("call", lambda owner: True):
            with pytest.raises(TooManyListenersError), hub.waiting(IDS[1], TaskState.PENDING):
                pass
            with pytest.raises(TooManyListenersError), hub.streaming("call", lambda owner: True):
                pass
    assert (hub.listeners, hub._waiters, hub._streams) == (0, {}, {})
