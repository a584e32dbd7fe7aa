"""What reached Kafka: the transitions of every task, how far each group committed, what is in `dead-letters`."""

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, Message, TopicPartition
from confluent_kafka.admin import OffsetSpec  # type: ignore[attr-defined]  # no __all__

from pipeline.options import known_tasks, read_options
from schemas.tasks import Technology, call_task_id
from tests.faults.admin import admin_of
from tests.faults.calls import Call, Variant
from tests.system import System

GROUPS = {
    "intake": ("requests",),
    "vad": ("media",),
    "extraction": ("speech",),
    "voiceprints": ("prints",),
    "language": ("prints",),
    "gender": ("prints", "requests"),
    "comparison": ("prints", "requests"),
}
FINAL = (b'"state":"done"', b'"state":"failed"', b'"state":"rejected"')

Expected = Mapping[tuple[Variant, Technology], Sequence[bytes]]


@dataclass
class Task:
    """One task's records by revision, each distinct value in the order in which it came."""

    revisions: dict[int, list[bytes]] = field(default_factory=dict)
    records: int = 0

    def add(self, value: bytes) -> None:
        self.records += 1
        known = self.revisions.setdefault(json.loads(value)["revision"], [])
        if value not in known:
            known.append(value)

    @property
    def finals(self) -> list[bytes]:
        return [value for values in self.revisions.values() for value in values if any(state in value for state in FINAL)]


@dataclass
class Verdict:
    """How the tasks of calls ended, held against the undisturbed run. Everything but `duplicates` must be nothing."""

    excuse: str = ""
    tasks: int = 0
    lost: list[str] = field(default_factory=list)
    conflicting: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    different: list[str] = field(default_factory=list)
    duplicates: int = 0

    def check(self) -> "Verdict":
        assert not self.excuse, self.excuse
        for name in ("lost", "conflicting", "gaps", "different"):
            found = getattr(self, name)
            assert not found, f"{len(found)} of {self.tasks} tasks {name}: {found[:3]}"
        assert self.tasks > 0
        return self


