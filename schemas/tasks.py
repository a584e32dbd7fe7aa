"""Technologies, task states and task ids."""

import enum
import uuid

import msgspec


class Technology(enum.StrEnum):
    """A technology by its path word, which is also its name in `options` and in every `results` record."""

    VOICE_ACTIVITY_DETECTION = "voice-activity-detection"
    VOICEPRINT_EXTRACTION = "speaker-identification-voiceprint-extraction"
    LANGUAGE_IDENTIFICATION = "language-identification"
    GENDER_IDENTIFICATION = "gender-identification-voiceprints"
    VOICEPRINT_COMPARISON = "speaker-identification-voiceprint-comparison"


class TaskState(enum.StrEnum):
    """The states of a task, in the order in which they may follow one another; the last three are final."""

    PENDING = "pending"
    RUNNING = "running"
    REJECTED = "rejected"  # not executed: its requirements are not met
    FAILED = "failed"  # met a fault while executing
    DONE = "done"

    @property
    def is_final(self) -> bool:
        """Whether a task in this state never changes again."""
        return self in (TaskState.DONE, TaskState.FAILED, TaskState.REJECTED)


class TaskInfo(msgspec.Struct, frozen=True):
    """The `task` object of every HTTP answer and `results` record."""

    task_id: str
    state: TaskState


NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "callstream")


def call_task_id(call_id: str, technology: Technology) -> str:
    """The id of a call's task, known to the producer before the call begins (RFC 9562 UUID version 5)."""
    return str(uuid.uuid5(NAMESPACE, f"{call_id}/{technology.value}"))


def request_task_id(source: str) -> str:
    """The id of a start-task request without a key, derived from its place in the log so that a replay repeats it."""
    return str(uuid.uuid5(NAMESPACE, source))
