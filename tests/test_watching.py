"""When `callstream watch` has seen the end of a call."""

import pytest

from pipeline.watching import _OpenTasks
from schemas.results import Transition
from schemas.tasks import TaskInfo, TaskState, Technology

TASK = "00000000-0000-0000-0000-000000000001"


def transition(revision: int, state: TaskState) -> Transition:
    return Transition(Technology.VOICE_ACTIVITY_DETECTION, revision, TaskInfo(TASK, state))


@pytest.mark.parametrize("late", [[], [0], [1, 0, 2]])
def test_what_comes_late_opens_no_task_again(late: list[int]) -> None:
    """A worker that was cut off may say behind its successor what that one has said."""
    tasks = _OpenTasks()
    said = [transition(number, state) for number, state in enumerate((TaskState.PENDING, TaskState.RUNNING, TaskState.DONE))]
    for one in [*said, *(said[number] for number in late)]:
        tasks.note(one)
    assert tasks.states == {TASK: TaskState.DONE}
