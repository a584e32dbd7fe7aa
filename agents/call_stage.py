"""What the agents behind extraction share: a call's prints are added up, each addition is a partial result, the end a result.

Speech and prints may come twice (at-least-once delivery); a print counts once, and a call that was ended stays ended.
"""

import asyncio
import contextlib
import logging
import math
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Generic, TypeVar

import msgspec

from agents.vad_call import FILE_PATIENCE_S
from pipeline.blobs import open_blobs
from pipeline.delivery import Receipt
from pipeline.options import known_tasks
from pipeline.records import UNDECODABLE, DeadLetterError, OutgoingRecord, Record
from pipeline.scoring.voiceprint import VoiceprintSum, unpack
from pipeline.settings import Settings
from pipeline.stage import Frame
from pipeline.storing import done
from pipeline.transitions import TaskLog, failed
from schemas.errors import DeadLetterType, TaskError
from schemas.media import MAX_CHANNELS
from schemas.stream import CallBegin, CallEnd, Fault, Print, PrintRecord
from schemas.tasks import Technology

logger = logging.getLogger(__name__)

Evidence = TypeVar("Evidence")

_DECODER: msgspec.msgpack.Decoder[PrintRecord] = msgspec.msgpack.Decoder(PrintRecord)
_REMEMBERED_CALLS = 20_000
_LATE_END_S = 600.0


def longest_silence_s(settings: Settings) -> float:
    """How long an open call may say nothing; who is silent for longer has ended, and only its begin came again, late."""
    return max(settings.max_call_s, FILE_PATIENCE_S) + _LATE_END_S


def warn_of_late_begin(stage: str, call_id: str) -> None:
    """Say that a call is let go of."""
    logger.warning(
        "agent %s: call %s has said nothing for longer than a call can last, so it has ended and its begin came again "
        "behind that; its offset is given back, nothing is to be done",
        stage,
        call_id,
    )


class CallInWork(Generic[Evidence]):
    """One call. Its receipts are held to its end, also when its task is final before: a successor adds it up from its begin."""

    def __init__(self, begin: CallBegin, log: TaskLog, evidence: Evidence) -> None:
        self.begin = begin
        self.log = log
        self.evidence = evidence
        self.seen: set[tuple[int, int]] = set()
        self.is_decided = False  # its task is final before the call has ended
        self.receipts: list[Receipt] = []
        self.last_s = math.inf  # when its last record was dealt with; that may wait for a disk or for Kafka as long as it takes


