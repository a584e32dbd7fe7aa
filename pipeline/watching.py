"""`callstream watch`: the results topic, transition by transition."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import click
import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord
from aiokafka.errors import KafkaError

from pipeline.cancellation import stop_consumer
from pipeline.records import UNDECODABLE
from pipeline.settings import Settings
from pipeline.whole_topic import open_topic
from schemas.results import Transition
from schemas.tasks import TaskState

_DECODER = msgspec.json.Decoder(Transition)
_LOOK_EVERY_S, _ANSWER_S = 5.0, 5.0
_SETTLE_S = 1.0  # nothing new for so long, and nothing open: the call's tasks are all here


class WatchError(Exception):
    """The results cannot be read."""


async def open_results(settings: Settings, *, from_begin: bool) -> AIOKafkaConsumer:
    """A consumer of every partition of `results`, without a group. Raises WatchError."""
    try:
        consumer, _ = await open_topic(settings, settings.topic("results"), from_begin=from_begin)
    except (KafkaError, OSError) as error:
        raise WatchError(f"cannot read the results at {settings.broker}: {error}") from None
    return consumer


async def read_transitions(consumer: AIOKafkaConsumer) -> AsyncIterator[tuple[Transition, bytes] | None]:
    """Transitions as they come, with their JSON; None each time that nothing came for a while."""
    while True:
        batches = await consumer.getmany(timeout_ms=200)
        for records in batches.values():
            for record in records:
                if (transition := _decode(record)) is not None:
                    yield transition, record.value or b""
        if not batches:
            yield None


def _decode(record: ConsumerRecord[Any, Any]) -> Transition | None:
    try:
        return _DECODER.decode(record.value or b"")
    except UNDECODABLE:
        click.echo(f"callstream: {record.topic}/{record.partition}/{record.offset} is no transition, left out", err=True)
        return None


class _Broker:
    """Whether the broker still answers: a consumer that gets nothing would wait for ever without a word."""

    def __init__(self, consumer: AIOKafkaConsumer, address: str) -> None:
        self._consumer, self._address = consumer, address
        self._look_at_s = time.monotonic() + _LOOK_EVERY_S
        self._is_silent = False

    async def look(self) -> None:
        """Ask it, now and then, and tell the user of a change."""
        if time.monotonic() < self._look_at_s:
            return
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._consumer.end_offsets(list(self._consumer.assignment()))
            self._tell(False)
        except (KafkaError, TimeoutError):
            self._tell(True)
        self._look_at_s = time.monotonic() + _LOOK_EVERY_S

    def _tell(self, is_silent: bool) -> None:
        if is_silent != self._is_silent:
            self._is_silent = is_silent
            what = "does not answer, waiting" if is_silent else "answers again"
            click.echo(f"callstream: {self._address} {what}", err=True)


class _OpenTasks:
    """Which tasks of a call are not final yet."""

    def __init__(self) -> None:
        self.states: dict[str, TaskState] = {}
        self._revisions: dict[str, int] = {}
        self._changed_s = time.monotonic()

    def note(self, transition: Transition) -> None:
        """The highest revision counts: a worker that was cut off may say behind its successor what that one has said."""
        task_id = transition.task.task_id
        if transition.revision > self._revisions.get(task_id, -1):
            self.states[task_id], self._revisions[task_id] = transition.task.state, transition.revision
        self._changed_s = time.monotonic()

    def all_final(self) -> bool:
        quiet = time.monotonic() - self._changed_s > _SETTLE_S
        return quiet and bool(self.states) and all(state.is_final for state in self.states.values())


async def watch_results(settings: Settings, call_id: str | None, *, as_json: bool) -> int:
    """Print transitions; those of one call until its tasks are final, then 0 if all are done, else 1. Raises WatchError."""
    consumer = await open_results(settings, from_begin=call_id is not None)
    tasks, broker = _OpenTasks(), _Broker(consumer, settings.broker)
    try:
        async for item in read_transitions(consumer):
            if item is None:
                await broker.look()
            if item is not None and (call_id is None or item[0].call_id == call_id):
                tasks.note(item[0])
                click.echo(item[1] if as_json else describe_transition(item[0]))
            if call_id is not None and item is None and tasks.all_final():
                return 0 if set(tasks.states.values()) == {TaskState.DONE} else 1
    finally:
        await stop_consumer(consumer)
    return 0


def describe_transition(transition: Transition) -> str:
    """One line for people."""
    call = transition.call_id if isinstance(transition.call_id, str) else "(request)"
    line = f"{call}  {transition.technology.value}  #{transition.revision}  {transition.task.state.value}"
    if not isinstance(transition.error, msgspec.UnsetType):
        details = "; ".join(detail.message for detail in transition.error.detail)
        line += f"  {transition.error.message} {details}"
    return f"{line}  {transition.task.task_id}"
