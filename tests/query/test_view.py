import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.query.view import Change, Removal, TaskRow, View, now_ms
from pipeline.query.view_file import FILE_NAME, ViewLockedError
from schemas.tasks import TaskState, Technology
from tests.query.conftest import DAY_S

VAD = Technology.VOICE_ACTIVITY_DETECTION
IDS = tuple(str(uuid.UUID(int=number)) for number in range(3))
NOW_MS = now_ms()


def row(task_id: str, revision: int, state: TaskState, updated_at_ms: int = NOW_MS) -> TaskRow:
    return TaskRow(task_id, VAD, revision, state, f"{task_id}@{revision}".encode(), None, updated_at_ms)


def history(task_id: str, running: int, final: TaskState | None) -> list[TaskRow]:
    states = [TaskState.PENDING, *[TaskState.RUNNING] * running, *([final] if final else [])]
    return [row(task_id, revision, state) for revision, state in enumerate(states)]


finals = st.sampled_from([None, TaskState.DONE, TaskState.FAILED, TaskState.REJECTED])
histories = st.tuples(*[st.builds(history, st.just(task_id), st.integers(0, 4), finals) for task_id in IDS])


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[TaskRow], list[list[TaskRow]]]:
    """The last row of each task, and every row at least once, in any order, in transactions of any size."""
    tasks = draw(histories)
    rows = [each for task in tasks for each in task]
    shuffled = draw(st.permutations(rows + draw(st.lists(st.sampled_from(rows), max_size=10))))
    cuts = sorted(draw(st.sets(st.integers(0, len(shuffled)), max_size=4)))
    batches = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(shuffled)], strict=True)]
    return [task[-1] for task in tasks], batches


@given(deliveries())
@hypothesis_settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_redelivered_revisions_ends_in_the_same_rows(
    view: View, case: tuple[list[TaskRow], list[list[TaskRow]]]
) -> None:
    last, batches = case
    view.apply([Removal(task_id) for task_id in IDS], {})
    for batch in batches:
        before = {task_id: view.get(task_id) for task_id in IDS}
        view.apply(batch, {})
        for task_id, was in before.items():
            if was is not None and was.state.is_final:
                assert view.get(task_id) == was
    assert [view.get(task_id) for task_id in IDS] == last


def test_a_record_behind_a_final_state_changes_nothing(view: View) -> None:
    done = row(IDS[0], 2, TaskState.DONE)
    view.apply([done], {})
    view.apply([row(IDS[0], 3, TaskState.RUNNING), row(IDS[0], 4, TaskState.FAILED)], {})
    assert view.get(IDS[0]) == done


def test_our_pending_row_gives_way_to_the_first_record(view: View) -> None:
    view.add_pending(uuid.UUID(IDS[0]), VAD)
    pending = view.get(IDS[0])
    assert pending is not None
    assert (pending.state, pending.body) == (
        TaskState.PENDING,
        f'{{"task":{{"task_id":"{IDS[0]}","state":"pending"}}}}'.encode(),
    )
    first = row(IDS[0], 0, TaskState.PENDING)
    view.apply([first], {})
    assert view.get(IDS[0]) == first


def test_our_pending_row_comes_too_late(view: View) -> None:
    done = row(IDS[0], 2, TaskState.DONE)
    view.apply([done], {})
    view.add_pending(uuid.UUID(IDS[0]), VAD)
    assert view.get(IDS[0]) == done


def test_a_tombstone_forgets_the_task(view: View) -> None:
    view.apply([row(IDS[0], 2, TaskState.DONE), Removal(IDS[0])], {})
    assert view.get(IDS[0]) is None


def test_an_expired_task_is_unknown_before_the_sweep_and_gone_after_it(view: View) -> None:
    old_ms = NOW_MS - int(DAY_S * 1000) - 1
    view.apply([row(str(uuid.UUID(int=n)), 1, TaskState.DONE, old_ms) for n in range(2500)], {})
    fresh = row(str(uuid.UUID(int=9999)), 1, TaskState.DONE)
    view.apply([fresh], {})
    assert view.get(IDS[0]) is None
    assert view.count() == 2501
    assert view.sweep() == 2500
    assert view.count() == 1
    assert view.get(fresh.task_id) == fresh


