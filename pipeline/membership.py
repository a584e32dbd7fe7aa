"""What aiokafka knows of a consumer's membership, and of tasks of its own that have died; Faust does not ask for it."""

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Awaitable, Callable

import faust
from aiokafka.client import ConnectionGroup
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import Fetcher
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import KafkaError
from aiokafka.producer.sender import Sender
from aiokafka.protocol.commit import OffsetCommitRequest
from aiokafka.protocol.group import JoinGroupRequest, LeaveGroupRequest

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.05
_CANCEL_AGAIN_S = 0.1
_NAMED_S = 1.0


def _part_of_consumer(app: faust.App, name: str) -> object:
    # Not app.consumer: that would make one, here, on whatever thread this is.
    return getattr(getattr(getattr(app._consumer, "_thread", None), "_consumer", None), name, None)


def _coordinator_of(app: faust.App) -> GroupCoordinator | None:
    coordinator = _part_of_consumer(app, "_coordinator")
    return coordinator if isinstance(coordinator, GroupCoordinator) else None


def consumer_fault(app: faust.App) -> str | None:
    """Why this app's consumer is dead, if it is.

    aiokafka parks an error until somebody asks for it, which Faust does not: the process would live on, idle for ever.
    """
    coordinator = _coordinator_of(app)
    if coordinator is None:
        return None
    if coordinator._pending_exception is not None:
        return f"group coordinator met {coordinator._pending_exception!r}"
    task = coordinator._coordination_task
    if task is not None and task.done():
        return "the group coordinator's task has ended"
    return reader_fault(_part_of_consumer(app, "_fetcher"), _part_of_consumer(app, "_client"))


def reader_fault(fetcher: object, client: object) -> str | None:
    """Why a consumer that has these will never read anything again, if so: it would say nothing and give nothing."""
    if isinstance(fetcher, Fetcher) and fetcher._fetch_task.done():
        return "the fetcher's task has ended"
    return _client_fault(client)


def _client_fault(client: object) -> str | None:
    """Without this task a client never hears of partitions that were added, or of leaders that changed."""
    task = getattr(client, "_sync_task", None)
    return "the task that follows the cluster has ended" if isinstance(task, asyncio.Task) and task.done() else None


def producer_fault(app: faust.App) -> str | None:
    """Why this app's producer will never send anything again, if so: what waits to be sent would wait for ever."""
    producer = getattr(app._producer, "_producer", None)
    sender = getattr(producer, "_sender", None)
    if isinstance(sender, Sender) and sender.sender_task is not None and sender.sender_task.done():
        return "the producer's task has ended"
    return _client_fault(getattr(producer, "client", None))


def has_lost_partitions(app: faust.App) -> bool:
    """Whether the group went on without this consumer: its partitions are another's already."""
    coordinator = _coordinator_of(app)
    return coordinator is not None and coordinator.generation == OffsetCommitRequest.DEFAULT_GENERATION_ID


def _owing(coordinator: GroupCoordinator) -> AIOKafkaConnection | None:
    """The connection to the group's broker, if that owes an answer."""
    connection = coordinator._client._conns.get((coordinator.coordinator_id, ConnectionGroup.COORDINATION))
    return connection if connection is not None and connection._requests else None


async def _wait_named(coordinator: GroupCoordinator) -> None:
    """Until Kafka has named a member that has just asked to be let in: it waits for that one, and lets no other in."""
    give_up_s = time.monotonic() + _NAMED_S
    unnamed = JoinGroupRequest.UNKNOWN_MEMBER_ID
    while coordinator.member_id == unnamed and _owing(coordinator) and time.monotonic() < give_up_s:  # noqa: ASYNC110 - aiokafka's
        await asyncio.sleep(_LOOK_EVERY_S)


