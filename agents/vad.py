"""Voice activity detection: `media` in, utterances out on `speech`, and the task's states on `results`.

It meets every call first, so it publishes the `pending` of the call's tasks before the call's first `speech` record.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import msgspec

from pipeline.audio.assembly import CallAssembler, Taken
from pipeline.audio.listener import CallListener, HeardUtterance
from pipeline.audio.segments import SegmentLog
from pipeline.audio.vad import VoiceActivityDetector
from pipeline.delivery import Receipt
from pipeline.models.manifest import Role, load_manifest
from pipeline.models.registry import fetch
from pipeline.models.silero import SileroVad
from pipeline.options import OptionsError, known_tasks, read_options
from pipeline.records import DeadLetterError, OutgoingRecord, Record, call_id_of, read_media
from pipeline.settings import Settings
from pipeline.stage import Frame, Stage
from pipeline.transitions import TaskLog, derived_correlation_id, failed, rejected
from schemas.errors import DeadLetterType, ErrorDetail
from schemas.media import CallOptions, Header, MediaChunk
from schemas.results import VadResult
from schemas.stream import CallBegin, CallEnd, Fault, SpeechRecord, Utterance
from schemas.tasks import Technology

P = ParamSpec("P")
T = TypeVar("T")

_VAD = Technology.VOICE_ACTIVITY_DETECTION
_REMEMBERED_CALLS = 20_000  # ended calls whose repeated chunks are still known
_MSGPACK = msgspec.msgpack.Encoder()


def load_silero(settings: Settings) -> SileroVad:
    """The accurate detector of the settings, fetched when it is not there. Raises ModelError."""
    manifest = load_manifest(settings.manifest_path)
    name = manifest.chosen(Role.VAD).name
    return SileroVad(fetch(settings.cache_dir, [name], manifest=manifest)[name][0])


class _Call:
    """One call in progress. Its receipts are held until it has ended: a successor reads it again from its begin."""

    def __init__(self, call_id: str, settings: Settings) -> None:
        self.call_id = call_id
        self.assembler: CallAssembler[Record] = CallAssembler(
            settings.reorder_window_s, settings.max_gap_s, settings.max_call_s
        )
        self.correlation_id = derived_correlation_id(call_id)
        self.listener: CallListener | None = None
        self.log: TaskLog | None = None
        self.segments: SegmentLog | None = None
        self.receipts: list[Receipt] = []
        self.place = ("", 0)
        self.last_timestamp_s = 0.0
        self.last_arrival_s = time.monotonic()
        self.last_source = ""

    def arrived(self, record: Record, receipt: Receipt) -> None:
        """Note a record of this call."""
        self.receipts.append(receipt)
        self.place = (record.topic, record.partition)
        self.last_timestamp_s = max(self.last_timestamp_s, record.timestamp_s)
        self.last_arrival_s = time.monotonic()
        self.last_source = record.source

    def patience_s(self, settings: Settings) -> float:
        """How long to wait for its next record: behind its end only the chunks that are missing may come."""
        return settings.reorder_window_s if self.assembler.end_seen else settings.idle_timeout_s

    def release(self) -> None:
        """Give back what was held."""
        for receipt in self.receipts:
            receipt.release()
        self.receipts.clear()


class VadStage:
    """Hears calls."""

    name = "vad"
    topics: tuple[str, ...] = ("media",)

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._calls: dict[str, _Call] = {}
        self._ended: OrderedDict[str, CallAssembler[Record]] = OrderedDict()

    async def start(self, frame: Frame) -> None:
        """Load silero."""
        self._frame = frame
        self._silero = await asyncio.to_thread(load_silero, self._settings)
        self._pool = ThreadPoolExecutor(self._settings.inference_threads, thread_name_prefix="vad")

    async def stop(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def forget(self) -> None:
        """Drop all open calls; those that have ended stay known, so that no chunk of theirs begins them anew."""
        self._calls.clear()

    async def process(self, record: Record, receipt: Receipt) -> None:
        """Take one chunk."""
        chunk = read_media(record)
        if chunk.call_id not in self._ended:
            await self._end_if_gap_in_time(chunk, record)
        if ended := self._ended.get(chunk.call_id):
            await self._bury_rejected(ended.put(chunk, record))
            receipt.release()
            return
        call = self._calls.get(chunk.call_id)
        if call is None:
            call = self._calls[chunk.call_id] = _Call(chunk.call_id, self._settings)
        call.arrived(record, receipt)
        await self._take(call, chunk, record)

    async def _end_if_gap_in_time(self, chunk: MediaChunk, record: Record) -> None:
        call = self._calls.get(chunk.call_id)
        if call is not None and record.timestamp_s - call.last_timestamp_s >= call.patience_s(self._settings):
            await self._end(call, call.assembler.finish(), call.last_source)

    async def _take(self, call: _Call, chunk: MediaChunk, record: Record) -> None:
        if chunk.sequence == 0 and call.listener is None:
            call.correlation_id = record.text(Header.CORRELATION_ID) or call.correlation_id
            try:
                read_options(chunk.options)
            except OptionsError as error:
                await self._reject(call, record, error)
                return
        taken = call.assembler.put(chunk, record)
        if call.assembler.ended:
            await self._end(call, taken, record.source)
        else:
            await self._advance(call, taken, record.source)
        if not chunk.audio and not chunk.end:
            # Its place in the call is known to hold nothing, so nothing is missing; but it breaks the rules.
            await self._frame.bury(record, DeadLetterType.CHUNK_EMPTY, "the chunk is empty and not the call's end")

    async def _advance(self, call: _Call, taken: Taken[Record], source: str) -> None:
        await self._bury_rejected(taken)
        if call.listener is None and call.assembler.format is not None:
            await self._begin(call, source)
        if call.listener is not None and taken.audio:
            heard = await self._compute(call.listener.feed, taken.audio)
            await self._publish_heard(call, heard, source)

    async def _begin(self, call: _Call, source: str) -> None:
        audio_format = call.assembler.format
        assert audio_format is not None
        options = read_options(call.assembler.options)
        call.correlation_id = options.correlation_id or call.correlation_id
        call.listener = CallListener(audio_format, lambda rate_hz: VoiceActivityDetector(rate_hz, self._silero))
        call.segments = SegmentLog(audio_format, call.listener.rate_hz)
        await self._publish([log.pending(source) for log in self._logs(call, options)])
        if _VAD in known_tasks(options):
            call.log = TaskLog.of_call(_VAD, call.call_id, call.correlation_id, first_revision=1)
            await self._publish([call.log.running(source)])
        begin = CallBegin(call.call_id, audio_format.channels, options, call.correlation_id)
        await self._publish([self._speech(call, begin)])

    @staticmethod
    def _logs(call: _Call, options: CallOptions) -> list[TaskLog]:
        return [TaskLog.of_call(technology, call.call_id, call.correlation_id) for technology in known_tasks(options)]

    async def _publish_heard(self, call: _Call, heard: Sequence[HeardUtterance], source: str) -> None:
        assert call.segments is not None
        assert call.listener is not None
        for one in heard:
            call.segments.add(one.channel, one.span)
            span, audio = one.span, one.audio.astype("<i2").tobytes()
            utterance = Utterance(call.call_id, one.channel, span.start_sample, span.end_sample, call.listener.rate_hz, audio)
            records = [self._speech(call, utterance)]
            if call.log is not None:
                records.append(call.log.running(source, call.segments.result(call.assembler.missing_bytes, span.end_sample)))
            await self._publish(records)

    async def _end(self, call: _Call, taken: Taken[Record], source: str) -> None:
        await self._advance(call, taken, source)
        if call.listener is not None and call.segments is not None:
            await self._publish_heard(call, await self._compute(call.listener.finish), source)
            result = call.segments.result(call.assembler.missing_bytes)
            await self._publish_end(call, result, source)
        self._close(call)

    async def _publish_end(self, call: _Call, result: VadResult, source: str) -> None:
        records = [self._speech(call, CallEnd(call.call_id, len(result.channels)))]
        if call.log is not None:
            records.append(call.log.done(source, result, self._settings.data_dir))
        await self._publish(records)

    async def _reject(self, call: _Call, record: Record, error: OptionsError) -> None:
        """Reject the tasks of a call that asks for what cannot be; its other chunks belong to rejected tasks."""
        await self._frame.bury(record, DeadLetterType.OPTIONS_INVALID, str(error))
        fault = rejected([ErrorDetail(["options"], str(error), "options.invalid")])
        for technology in error.technologies:
            log = TaskLog.of_call(technology, call.call_id, call.correlation_id)
            await self._publish([log.pending(record.source), log.running(record.source), log.ended(record.source, fault)])
        call.assembler.abandon()
        self._close(call)

    def _close(self, call: _Call) -> None:
        self._calls.pop(call.call_id, None)
        self._ended[call.call_id] = call.assembler
        if len(self._ended) > _REMEMBERED_CALLS:
            self._ended.popitem(last=False)
        call.release()

    async def fail(self, record: Record, message: str) -> None:
        """Fail the call that this record belongs to."""
        try:
            call = self._calls.get(call_id_of(record))
        except DeadLetterError:
            return
        if call is None:
            return
        if call.listener is not None:
            records = [self._speech(call, Fault(call.call_id, message))]
            if call.log is not None:
                records.append(call.log.ended(record.source, failed(message)))
            await self._publish(records)
        call.assembler.abandon()
        self._close(call)

    async def tick(self) -> None:
        """End the calls that sent nothing for too long."""
        now_s = time.monotonic()
        idle = [call for call in self._calls.values() if now_s - call.last_arrival_s >= call.patience_s(self._settings)]
        caught_up = {place: await self._frame.is_caught_up(*place) for place in {call.place for call in idle}}
        for call in idle:
            if caught_up[call.place]:
                await self._end_unless_heard(call, call.last_arrival_s)

    async def _end_unless_heard(self, call: _Call, arrival_s: float) -> None:

        async def end() -> None:
            if self._calls.get(call.call_id) is call and call.last_arrival_s == arrival_s:
                await self._end(call, call.assembler.finish(), call.last_source)

        await self._frame.submit(call.call_id.encode(), end)

    async def _bury_rejected(self, taken: Taken[Record]) -> None:
        for one in taken.rejected:
            await self._frame.bury(one.origin, one.type, one.message)

    async def _publish(self, records: Sequence[OutgoingRecord]) -> None:
        await self._frame.publisher.publish(records)

    @staticmethod
    def _speech(call: _Call, record: SpeechRecord) -> OutgoingRecord:
        return OutgoingRecord("speech", call.call_id.encode(), _MSGPACK.encode(record))

    async def _compute(self, function: Callable[P, T], *arguments: P.args, **_: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


def stages(settings: Settings) -> Sequence[Stage]:
    """The stages of this agent."""
    return [VadStage(settings)]