def test_a_call_id_used_again_after_its_lifetime_is_a_new_task(view: View) -> None:
    view.apply([row(IDS[0], 7, TaskState.DONE, NOW_MS - int(DAY_S * 1000))], {})
    again = row(IDS[0], 0, TaskState.PENDING)
    view.apply([again], {})
    assert view.get(IDS[0]) == again


def test_the_tasks_of_a_call_are_those_that_agents_wrote_of_and_that_have_not_expired(view: View) -> None:
    made = [msgspec.structs.replace(row(task_id, 0, TaskState.RUNNING), call_id="call") for task_id in IDS]
    old = msgspec.structs.replace(made[0], task_id=str(uuid.UUID(int=4)), updated_at_ms=NOW_MS - int(DAY_S * 1000) - 1)
    other = msgspec.structs.replace(made[0], task_id=str(uuid.UUID(int=5)), call_id="Call")
    view.apply([*reversed(made), old, other, row(str(uuid.UUID(int=6)), 0, TaskState.RUNNING)], {})
    view.add_pending(uuid.UUID(int=7), VAD)
    assert view.tasks_of_call("call") == [(task_id, 0, TaskState.RUNNING, NOW_MS) for task_id in IDS]
    assert view.tasks_of_call("nobody") == []


def test_rows_and_offsets_are_written_together_or_not_at_all(view: View) -> None:
    view.apply([row(IDS[0], 0, TaskState.PENDING)], {("results", 0): 1})
    broken: list[Change] = [row(IDS[1], 0, TaskState.PENDING), TaskRow(IDS[2], VAD, 0, TaskState.PENDING, b"", None, 2**70)]
    with pytest.raises(OverflowError):
        view.apply(broken, {("results", 0): 3})
    assert view.get(IDS[1]) is None
    assert view.next_offsets("results") == {0: 1}


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    first = View(tmp_path, DAY_S)
    assert not first.bind("cluster/results")
    first.apply([row(IDS[0], 0, TaskState.PENDING)], {("results", 3): 17})
    first.close()
    second = View(tmp_path, DAY_S)
    assert not second.bind("cluster/results")
    assert second.get(IDS[0]) == row(IDS[0], 0, TaskState.PENDING)
    assert second.next_offsets("results") == {3: 17}
    second.close()


def test_what_keeps_a_blob_outlasts_a_power_cut(view: View) -> None:
    """The blob itself is synced, and so is the request; records of Kafka are read again."""
    said: list[str] = []
    view._writer.set_trace_callback(said.append)
    view.add_pending(uuid.UUID(IDS[0]), VAD)
    view.apply([row(IDS[1], 0, TaskState.PENDING)], {})
    assert [one for one in said if "synchronous" in one or one == "COMMIT"] == [
        "PRAGMA synchronous = FULL",
        "COMMIT",
        "PRAGMA synchronous = NORMAL",
        "COMMIT",
    ]


def test_another_cluster_means_no_rows_and_no_offsets(tmp_path: Path) -> None:
    first = View(tmp_path, DAY_S)
    first.bind("one/results")
    first.apply([row(IDS[0], 0, TaskState.PENDING)], {("results", 0): 17})
    first.close()
    second = View(tmp_path, DAY_S)
    second.add_pending(uuid.UUID(IDS[1]), VAD)
    assert second.bind("two/results")
    assert second.get(IDS[0]) is None
    assert second.get(IDS[1]) is not None  # started since, so it belongs to the new cluster
    assert second.next_offsets("results") == {}
    second.close()


def _bound(folder: Path, *arguments: str | None) -> tuple[bool, dict[int, int]]:
    view = View(folder, DAY_S)
    emptied = view.bind("cluster/results", *arguments)
    found = view.next_offsets("results")
    view.apply([], {("results", 0): 17})
    view.close()
    return emptied, found


def test_a_topic_that_was_made_anew_is_another_source(tmp_path: Path) -> None:
    assert _bound(tmp_path, "one") == (False, {})
    assert _bound(tmp_path, "one") == (False, {0: 17})
    assert _bound(tmp_path, None) == (False, {0: 17})
    assert _bound(tmp_path, "two") == (True, {})
    assert _bound(tmp_path, "two") == (False, {0: 17})


