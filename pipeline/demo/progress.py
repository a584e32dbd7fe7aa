"""What the demo shows while it works."""

from collections.abc import Iterable
from typing import Any

import msgspec
from rich.markup import escape
from rich.table import Table

from schemas.results import Transition
from schemas.tasks import TaskState, Technology

SHORT_NAMES = {
    Technology.VOICE_ACTIVITY_DETECTION: "speech",
    Technology.VOICEPRINT_EXTRACTION: "voiceprint",
    Technology.LANGUAGE_IDENTIFICATION: "language",
    Technology.GENDER_IDENTIFICATION: "gender",
    Technology.VOICEPRINT_COMPARISON: "comparison",
}
_STYLES = {
    TaskState.PENDING: "dim",
    TaskState.RUNNING: "yellow",
    TaskState.DONE: "green",
    TaskState.FAILED: "bold red",
    TaskState.REJECTED: "red",
}


class CallProgress:
    """One call: audio sent, speech found, and where each task is."""

    def __init__(self, call_id: str, tasks: Iterable[Technology]) -> None:
        self.call_id = call_id
        self.sent_s = 0.0
        self.speech_s = 0.0
        self.expected = set(tasks)
        self.latest: dict[Technology, Transition] = {}

    def note(self, transition: Transition) -> None:
        """Take a transition of this call."""
        self.latest[transition.technology] = transition
        if transition.technology is Technology.VOICE_ACTIVITY_DETECTION and (known := result_of(transition)):
            self.speech_s = sum(channel["speech_length"] for channel in known["channels"])

    @property
    def is_final(self) -> bool:
        """Whether every task of the call is final."""
        return self.expected <= self.latest.keys() and all(one.task.state.is_final for one in self.latest.values())

    @property
    def is_done(self) -> bool:
        """Whether every task of the call has a result."""
        return self.is_final and all(one.task.state is TaskState.DONE for one in self.latest.values())


def result_of(transition: Transition) -> Any:  # noqa: ANN401 - JSON of any technology
    """The result, or what is known of it by now; None when there is nothing yet."""
    for raw in (transition.result, transition.partial):
        if not isinstance(raw, msgspec.UnsetType):
            return msgspec.json.decode(raw)
    return None


def progress_table(calls: Iterable[CallProgress]) -> Table:
    """The calls as a table for the terminal."""
    table = Table("call", "audio in", "speech", *SHORT_NAMES.values(), title="live")
    for call in calls:
        states = [_state(call, technology) for technology in SHORT_NAMES]
        table.add_row(escape(call.call_id), f"{call.sent_s:.1f} s", f"{call.speech_s:.1f} s", *states)
    return table


def _state(call: CallProgress, technology: Technology) -> str:
    transition = call.latest.get(technology)
    if transition is None:
        return "[dim]-[/]"
    state = transition.task.state
    return f"[{_STYLES[state]}]{state.value} #{transition.revision}[/]"
