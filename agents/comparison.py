"""Voiceprint comparison: a call's channels with the voiceprints given with it and the watch list; and list with list."""

import logging
import math
import time
from collections.abc import Mapping, Sequence

import msgspec

from agents.call_stage import add_voiceprint
from agents.request_stage import RequestStage
from pipeline.delivery import Receipt
from pipeline.options import known_tasks
from pipeline.publishing import RecordTooLargeError
from pipeline.records import OutgoingRecord, Record
from pipeline.scoring.comparison import compare
from pipeline.scoring.enrolled import Enrolled
from pipeline.scoring.profile import load_profile
from pipeline.scoring.voiceprint import Voiceprint, VoiceprintSum
from pipeline.settings import Settings
from pipeline.snapshots import PinnedReferences, snapshot_record
from pipeline.stage import Frame, Stage
from pipeline.start_tasks import ListsError, decode_list, decode_pair
from pipeline.transitions import TaskLog, rejected
from pipeline.watchlist import WatchlistFollower
from schemas.errors import ErrorDetail, TaskError
from schemas.requests import StartTask
from schemas.results import ComparisonResult
from schemas.stream import CallBegin, CallReferences, EnrolledVoices, Print
from schemas.tasks import Technology

logger = logging.getLogger(__name__)

_COMPARISON = Technology.VOICEPRINT_COMPARISON
_FEW_REFERENCES = 100  # about 1 ms
_KEPT_S = 3600.0  # of a day, for which what lies on `snapshots` is there


class CallComparison(msgspec.Struct):
    """A call's sums by channel, and what they are compared with: the watch list is taken as it is when the call begins."""

    channels: list[VoiceprintSum]
    references: Mapping[str, Voiceprint]
    enrolled: Enrolled  # held, so that other calls find it


class ComparisonStage(RequestStage[CallComparison]):
    """How alike voices are."""

    name = "comparison"
    technology = _COMPARISON

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._backend = load_profile(settings.calibration_profile).comparison

    async def start(self, frame: Frame) -> None:
        """Read the watch list to its end before the first record."""
        await super().start(frame)
        self._watchlist = WatchlistFollower(self.settings)
        self._pinned = PinnedReferences(self.settings)
        self._enrolled: dict[str, Enrolled] = {}
        self._too_long: Enrolled | None = None
        self._kept_s: dict[tuple[int, bytes], float] = {}  # lists that were published, by partition
        await self._watchlist.start()

    def forget(self) -> None:
        """Drop all open calls, and what they are compared with."""
        super().forget()
        self._pinned.forget()
        self._enrolled.clear()
        self._kept_s.clear()

    async def prepare(self, begin: CallBegin, record: Record) -> None:
        """The watch list as the call met it first, whoever read the call then."""
        if begin.options.technologies is not None and _COMPARISON not in begin.options.technologies:
            return
        met = await self._pinned.of_call(begin.call_id, record)
        if met is None:
            met = self._pinned.shared(await self._watchlist.now())
            await self._pin(begin.call_id, met, record.partition)
        self._enrolled[begin.call_id] = met

    async def _pin(self, call_id: str, met: Enrolled, partition: int) -> None:
        """Note what the call met. An empty list too: whoever meets the call again may find voices in it by then."""
        if met is self._too_long:
            return
        try:
            await self._keep(met, partition)
        except RecordTooLargeError:
            logger.warning("the watch list is too long to be kept with calls: a replay would take it as it is then")
            self._too_long = met
        else:
            await self.publisher.publish([snapshot_record(CallReferences(call_id, met.digest), partition)])

    async def _keep(self, met: Enrolled, partition: int) -> None:
        """Publish the list before the first call that met it, and now and then again: Kafka deletes what is old."""
        place, now_s = (partition, met.digest), time.monotonic()
        if now_s - self._kept_s.get(place, -math.inf) >= _KEPT_S:
            await self.publisher.publish([snapshot_record(EnrolledVoices(met.digest, met.packed), partition)])
            self._kept_s = {other: at_s for other, at_s in self._kept_s.items() if now_s - at_s < _KEPT_S}
            self._kept_s[place] = now_s

    async def begin(self, begin: CallBegin, source: str, receipt: Receipt) -> None:
        """What the call is compared with is in its evidence from then on."""
        try:
            await super().begin(begin, source, receipt)
        finally:
            self._enrolled.pop(begin.call_id, None)

    async def stop(self) -> None:
        """Stop following the watch list."""
        await self._watchlist.stop()

    def opening(self, begin: CallBegin, source: str) -> tuple[TaskLog, list[OutgoingRecord]] | None:
        """Comparison runs when it was asked for, or when the watch list holds something; then its task begins here."""
        if _COMPARISON in known_tasks(begin.options):
            return super().opening(begin, source)
        met = self._enrolled.get(begin.call_id)
        if begin.options.technologies is not None or met is None or not met.packed:
            return None
        log = self._task_log(begin)
        return log, [log.pending(source)]

    def rejection(self, begin: CallBegin) -> TaskError | None:
        """References that are no voiceprints, or none at all."""
        if not begin.options.compare_with and not self._enrolled[begin.call_id].packed:
            message = "nothing to compare with: compare_with is empty, and so is the watch list"
            return rejected([ErrorDetail(["options", "compare_with"], message, "references.none")])
        try:
            _given(begin)
        except ListsError as error:
            return rejected(error.details)
        return None

    def new_evidence(self, begin: CallBegin) -> CallComparison:
        """A sum for each channel, and the references."""
        enrolled = self._enrolled[begin.call_id]
        given = {} if self.rejection(begin) is not None else _given(begin)
        references = {**given, **enrolled.references} if given else enrolled.references
        return CallComparison([VoiceprintSum() for _ in range(begin.channels)], references, enrolled)

    def add(self, evidence: CallComparison, heard: Print) -> bool:
        """Add an utterance to its channel."""
        return add_voiceprint(evidence.channels, heard)

    def result(self, begin: CallBegin, evidence: CallComparison) -> ComparisonResult:
        """Channels that had speech are columns, references are rows."""
        spoken = [(number, one.merged()) for number, one in enumerate(evidence.channels) if one.speech_s > 0]
        scores = compare([voiceprint for _, voiceprint in spoken], list(evidence.references.values()), self._backend)
        channels = [begin.options.channel_number(number) for number, _ in spoken]
        return ComparisonResult(scores, channels, list(evidence.references))

    def takes_long(self, evidence: CallComparison) -> bool:
        """A long watch list does: 14 ms for 10,000."""
        return len(evidence.references) > _FEW_REFERENCES

    def answer(self, request: StartTask) -> ComparisonResult:
        """Every voiceprint of list a against every one of list b."""
        columns, rows = decode_pair(request)
        return ComparisonResult(compare(columns, rows, self._backend))


def _given(begin: CallBegin) -> dict[str, Voiceprint]:
    given = begin.options.compare_with
    voiceprints = decode_list("compare_with", given) if given else []
    return {f"compare_with/{index}": voiceprint for index, voiceprint in enumerate(voiceprints)}


def stages(settings: Settings) -> Sequence[Stage]:
    """The stages of this agent."""
    return [ComparisonStage(settings)]
