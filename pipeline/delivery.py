"""The at-least-once window: many records in work at once, one at a time per key, offsets given back in order.

A record's offset may be committed once its receipt is released and those of all records before it in its partition are.
A stage releases a receipt when everything that the record causes is acknowledged by the broker; a stage that keeps a
call's state holds the receipts that a successor would have to read again.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import NamedTuple

import msgspec

MOST_GIVEN_WAY = 1000  # jobs beyond the limit that wait for what is away, or have; what they hold is in memory

Acknowledge = Callable[[int], None]  # with the offset; a partition has one for all its receipts, of which many may be held


class Receipt:
    """The right to give one record's offset back."""

    __slots__ = ("_acknowledge", "_partition", "offset", "released")

    def __init__(self, partition: "PartitionOrder", offset: int, acknowledge: Acknowledge) -> None:
        self._partition = partition
        self.offset = offset
        self._acknowledge: Acknowledge | None = acknowledge
        self.released = False

    def release(self) -> None:
        """Say that this record is dealt with; twice is once."""
        if not self.released:
            self.released = True
            self._partition.advance()

    def acknowledge(self) -> None:
        """Give the offset back to the consumer; called in offset order only."""
        if self._acknowledge is not None:
            self._acknowledge(self.offset)
            self._acknowledge = None


class PartitionOrder:
    """The receipts of one partition, in offset order. While it is held nothing is acknowledged."""

    def __init__(self, *, is_held: bool = False, first: int = 0) -> None:
        self._receipts: deque[Receipt] = deque()
        self.first = first  # no receipt is for a record before it
        self.newest = first - 1  # the last offset that a receipt was issued for
        self._closed = False
        self._is_held = is_held
        self.begun_s = time.monotonic()

    @property
    def is_held(self) -> bool:
        """Whether records before the first of these are missing."""
        return self._is_held

    @property
    def held_offsets(self) -> range:
        """From the first record that is not acknowledged to the last; empty when all are."""
        return range(self._receipts[0].offset, self.newest + 1) if self._receipts else range(0)

    def __len__(self) -> int:
        return len(self._receipts)

    def issue(self, offset: int, acknowledge: Acknowledge) -> Receipt:
        """A receipt for the partition's next record."""
        receipt = Receipt(self, offset, acknowledge)
        self._receipts.append(receipt)
        self.newest = offset
        return receipt

    def advance(self) -> None:
        """Acknowledge what is released at the head."""
        while not (self._closed or self._is_held) and self._receipts and self._receipts[0].released:
            self._receipts.popleft().acknowledge()

    def let_go(self) -> None:
        """Hold it no longer."""
        self._is_held = False
        self.advance()

    def close(self) -> None:
        """The partition went to another worker: what is not acknowledged never will be by us."""
        self._closed = True
        self._receipts.clear()