def test_a_view_of_before_topic_ids_takes_the_one_that_is_there(tmp_path: Path) -> None:
    assert _bound(tmp_path) == (False, {})
    assert _bound(tmp_path, "one") == (False, {0: 17})
    assert _bound(tmp_path, "two") == (True, {})


def test_the_id_of_another_source_is_forgotten_with_it(tmp_path: Path) -> None:
    assert _bound(tmp_path, "one") == (False, {})
    view = View(tmp_path, DAY_S)
    assert view.bind("another/results")
    view.close()
    assert _bound(tmp_path) == (True, {})
    assert _bound(tmp_path, "two") == (False, {0: 17})


def _damage(path: Path) -> None:
    path.write_bytes(b"no database at all" * 300)


def _age(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()


@pytest.mark.parametrize("spoil", [_damage, _age])
def test_a_file_that_cannot_be_used_is_moved_aside(tmp_path: Path, spoil: object, caplog: pytest.LogCaptureFixture) -> None:
    first = View(tmp_path, DAY_S)
    first.apply([row(IDS[0], 0, TaskState.PENDING)], {("results", 0): 17})
    first.close()
    assert callable(spoil)
    spoil(tmp_path / FILE_NAME)
    second = View(tmp_path, DAY_S)
    assert second.next_offsets("results") == {}
    assert second.get(IDS[0]) is None
    assert len(list(tmp_path.glob(f"{FILE_NAME}.damaged-*"))) == 1
    assert "cannot be used" in caplog.text
    second.close()


@pytest.mark.parametrize(("found", "damage"), [(b"CREATE TABLE offsets", b"\xff"), (b"next_offset", b"x"), (b"value", b"x")])
def test_a_damaged_byte_of_the_tables_names_is_damage(tmp_path: Path, found: bytes, damage: bytes) -> None:
    View(tmp_path, DAY_S).close()
    file = tmp_path / FILE_NAME
    content = file.read_bytes()
    assert found in content
    file.write_bytes(content.replace(found, found[:-1] + damage))
    view = View(tmp_path, DAY_S)
    view.apply([row(IDS[0], 0, TaskState.PENDING)], {("results", 0): 1})
    assert len(list(tmp_path.glob(f"{FILE_NAME}.damaged-*"))) == 1
    view.close()


def test_a_value_that_is_no_text_is_damage(view: View) -> None:
    view.apply([row(IDS[0], 0, TaskState.PENDING)], {})
    view._writer.execute("UPDATE tasks SET call_id = CAST(x'ff' AS TEXT)")
    with pytest.raises(sqlite3.OperationalError):
        view.get(IDS[0])
    assert view.damaged


def _write(view: View) -> None:
    view.apply([row(str(uuid.UUID(int=n)), 2, TaskState.DONE) for n in range(4000)], {})


READS: list[Callable[[View], object]] = [
    _write,
    lambda view: view.started_open(0),
    lambda view: view.next_offsets("results"),
    lambda view: view.count(),
]


@pytest.mark.parametrize("read", READS)
def test_damage_found_while_in_use_is_noted_and_the_view_begins_anew(
    view: View, tmp_path: Path, read: Callable[[View], object]
) -> None:
    view.apply([row(str(uuid.UUID(int=n)), 1, TaskState.DONE) for n in range(2000)], {("results", 0): 2000})
    file = tmp_path / "view" / FILE_NAME
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    pages = file.stat().st_size // 4096
    with file.open("r+b") as raw:
        raw.seek(4096)
        raw.write(b"\xff" * 4096 * (pages - 1))
    with pytest.raises(sqlite3.DatabaseError):
        read(view)
    assert view.damaged
    view.rebuild()
    assert not view.damaged
    view.apply([row(IDS[0], 1, TaskState.DONE)], {("results", 0): 1})
    assert view.next_offsets("results") == {0: 1}


def test_two_processes_cannot_share_a_view(tmp_path: Path) -> None:
    first = View(tmp_path, DAY_S)
    with pytest.raises(ViewLockedError, match="CALLSTREAM_DATA_DIR"):
        View(tmp_path, DAY_S)
    first.close()
    View(tmp_path, DAY_S).close()
