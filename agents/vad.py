"""Voice activity detection: `media` in, utterances out on `speech`, and the task's states on `results`.

It meets every call first, so it publishes the `pending` of the call's tasks before the call's first `speech` record. Every 16 s
of a call it saves where it stands on `snapshots`, and lets go of the chunks before; a successor goes on from there.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from agents.vad_call import VadCall, late
from pipeline.audio.assembly import EMPTY, Taken
from pipeline.audio.listener import CallListener, GridPoint, Heard
from pipeline.delivery import Receipt, describe_error
from pipeline.ended_calls import EndedCalls
from pipeline.inference_pool import inference_pool
from pipeline.models.detector import load_vad
from pipeline.options import OptionsError, check_channels, read_options, read_options_again
from pipeline.publishing import RecordTooLargeError
from pipeline.records import DeadLetterError, OutgoingRecord, Record, call_id_of, correlation_id_of, is_empty_chunk, read_media
from pipeline.settings import Settings
from pipeline.snapshots import SavedCalls, ended_records, snapshot_record
from pipeline.spoken import SpokenIndex
from pipeline.stage import Frame, Stage, check_exhaustion
from pipeline.transitions import TaskLog, failed, rejected
from schemas.errors import DeadLetterType, ErrorDetail
from schemas.media import MediaChunk
from schemas.stream import CallEnded, CallSnapshot

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class VadStage:
    """Hears calls."""

    name = "vad"
    topics: tuple[str, ...] = ("media",)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._saved = SavedCalls(settings)
        self._spoken = SpokenIndex(self._saved)
        self._calls: dict[str, VadCall] = {}
        self._ended = EndedCalls()

    async def start(self, frame: Frame) -> None:
        """Load silero."""
        self._frame = frame
        self._silero = await asyncio.to_thread(load_vad, self._settings.cache_dir, self._settings.manifest_path)
        self._pool = inference_pool(self._settings.inference_threads, "vad")

    async def stop(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def forget(self) -> None:
        """Drop all open calls; those that have ended stay known, so that no chunk of theirs begins them anew."""
        self._saved.forget()
        self._spoken.forget()
        self._calls.clear()

    async def process(self, record: Record, receipt: Receipt) -> None:
        """Take one chunk."""
        chunk = read_media(record)
        await self._recall(chunk.call_id, record)
        if chunk.call_id not in self._ended:
            self._check_place(chunk.call_id, record)
            await self._end_if_gap_in_time(chunk, record)
        if ended := self._ended.get(chunk.call_id):
            for one in late(ended, chunk, record, self._settings):
                await self._frame.bury(record, one.type, one.message)
            receipt.release()
            return
        call = self._calls.get(chunk.call_id)
        if call is None:
            place = (record.topic, record.partition)
            call = self._calls[chunk.call_id] = VadCall(chunk.call_id, self._settings, self._silero, place)
        call.arrived(chunk.sequence, record, receipt)
        if chunk.abort is None:
            await self._take(call, chunk, record)
        else:
            await self._abort(call, chunk, record, chunk.abort)

    async def _recall(self, call_id: str, record: Record) -> None:
        """A call that was saved, by this worker or the one before it, goes on where it was."""
        if call_id in self._calls or call_id in self._ended:
            return
        said = await self._spoken.of_call(call_id, record)  # reads the snapshots; a call is taken from them only behind that
        saved = await self._saved.of_call(call_id, record)
        if isinstance(saved, CallEnded):
            self._ended.add(saved)
        elif saved is not None:
            place = (record.topic, record.partition)
            call = self._calls[call_id] = VadCall(call_id, self._settings, self._silero, place, said)
            call.is_opened = True
            if isinstance(saved, CallSnapshot):
                call.restore(saved)

    def _check_place(self, call_id: str, record: Record) -> None:
        """Raises DeadLetterError for a chunk from another partition: its worker may be another one tomorrow, or is by now."""
        call = self._calls.get(call_id)
        if call is not None and call.place[1] != record.partition:
            where = f"the call is in partition {call.place[1]}, and this chunk is in {record.partition}"
            raise DeadLetterError(
                DeadLetterType.PARTITION_CHANGED, f"{where}: its producers choose partitions in different ways"
            )

    async def _end_if_gap_in_time(self, chunk: MediaChunk, record: Record) -> None:
        call = self._calls.get(chunk.call_id)
        if call is not None and call.last_timestamp_s and record.timestamp_s - call.last_timestamp_s >= call.patience_s:
            await self._give_up(call)

    async def _take(self, call: VadCall, chunk: MediaChunk, record: Record) -> None:
        if chunk.sequence == 0 and call.listener is None:
            call.correlation_id = correlation_id_of(record) or call.correlation_id
            try:
                if call.is_opened:  # it was followed before, by this version's rules or another's
                    read_options_again(chunk.options)
                else:
                    check_channels(read_options(chunk.options), chunk.format.channels)
            except OptionsError as error:
                await self._reject(call, record, error)
                return
        if not chunk.audio and not chunk.end:
            # Its place in the call is known to hold nothing, so nothing is missing; but it breaks the rules.
            await self._frame.bury(record, *EMPTY)
        taken = call.assembler.put(chunk, record)
        if call.assembler.ended:
            await self._end(call, taken, record.source)
        else:
            await self._advance(call, taken, record.source)
            if drafts := call.drafts():
                with contextlib.suppress(RecordTooLargeError):  # nothing depends on them
                    await self._publish(drafts)

    async def _advance(self, call: VadCall, taken: Taken[Record], source: str) -> None:
        for one in taken.rejected:
            if not is_empty_chunk(one.origin):  # those were buried as they came
                await self._frame.bury(one.origin, one.type, one.message)
        if call.listener is None and call.assembler.format is not None:
            await self._publish(call.opened_records(self._spoken.end(call.place[1])))
            await self._publish(call.begin(source))
        if call.listener is not None and taken.audio:
            await self._publish_heard(call, await self._hear(call, call.listener, taken.audio), source)

    async def _hear(self, call: VadCall, listener: CallListener, audio: bytes) -> Sequence[Heard]:
        """A chunk of a live call is heard here and now: to hand it to a thread and back would take longer than to hear it."""
        if not call.options.is_file and len(audio) <= listener.format.bytes_per_s:
            return listener.feed(audio)
        return await self._compute(listener.feed, audio)

    async def _publish_heard(self, call: VadCall, heard: Sequence[Heard], source: str) -> None:
        for one in heard:
            if isinstance(one, GridPoint):
                await self._save(call, one)
            else:
                await self._publish_utterance(call.utterance(one, source))

    async def _save(self, call: VadCall, point: GridPoint) -> None:
        saved = call.snapshot(point, self._spoken.end(call.place[1]))
        try:
            await self._publish([snapshot_record(saved, call.place[1])])
        except RecordTooLargeError as error:
            if not call.is_too_large:  # every 16 s from now on
                logger.warning("call %s: no snapshot any more, %s; a takeover goes on from the last one", call.call_id, error)
            call.is_too_large = True
            return  # its chunks are kept, so nothing is lost
        call.release(saved.assembly.next_sequence)

    async def _end(self, call: VadCall, taken: Taken[Record], source: str) -> None:
        await self._advance(call, taken, source)
        if call.listener is not None:
            await self._publish_heard(call, await self._compute(call.listener.finish), source)
            await self._publish(await call.end(source))
        await self._close(call)

    async def _give_up(self, call: VadCall) -> None:
        """Nothing comes any more. A file would be known by half, and nothing in its result would say so."""
        if call.options.is_file and not call.assembler.end_seen:
            message = f"the rest of the file did not come within {call.patience_s / 3600:g} h"
            await self._fail(call, call.last_source, message)
        else:
            await self._end(call, call.assembler.finish(), call.last_source)

    async def _abort(self, call: VadCall, chunk: MediaChunk, record: Record, why: ErrorDetail) -> None:
        """The producer cannot go on. What had begun fails, whatever it is; what had not may be rejected."""
        if call.has_begun:
            await self._fail(call, record.source, why.message)
            return
        try:
            call.options = read_options(chunk.options)
        except OptionsError as error:
            await self._reject(call, record, error)
            return
        call.correlation_id = call.options.correlation_id or correlation_id_of(record) or call.correlation_id
        await self._publish(call.refused(record.source, failed(why.message) if why.type == "internal" else rejected([why])))
        call.assembler.abandon()
        await self._close(call)

    async def _reject(self, call: VadCall, record: Record, error: OptionsError) -> None:
        """Reject the tasks of a call that asks for what cannot be; its other chunks belong to rejected tasks."""
        await self._frame.bury(record, DeadLetterType.OPTIONS_INVALID, str(error))
        fault = rejected([ErrorDetail(error.location, str(error), error.type)])
        named = error.named
        for technology in named.technologies:
            correlation_id = named.correlation_id or call.correlation_id
            log = TaskLog.of_call(technology, call.call_id, correlation_id, request_id=named.request_id, owner=named.owner)
            await self._publish([log.pending(record.source), log.running(record.source), log.ended(record.source, fault)])
        call.assembler.abandon()
        await self._close(call)

    async def _close(self, call: VadCall) -> None:
        if not call.is_opened and not call.assembler.abandoned:
            # All that came was turned away, and nothing was said of it: what comes yet begins the call.
            self._calls.pop(call.call_id, None)
            call.release()
            return
        ended = call.ended_state()
        try:
            await self._publish(ended_records(ended, call.place[1]))
        except RecordTooLargeError:  # what was lost came in very many pieces; one that comes yet is no dead letter, then
            ended = CallEnded(ended.call_id, ended.next_sequence, [])
            await self._publish(ended_records(ended, call.place[1]))
        self._calls.pop(call.call_id, None)
        self._ended.add(ended)
        call.release()

    async def fail(self, record: Record, message: str) -> None:
        """Fail the call that this record belongs to."""
        try:
            call = self._calls.get(call_id_of(record))
        except DeadLetterError:
            return
        if call is not None:
            await self._fail(call, record.source, message)

    async def _fail(self, call: VadCall, source: str, message: str) -> None:
        await self._publish(call.fail(source, message))
        call.assembler.abandon()
        await self._close(call)

    async def tick(self) -> None:
        """End the calls that sent nothing for too long, though they could."""
        waiting = [call for call in self._calls.values() if not call.is_ending]  # an end may wait for Kafka or for a disk
        idle = [call for call in waiting if self._has_waited(call)]
        caught_up = {place: await self._frame.is_caught_up(*place) for place in {call.place for call in idle}}
        for call in idle:
            if caught_up[call.place] and self._has_waited(call):  # Kafka may have come back while it was asked
                await self._end_unless_heard(call, call.last_arrival_s)

    def _has_waited(self, call: VadCall) -> bool:
        since_s = call.last_arrival_s
        if not call.options.is_file:  # a file's patience is a day, as that of the agents behind is
            since_s = max(since_s, self._frame.answering_since_s(*call.place))
        return time.monotonic() - since_s >= call.patience_s

    async def _end_unless_heard(self, call: VadCall, arrival_s: float) -> None:
        async def end() -> None:
            call.is_ending = False
            if self._calls.get(call.call_id) is not call or call.last_arrival_s != arrival_s:
                return
            call.is_ending = True
            try:
                await self._give_up(call)
            except Exception as error:
                check_exhaustion(error)
                logger.exception("call %s cannot be ended", call.call_id)
                await self._fail(call, call.last_source, describe_error(error))

        call.is_ending = True
        await self._frame.submit(call.call_id.encode(), end)

    async def _publish(self, records: Sequence[OutgoingRecord]) -> None:
        self._note(records, await self._frame.publisher.publish(records))

    async def _publish_utterance(self, records: Sequence[OutgoingRecord]) -> None:
        """The utterance and its partial result: a successor says what is not on `speech`, and every partial result again."""
        self._note(records, await self._frame.publisher.publish_side_by_side(records))

    def _note(self, records: Sequence[OutgoingRecord], offsets: Sequence[int]) -> None:
        for record, offset in zip(records, offsets, strict=True):
            if record.topic == "speech" and record.partition is not None:
                self._spoken.advance(record.partition, offset)

    async def _compute(self, function: Callable[P, T], *arguments: P.args, **_: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


def stages(settings: Settings) -> Sequence[Stage]:
    """The stages of this agent."""
    return [VadStage(settings)]