class Outcome:
    """Reads `results` as it grows."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.tasks: dict[str, Task] = {}
        self._excuse = ""
        self._broker: dict[str, str | int | float | bool] = {"bootstrap.servers": system.settings.broker, "log_level": 0}
        self._consumer = Consumer(self._broker | {"group.id": "outcome", "enable.auto.commit": False})
        topic = self._consumer.list_topics(system.settings.topic("results"), timeout=30).topics[
            system.settings.topic("results")
        ]
        self._consumer.assign([TopicPartition(topic.topic, number, 0) for number in topic.partitions])
        self._admin = admin_of(system.settings.broker)

    def close(self) -> None:
        self._consumer.close()

    def __enter__(self) -> "Outcome":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def poll(self, timeout_s: float = 0.2) -> int:
        """Take what came; how many records."""
        messages = self._consumer.consume(5000, timeout_s)
        for message in messages:
            if message.error() is None:
                self.tasks.setdefault((message.key() or b"").decode(), Task()).add(message.value() or b"")
        return len(messages)

    def wait(self, calls: Sequence[Call], patience_s: float) -> None:
        """Until every task of the calls is final and nothing lags, or nothing has gone on for so long: the verdict says it."""
        give_up_s = time.monotonic() + patience_s
        wanted = {task_id for call in calls for task_id in task_ids(call).values()}
        left = len(wanted), 0
        while True:
            while self.poll():
                pass
            wanted = {task_id for task_id in wanted if not (task_id in self.tasks and self.tasks[task_id].finals)}
            lag = self._lag_or_unknown()
            if not wanted and not lag:
                return
            now_left = len(wanted), sum(lag.values())
            if now_left < left:  # it goes on, however slow the machine is
                give_up_s = time.monotonic() + patience_s
            left = now_left
            if time.monotonic() > give_up_s:
                open_tasks = [(task_id, list(self.tasks.get(task_id, Task()).revisions)) for task_id in wanted]
                what = f"{len(open_tasks)} tasks are not final: {open_tasks[:3]}; lag {lag}"
                self._excuse = f"{what}\n{self.system.logs()}"
                return
            time.sleep(0.2)

    def _lag_or_unknown(self) -> dict[str, int]:
        try:
            return self.lag()
        except KafkaException as error:  # a partition that has no leader at the moment
            return {str(error): 1}

    def lag(self) -> dict[str, int]:
        """What is left to be committed, by group and partition; nothing when all is zero."""
        ends = self.ends({topic for topics in GROUPS.values() for topic in topics})
        left = {}
        committed_by_group = self.committed()
        for group, topics in GROUPS.items():
            committed = committed_by_group[group]
            for topic in topics:
                for partition, end in ends[topic].items():
                    if (behind := end - max(0, committed.get((topic, partition), 0))) > 0:
                        left[f"{group} {topic}/{partition}"] = behind
        return left

    def ends(self, topics: Iterable[str]) -> dict[str, dict[int, int]]:
        """End offsets by topic and partition, by one request on a connection where no fetch is waited for."""
        names = {self.system.settings.topic(topic): topic for topic in topics}
        known = self._admin.list_topics(timeout=30).topics
        places = {TopicPartition(name, number): OffsetSpec.latest() for name in names for number in known[name].partitions}
        found: dict[str, dict[int, int]] = {topic: {} for topic in names.values()}
        for place, future in self._admin.list_offsets(places, request_timeout=30).items():
            found[names[place.topic]][place.partition] = future.result().offset
        return found

    def committed(self) -> dict[str, dict[tuple[str, int], int]]:
        """Offsets by group, then by bare topic name and partition; nothing of a group that nobody joined yet."""
        prefix = self.system.settings.topic_prefix
        # All at once: the first answer of each group's coordinator takes seconds.
        asked = {
            group: self._admin.list_consumer_group_offsets(
                [ConsumerGroupTopicPartitions(f"{prefix}callstream-{group}")], request_timeout=30
            )
            for group in GROUPS
        }
        found: dict[str, dict[tuple[str, int], int]] = {group: {} for group in GROUPS}
        for group, futures in asked.items():
            with contextlib.suppress(KafkaException):
                for place in futures[f"{prefix}callstream-{group}"].result().topic_partitions or []:
                    found[group][place.topic.removeprefix(prefix), place.partition] = place.offset
        return found

    def reset_groups(self) -> None:
        """Every group back to offset 0; nobody may be in them."""
        asked: dict[str, Future[ConsumerGroupTopicPartitions]] = {}
        numbers = range(self.system.settings.partitions)
        for group, topics in GROUPS.items():
            places = [TopicPartition(self.system.settings.topic(topic), number, 0) for topic in topics for number in numbers]
            name = f"{self.system.settings.topic_prefix}callstream-{group}"
            asked |= self._admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(name, places)])
        for future in asked.values():
            future.result(30)

    def wait_joined(self, patience_s: float = 90.0, members: int = 1) -> None:
        """Until every group has so many members."""
        give_up_s = time.monotonic() + patience_s
        while not all(len(found) >= members for found in self.members().values()):
            assert time.monotonic() < give_up_s, self.system.logs()
            time.sleep(0.5)
        time.sleep(1.0)  # a member that has joined begins with its offsets

    def wait_members(self, count: int, patience_s: float = 60.0) -> None:
        """Until every group has just so many members."""
        give_up_s = time.monotonic() + patience_s
        while not all(len(found) == count for found in self.members().values()):
            assert time.monotonic() < give_up_s, self.members()
            time.sleep(0.2)

    def members(self) -> dict[str, list[str]]:
        """The members of every group."""
        names = [f"{self.system.settings.topic_prefix}callstream-{group}" for group in GROUPS]
        asked = self._admin.describe_consumer_groups(names, request_timeout=30)
        found: dict[str, list[str]] = {name: [] for name in names}
        for name, future in asked.items():
            with contextlib.suppress(KafkaException):  # a group that nobody joined yet
                found[name] = sorted(member.member_id for member in future.result().members)
        return found

    def judge(self, calls: Sequence[Call], expected: Expected) -> Verdict:
        """Hold the calls' tasks against the undisturbed run."""
        verdict = Verdict(self._excuse)
        for call in calls:
            for technology, task_id in task_ids(call).items():
                _judge(
                    verdict, f"{call.call_id}/{technology.value}", self.tasks.get(task_id, Task()), call, technology, expected
                )
        known = {task_id for call in calls for task_id in task_ids(call).values()}
        verdict.duplicates = sum(
            task.records - sum(map(len, task.revisions.values())) for task_id, task in self.tasks.items() if task_id in known
        )
        return verdict

    def duplicates(self, topic: str) -> int:
        """Records of `speech` or `prints` that were there already, but for drafts, which may be said again."""
        records = ((message.key(), message.value()) for message in self.system.read(topic))
        seen = Counter((key, value) for key, value in records if not _is_draft(value))
        return sum(seen.values()) - len(seen)

    def drafts(self) -> int:
        """How many there were."""
        return sum(_is_draft(message.value()) for message in self.system.read("speech"))

    def dead_letters(self) -> list[Message]:
        return self.system.read("dead-letters")


def _is_draft(value: bytes | None) -> bool:
    return bool(msgspec.msgpack.decode(value or b"\x80").get("kind") == "draft")


def _judge(verdict: Verdict, name: str, task: Task, call: Call, technology: Technology, expected: Expected) -> None:
    verdict.tasks += 1
    finals = task.finals
    if not finals:
        verdict.lost.append(name)
        return
    if len(finals) > 1 or any(len(values) > 1 for values in task.revisions.values()):
        verdict.conflicting.append(name)
    if sorted(task.revisions) != list(range(len(task.revisions))):
        verdict.gaps.append(name)
    values = [task.revisions[revision][0] for revision in sorted(task.revisions)]
    if [anonymous(value, call.call_id, technology) for value in values] != expected[call.variant, technology]:
        verdict.different.append(name)


def anonymous(value: bytes, call_id: str, technology: Technology) -> bytes:
    """A transition without the names of its call and its task: the same for every call that says the same."""
    return value.replace(call_task_id(call_id, technology).encode(), b"TASK").replace(f'"{call_id}"'.encode(), b'"CALL"')


def task_ids(call: Call) -> dict[Technology, str]:
    return {one: call_task_id(call.call_id, one) for one in known_tasks(read_options(call.variant.options))}


def undisturbed(outcome: Outcome, calls: Sequence[Call]) -> Expected:
    """What calls say whom nothing disturbed."""
    return {
        (call.variant, technology): [
            anonymous(values[0], call.call_id, technology) for _, values in sorted(outcome.tasks[task_id].revisions.items())
        ]
        for call in calls
        for technology, task_id in task_ids(call).items()
    }