class Lanes:
    """Runs jobs at most `limit` at once: those of one key in order, one at a time."""

    def __init__(self, limit: int, on_crash: Callable[[BaseException], None]) -> None:
        self._free = asyncio.Semaphore(limit)
        self._lanes: dict[Hashable, deque[Callable[[], Awaitable[None]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_crash = on_crash
        self._has_given_way: set[asyncio.Task[None] | None] = set()
        self._cancelled = False

    async def submit(self, key: Hashable, job: Callable[[], Awaitable[None]]) -> None:
        """Queue a job; waits while `limit` jobs are in work or queued."""
        await self._free.acquire()
        if self._cancelled:
            self._free.release()
            return
        lane = self._lanes.get(key)
        if lane is not None:
            lane.append(job)
            return
        self._lanes[key] = deque([job])
        task = asyncio.create_task(self._run(key))
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def give_way(self) -> None:
        """The job in work is about to wait for what is away: another may be in work in its place; of too many each keeps it.

        The place is not taken again: the jobs behind it in its lane may hold all there are. So there may be more in work
        than the limit, by MOST_GIVEN_WAY at most.
        """
        task = asyncio.current_task()
        if task not in self._has_given_way and len(self._has_given_way) < MOST_GIVEN_WAY:
            self._has_given_way.add(task)
            self._free.release()

    async def _run(self, key: Hashable) -> None:
        lane = self._lanes[key]
        try:
            while lane:
                try:
                    await lane[0]()
                finally:
                    lane.popleft()
                    self._give_back()
        finally:
            for _ in lane:
                self._free.release()
            self._lanes.pop(key, None)

    def _give_back(self) -> None:
        task = asyncio.current_task()
        if task not in self._has_given_way:
            self._free.release()
        self._has_given_way.discard(task)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            if not self._cancelled:
                self._on_crash(asyncio.CancelledError("a job was cancelled from outside"))
        elif (error := task.exception()) is not None:
            self._on_crash(error)

    async def drain(self, timeout_s: float) -> bool:
        """Wait until no job is left; False when time ran out."""
        give_up_s = time.monotonic() + timeout_s
        while self._tasks and (left_s := give_up_s - time.monotonic()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left_s)
        return not self._tasks

    def cancel(self) -> None:
        """Drop every job."""
        self._cancelled = True
        for task in self._tasks:
            task.cancel()
        self._free.release()  # who waits is let in, and lets the next one in: a task that has not begun frees nothing


class Reached(NamedTuple):
    """How far a partition is read, as its next record comes.

    Between `read_from` and the record there is nothing to read: a transaction's marker, or what Kafka has deleted.
    `committed` is the group's offset there, as far as it is known.
    """

    read_from: int
    committed: int | None


class WindowState(msgspec.Struct):
    """What a window holds, for health and metrics."""

    partitions: int
    unacknowledged: int


class DeliveryWindow:
    """Receipts for the records of the assigned partitions, and the lanes in which they are worked on.

    What a reset drops must come again before anything behind it is acknowledged. The consumer sees to that by beginning again
    at the committed offset; here it is made sure of, since whatever is acknowledged is committed.
    """

    def __init__(self, limit: int, on_crash: Callable[[BaseException], None]) -> None:
        self._partitions: dict[Hashable, PartitionOrder] = {}
        self._dropped: dict[Hashable, range] = {}  # by partition, from the first record that was dropped to the last
        self._limit = limit
        self._on_crash = on_crash
        self.lanes = Lanes(limit, on_crash)

    def issue(
        self, partition: Hashable, offset: int, acknowledge: Acknowledge, reached: Reached | None = None
    ) -> Receipt | None:
        """A receipt for the partition's next record; None when it is in hand already: a seek may bring one twice."""
        self._look_for_dropped(partition, reached or Reached(offset, None))
        order = self._partitions.get(partition)
        if order is not None and offset < order.first:  # it was never in hand, and what is comes again behind it
            order.close()
            order = None
        if order is None:
            order = self._partitions[partition] = PartitionOrder(is_held=partition in self._dropped, first=offset)
        return order.issue(offset, acknowledge) if offset > order.newest else None

    def _look_for_dropped(self, partition: Hashable, reached: Reached) -> None:
        dropped, order = self._dropped.get(partition), self._partitions.get(partition)
        if dropped is None:
            return
        first = max(dropped.start, reached.committed or 0)  # what is before the committed offset, somebody has dealt with
        if first >= dropped.stop:
            if order is not None:
                order.let_go()
        elif reached.read_from <= first:  # it comes again, and what was taken meanwhile comes again behind it
            if order is not None:
                order.close()
                del self._partitions[partition]
        else:
            return
        del self._dropped[partition]

    def held_s(self) -> float:
        """How long a partition has waited for records that were dropped; 0 when none does."""
        held = [order.begun_s for order in self._partitions.values() if order.is_held]
        return time.monotonic() - min(held) if held else 0.0

    async def drain(self, timeout_s: float) -> bool:
        """Let jobs in work end; False when time ran out."""
        return await self.lanes.drain(timeout_s)

    def reset(self) -> None:
        """Forget everything: the partitions are being assigned anew, and unacknowledged records come again."""
        for partition, order in self._partitions.items():
            if held := order.held_offsets:
                before = self._dropped.get(partition, held)
                self._dropped[partition] = range(min(held.start, before.start), max(held.stop, before.stop))
            order.close()
        self._partitions.clear()
        self.lanes.cancel()
        self.lanes = Lanes(self._limit, self._on_crash)

    def state(self) -> WindowState:
        """What is held now."""
        return WindowState(len(self._partitions), sum(len(order) for order in self._partitions.values()))


def describe_error(error: BaseException) -> str:
    """One line for logs and headers."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
