"""A Faust app whose consumer reads in its own way: from the committed offset on, in order, straight to the stage.

Faust has two hands on a partition's position, the loop that fetches and the end of a rebalance, and a queue that a rebalance
empties. When two rebalances overlap, the end of the first lets records flow; what was fetched behind the seek of the second is
then thrown away by its last step, and nobody reads it again (docs/upstream/faust-overlapping-rebalances). Here one loop seeks,
fetches and gives out, never between a revocation and the assignment that follows; after whatever may have disturbed it, it
begins again at the committed offset.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import faust
from aiokafka.errors import ConsumerStoppedError
from faust.tables.manager import TableManager
from faust.transport.drivers import aiokafka as aiokafka_driver
from faust.types import TP
from faust.types.tuples import Message
from mode.types import ServiceT

from pipeline.cancellation import uncancelled
from pipeline.delivery import describe_error
from pipeline.log_order import LogOrder, Step
from pipeline.loop_consumer import COMMIT_S, LoopConsumer
from pipeline.membership import Lease, has_lost_partitions

logger = logging.getLogger(__name__)

Take = Callable[[Message], Awaitable[None]]

_FETCH_S = 1.0
_FETCH_EVERY_S = 0.02  # a fetch costs the same for one record as for all that came meanwhile
_SEEK_AGAIN_S = 1.0
_LOOK_AGAIN_S = 0.1  # while no partition is assigned
_ANSWER_S = 5.0  # for what is only to be said


class LogLostError(Exception):
    """A topic was made anew, or a log has lost its end, while it was read; a new process finds its place in it."""


class StageConsumer(aiokafka_driver.Consumer):
    """Gives each record to the app's `take`, in the order of its partition; a record may come twice, none is left out."""

    _is_rebalancing = False
    _disturbances = 0
    _begun_at = -1  # how many disturbances there had been when it last sought
    _in_hand = False
    _fetched_s = -math.inf  # when the last fetch came back, if it brought records

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - Faust's
        super().__init__(*arguments, **options)
        self._log = LogOrder()
        self.read_from = 0  # where reading stood before the record that is given out: in between there is nothing
        self._lost: set[TP] = set()  # what is acknowledged there belongs to a log that is gone

    @property
    def has_begun(self) -> bool:
        """Whether it has sought to the committed offsets since it was last disturbed."""
        return self._begun_at == self._disturbances

    @property
    def has_given_all(self) -> bool:
        """Whether the app has taken everything that lies before the consumer's positions."""
        return self.has_begun and not self._in_hand

    def hidden(self) -> dict[TP, int]:
        """The partitions of which an open transaction hides records, and its first offset: nobody reads on before it ends."""
        return cast(LoopConsumer, self._thread).hidden()

    def read_again(self) -> None:
        """Begin again at the committed offsets, and give out nothing that was fetched before."""
        self._disturbances += 1

    def forget(self) -> None:
        """Begin again, and commit nothing of what was acknowledged before."""
        self._acked.clear()
        self.read_again()

    def acknowledge(self, place: TP, offset: int) -> None:
        """What Faust's `ack` does, which would have the whole message kept for as long as its offset is held."""
        committed = self._committed_offset[place]
        if committed is None or offset >= committed:
            self._acked[place].append(offset)

    async def commit_all(self) -> None:
        """Commit what is acknowledged; a commit that is under way may know only a part of it."""
        await self.maybe_wait_for_commit_to_finish()
        while await self.commit():
            pass  # what was acknowledged meanwhile

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """A rebalance begins."""
        self._is_rebalancing = True
        self.stop_flow()  # Faust does so only when there are partitions
        if not has_lost_partitions(cast(StageApp, self.app)):
            await self.commit_all()  # Faust forgets what is acknowledged and not committed
        if self.app.should_stop:
            await asyncio.Event().wait()  # the work in hand has yet to end; then the member leaves, which ends this
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """It is decided."""
        self._is_rebalancing = False
        self.read_again()
        await super().on_partitions_assigned(assigned, generation_id)

    def stop_flow(self) -> None:
        """Give out nothing more."""
        self.read_again()
        super().stop_flow()

    def resume_flow(self) -> None:
        """Give out records; not when another rebalance has begun since the one that ends here: its end comes too."""
        if not self._is_rebalancing:
            self.read_again()
            super().resume_flow()

    async def perform_seek(self) -> None:
        """Not here, where records may be on their way: the loop seeks before it fetches more."""
        self.read_again()

    async def verify_all_partitions_active(self) -> None:
        """Nothing: Faust would look every second for partitions that stand still, as ours do that are held on purpose."""

    async def _drain_messages(self, fetcher: ServiceT) -> None:
        self.read_again()
        try:
            while not (self.should_stop or fetcher.should_stop):
                if not self.flow_active:
                    await self.wait(cast(Any, self.can_resume_flow))
                elif not self.has_begun:
                    await self._begin()
                else:
                    await self._read()
        except (asyncio.CancelledError, ConsumerStoppedError):
            if not self.app.should_stop:
                raise
        except LogLostError as error:
            logger.critical("group %s cannot go on: %s; the process ends, start it again", self.app.conf.id, error)
            asyncio.ensure_future(self.app.crash(error))  # noqa: RUF006 - ends with the app

    async def _begin(self) -> None:
        """Seek to the committed offsets; in vain when there was a disturbance meanwhile."""
        disturbances = self._disturbances
        try:
            await self._seek_to_committed()
        except Exception as error:  # noqa: BLE001 - a rebalance has begun, or the broker is away: both pass
            if disturbances == self._disturbances:
                logger.warning(
                    "group %s reads nothing: it cannot seek to its committed offsets, and tries again until it works: %s",
                    self.app.conf.id,
                    describe_error(error),
                )
                await self.sleep(_SEEK_AGAIN_S)
        else:
            self._begun_at = disturbances

    async def _seek_to_committed(self) -> None:
        if not self.assignment():
            return
        committed = {TP(*place): offset or None for place, offset in (await self.seek_to_committed()).items()}
        self._committed_offset.update(committed)
        # Where nothing is committed aiokafka does not seek. Held receipts make that the usual case.
        fresh = [place for place, offset in committed.items() if offset is None]
        earliest = await self.earliest_offsets(*fresh) if fresh else {}
        if fresh:
            await self.seek_wait(earliest)
        cast(LoopConsumer, self._thread).let_go()
        self._log.begin({place: earliest[place] if offset is None else offset for place, offset in committed.items()})

    async def _read(self) -> None:
        await asyncio.sleep(self._fetched_s + _FETCH_EVERY_S - time.monotonic())
        if not self.has_begun:
            return
        places = self._get_active_partitions()
        if not places:
            await self.sleep(_LOOK_AGAIN_S)
            return
        records = await self._getmany(active_partitions=places, timeout=_FETCH_S)
        self._fetched_s = time.monotonic() if records else -math.inf
        self._in_hand = True
        for place, record in self.scheduler.iterate(records):
            if self.has_begun:
                await self._look(place, record.offset)
            if not self.has_begun or self.should_stop:
                break
            await cast(StageApp, self.app).take(self._to_message(place, record))
        self._in_hand = False

    async def _look(self, place: TP, offset: int) -> None:
        """Say what has become of the log. Raises LogLostError where it begins anew under our hands."""
        expected = self._log.next.get(place, offset)
        self.read_from = min(expected, offset)
        match self._log.step(place, offset):
            case Step.SKIPS:
                await self._look_for_deleted(place, expected)
            case Step.BEFORE_COMMITTED:
                logger.error(
                    "group %s had dealt with %s/%d up to offset %d, which is not there any more: the topic was made anew, or "
                    "has lost its end; it is read from offset %d",
                    *(self.app.conf.id, *place, expected, offset),
                )
                await self._move_back(place, offset)
            case Step.BEGINS_ANEW:
                self._lost.add(place)
                await self._move_back(place, offset)
                raise LogLostError(f"{place.topic}/{place.partition} begins anew at offset {offset}, behind {expected - 1}")

    async def _move_back(self, place: TP, offset: int) -> None:
        """Commit the log's begin, or a successor would leave out what lies before the offset that is committed."""
        await self.maybe_wait_for_commit_to_finish()
        self._committed_offset[place] = None  # nothing is acknowledged before it
        if not await self._commit_offsets({place: offset}):
            self.read_again()

    async def _look_for_deleted(self, place: TP, expected: int) -> None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                first = (await uncancelled(self.earliest_offsets(place)))[place]
        except Exception as error:  # noqa: BLE001 - it would only be said
            logger.warning("cannot tell whether records of %s/%d were deleted: %s", *place, describe_error(error))
            return
        if first > expected:
            logger.error(
                "group %s: offsets %d to %d of %s/%d were deleted before the group had committed them; what it had not dealt "
                "with is lost: keep them longer (retention.ms), or start more workers",
                *(self.app.conf.id, expected, first - 1, *place),
            )

    def _new_offset(self, tp: TP) -> int | None:
        """The offset to commit: the window acknowledges in order, and only what nothing unfinished lies before."""
        acknowledged = self._acked[tp]
        if not acknowledged or tp in self._lost:
            return None
        newest = max(acknowledged)
        acknowledged.clear()
        return int(newest) + 1

    async def _commit_offsets(self, offsets: Mapping[TP, int], start_new_transaction: bool = True) -> bool:  # noqa: ARG002
        """Faust's own takes a commit that failed for a good one, and then ignores whatever is acknowledged before it."""
        disturbances = self._disturbances
        try:
            committed = await self._commit(offsets)
        except TimeoutError:
            logger.warning("group %s: Kafka took no commit for %g s, trying again", self.app.conf.id, COMMIT_S)
            if disturbances == self._disturbances:
                for place, offset in offsets.items():
                    self._acked[place].append(offset - 1)
            return False
        if not committed:
            return False  # a rebalance is under way, behind which all of it comes again
        if disturbances == self._disturbances:  # otherwise the loop asks for what is committed
            self._committed_offset.update(offsets)
        return True

    def _new_consumer_thread(self) -> LoopConsumer:
        return LoopConsumer(self, beacon=self.beacon)


class _Transport(aiokafka_driver.Transport):
    Consumer = StageConsumer


class NoTables(TableManager):
    """What Faust begins and ends rebalances with, where there are no tables: its own waits a second at the start for some."""

    async def on_start(self) -> None:
        """Begin."""
        await self._update_channels()
        if not self.should_stop:
            await self.recovery.start()


class StageApp(faust.App):
    """A Faust app without streams: its consumer gives each record to `take`, and it knows whether its group counts it in."""

    lease: Lease
    take: Take

    def _new_transport(self) -> _Transport:
        return _Transport(self.conf.broker_consumer, self)

    def _on_rebalance_when_stopped(self) -> None:
        """Nothing: Faust would close the consumer, under work that has yet to end and be committed."""

    def _create_directories(self) -> None:
        """None: they would be for tables."""