async def leave_group(coordinator: GroupCoordinator) -> None:
    """Leave now. aiokafka first takes part in a rebalance that is under way, which lasts until all others have joined again."""
    joining = coordinator._coordination_task
    await _wait_named(coordinator)
    while not joining.done():  # a task of its own that it waits for may swallow this
        joining.cancel()
        await asyncio.wait([joining], timeout=_CANCEL_AGAIN_S)
    if not joining.cancelled():
        joining.exception()  # whoever watches it has said so
    await coordinator._stop_heartbeat_task()
    if (connection := _owing(coordinator)) is not None:
        connection.close()  # Kafka answers a connection in turn, and a member that joins when all have joined
    if coordinator.member_id != JoinGroupRequest.UNKNOWN_MEMBER_ID:
        with contextlib.suppress(KafkaError):  # aiokafka has said it; the group misses the member behind a session timeout
            await coordinator._send_req(LeaveGroupRequest(coordinator.group_id, coordinator.member_id))
    coordinator.reset_generation()


def is_member(app: faust.App) -> bool:
    """Whether Kafka counts this consumer as a member of its group, as far as it knows: its heartbeats are answered."""
    coordinator = _coordinator_of(app)
    if coordinator is None or consumer_fault(app) is not None:
        return False
    is_known = coordinator.generation != OffsetCommitRequest.DEFAULT_GENERATION_ID
    return is_known and coordinator.coordinator_id is not None and not coordinator._rejoin_needed_fut.done()


class Lease:
    """How long Kafka surely counts a consumer as a member: until a session timeout behind its last answered heartbeat.

    A worker that was frozen or cut off does not know that its partitions went to another. Without a lease it says nothing:
    what it says would be byte-equal, but said twice. This saves work and is no guarantee: between the look and the send time
    may pass.
    """

    def __init__(self, session_timeout_s: float, group: str = "") -> None:
        self._group = group
        self._session_timeout_s = session_timeout_s
        self._ends_s = 0.0
        self._asked_at_s = -math.inf
        self._answering_since_s = 0.0
        self._has_said = False
        self._is_waived = False

    def renew(self, asked_at_s: float) -> None:
        """Kafka has answered a request that was sent then (on the monotonic clock)."""
        self._answering_since_s = self.answering_since_s()
        self._asked_at_s = asked_at_s
        self._ends_s = asked_at_s + self._session_timeout_s
        if self._has_said:
            logger.warning("group %s: heartbeats are answered again", self._group)
        self._has_said = False

    def answering_since_s(self) -> float:
        """Since when Kafka has answered, on the monotonic clock; half a session timeout without an answer is a break."""
        now_s = time.monotonic()
        return now_s if now_s - self._asked_at_s > self._session_timeout_s / 2 else self._answering_since_s

    def waive(self) -> None:
        """The process ends: what is in work is said without asking, since heartbeats may have ended before it."""
        self._is_waived = True

    def is_valid(self) -> bool:
        """Whether it lasts."""
        return time.monotonic() < self._ends_s

    def tell(self) -> None:
        """Say once that it has ended, if it has: whoever has nothing to say would not notice."""
        if self._has_said or self._is_waived or not self._ends_s or self.is_valid():
            return
        self._has_said = True
        words = "group %s: no heartbeat was answered for %g s, waiting: Kafka is away, or the group is changing"
        logger.warning(words, self._group, self._session_timeout_s)

    async def wait(self) -> None:
        """Until it lasts again; who has lost the partitions meanwhile is cancelled here."""
        while not (self.is_valid() or self._is_waived):
            self.tell()
            await asyncio.sleep(_LOOK_EVERY_S)

    def follow(self, coordinator: GroupCoordinator) -> None:
        """Renew it with each heartbeat of this coordinator."""
        heartbeat: Callable[[], Awaitable[bool]] = coordinator._do_heartbeat

        async def noted_heartbeat() -> bool:
            asked_at_s = time.monotonic()
            answered = await heartbeat()
            if answered:
                self.renew(asked_at_s)
            return answered

        coordinator._do_heartbeat = noted_heartbeat  # type: ignore[method-assign]