class CallStage(ABC, Generic[Evidence]):
    """One technology over a call's prints; subclasses say what evidence is and what follows from it."""

    name: str
    technology: Technology
    topics: tuple[str, ...] = ("prints",)

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._calls: dict[str, CallInWork[Evidence]] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()

    @abstractmethod
    def new_evidence(self, begin: CallBegin) -> Evidence:
        """What is known before the first print."""

    @abstractmethod
    def add(self, evidence: Evidence, heard: Print) -> bool:
        """Add an utterance; whether anything of it was wanted for this technology."""

    @abstractmethod
    def result(self, begin: CallBegin, evidence: Evidence) -> msgspec.Struct:
        """The result by now."""

    def takes_long(self, evidence: Evidence) -> bool:
        """Whether a result takes so long that other calls must not wait for it; a thread costs 0.15 ms."""
        return False

    def is_sure(self, begin: CallBegin, evidence: Evidence) -> bool:
        """Whether the result by now will do, so that the task ends before its call; prints by now alone decide."""
        return False

    async def prepare(self, begin: CallBegin, record: Record) -> None:
        """Get what the call needs, before anything is said of it."""

    def rejection(self, begin: CallBegin) -> TaskError | None:
        """Why the task cannot be done as it was asked for, if it cannot."""
        return None

    def opening(self, begin: CallBegin, source: str) -> tuple[TaskLog, list[OutgoingRecord]] | None:
        """The log of this call's task, and what to publish before it runs; None when it was not asked for."""
        if self.technology not in known_tasks(begin.options):
            return None
        return self._task_log(begin, first_revision=1), []

    def _task_log(self, begin: CallBegin, first_revision: int = 0) -> TaskLog:
        return TaskLog.of_call(
            self.technology,
            begin.call_id,
            begin.correlation_id,
            first_revision=first_revision,
            request_id=begin.options.request_id,
            owner=begin.options.owner,
        )

    async def start(self, frame: Frame) -> None:
        """Get ready."""
        self.frame, self.publisher = frame, frame.publisher

    async def stop(self) -> None:
        """Nothing to let go of."""

    async def tick(self) -> None:
        """Let go of calls whose end will not come."""
        since_s = time.monotonic() - longest_silence_s(self.settings)
        for call in [call for call in self._calls.values() if call.last_s < since_s]:
            warn_of_late_begin(self.name, call.begin.call_id)
            self._let_go(call)

    def forget(self) -> None:
        """Drop all open calls; those of which this task is final stay known."""
        self._calls.clear()

    async def process(self, record: Record, receipt: Receipt) -> None:
        """Take one record of a call."""
        heard = _decode(record)
        call = self._calls.get(heard.call_id)
        if call is not None:
            call.receipts.append(receipt)
            call.last_s = math.inf
            await self._go_on(call, heard, record.source)
        elif isinstance(heard, CallBegin) and heard.call_id not in self._ended:
            await self.prepare(heard, record)
            await self.begin(heard, record.source, receipt)
        else:
            receipt.release()  # a call of which this task is final, or was not asked for
        if (call := self._calls.get(heard.call_id)) is not None:
            call.last_s = time.monotonic()

    async def begin(self, begin: CallBegin, source: str, receipt: Receipt) -> None:
        """Open the call, unless its task was not asked for."""
        opening = self.opening(begin, source)
        if opening is None:
            receipt.release()
            return
        log, records = opening
        call = self._calls[begin.call_id] = CallInWork(begin, log, self.new_evidence(begin))
        call.receipts.append(receipt)
        await self.publisher.publish([*records, log.running(source)])
        if (error := self.rejection(begin)) is not None:
            await self._close(call, log.ended(source, error))

    async def _go_on(self, call: CallInWork[Evidence], heard: PrintRecord, source: str) -> None:
        match heard:
            case Print():
                await self._add(call, heard, source)
            case CallEnd() | Fault() if call.is_decided:
                self._let_go(call)
            case CallEnd():
                await self._publish_result(call, source)
                self._let_go(call)
            case Fault():
                await self._close(call, call.log.ended(source, failed(heard.message)))
            case CallBegin():
                pass  # its agent began anew and repeats what it said

    async def _add(self, call: CallInWork[Evidence], heard: Print, source: str) -> None:
        utterance = (heard.channel, heard.start_sample)
        if call.is_decided or utterance in call.seen:
            return
        call.seen.add(utterance)
        if not self.add(call.evidence, heard):
            return
        if self.is_sure(call.begin, call.evidence):
            await self._publish_result(call, source)
            call.is_decided = True
            return
        await self.publisher.publish([call.log.running(source, await self._result(call))])

    async def _result(self, call: CallInWork[Evidence]) -> msgspec.Struct:
        if self.takes_long(call.evidence):
            return await asyncio.to_thread(self.result, call.begin, call.evidence)
        return self.result(call.begin, call.evidence)

    async def _publish_result(self, call: CallInWork[Evidence], source: str) -> None:
        result = await self._result(call)
        await self.publisher.publish([await done(call.log, source, result, open_blobs(self.settings))])

    async def _close(self, call: CallInWork[Evidence], final: OutgoingRecord) -> None:
        await self.publisher.publish([final])
        self._let_go(call)

    def _let_go(self, call: CallInWork[Evidence]) -> None:
        self._remember(call.begin.call_id)
        for receipt in call.receipts:
            receipt.release()

    def _remember(self, call_id: str) -> None:
        self._calls.pop(call_id, None)
        self._ended[call_id] = None
        if len(self._ended) > _REMEMBERED_CALLS:
            self._ended.popitem(last=False)

    async def fail(self, record: Record, message: str) -> None:
        """Fail the task of the call that this record belongs to."""
        call = self._calls.get((record.key or b"").decode(errors="replace"))
        if call is None:
            await self._fail_unopened(record, message)
        elif call.is_decided:
            self._let_go(call)
        else:
            await self._close(call, call.log.ended(record.source, failed(message)))

    async def _fail_unopened(self, record: Record, message: str) -> None:
        """The fault met the call's begin: its task is pending, and nobody else would end it."""
        with contextlib.suppress(DeadLetterError):
            begin = _decode(record)
            if (
                isinstance(begin, CallBegin)
                and begin.call_id not in self._ended
                and (opening := self.opening(begin, record.source))
            ):
                log, records = opening
                await self.publisher.publish([*records, log.running(record.source), log.ended(record.source, failed(message))])
                self._remember(begin.call_id)


def add_voiceprint(channels: list[VoiceprintSum], heard: Print) -> bool:
    """Add an utterance's voiceprint to its channel; whether it has one."""
    if heard.voiceprint is None:
        return False
    channels[heard.channel].add(unpack(heard.voiceprint))
    return True


def _decode(record: Record) -> PrintRecord:
    try:
        heard = _DECODER.decode(record.value or b"")
    except UNDECODABLE as error:
        raise DeadLetterError(DeadLetterType.RECORD_INVALID, f"not a prints record: {error}") from None
    if isinstance(heard, CallBegin) and not 1 <= heard.channels <= MAX_CHANNELS:
        # What is kept for each channel would take all memory, and the worker with it, again and again.
        raise DeadLetterError(DeadLetterType.RECORD_INVALID, f"not a prints record: a call of {heard.channels} channels")
    return heard
