"""Bodies of the query service's answers."""

import msgspec

from schemas.errors import TaskError
from schemas.tasks import TaskInfo


class TaskAccepted(msgspec.Struct, frozen=True):
    """Body of 202: the task was started."""

    task: TaskInfo


class TaskAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Body of 200: the task, and its result or error when it is final."""

    task: TaskInfo
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: TaskError | msgspec.UnsetType = msgspec.UNSET
