"""Voiceprint comparison: a call's channels with the voiceprints given with it and the watch list; and list with list."""

import logging
from collections.abc import Sequence

import msgspec

from agents.call_stage import add_voiceprint
from agents.request_stage import RequestStage
from pipeline.delivery import Receipt
from pipeline.options import known_tasks
from pipeline.publishing import RecordTooLargeError
from pipeline.records import OutgoingRecord, Record
from pipeline.scoring.comparison import compare
from pipeline.scoring.profile import load_profile
from pipeline.scoring.voiceprint import Voiceprint, VoiceprintSum, pack, unpack
from pipeline.settings import Settings
from pipeline.snapshots import PinnedReferences, snapshot_record
from pipeline.stage import Frame, Stage
from pipeline.start_tasks import ListsError, decode_list, decode_pair
from pipeline.transitions import TaskLog, rejected
from pipeline.watchlist import WatchlistFollower
from schemas.errors import ErrorDetail, TaskError
from schemas.requests import StartTask
from schemas.results import ComparisonResult
from schemas.stream import CallBegin, CallReferences, Print
from schemas.tasks import Technology

logger = logging.getLogger(__name__)

_COMPARISON = Technology.VOICEPRINT_COMPARISON
_FEW_REFERENCES = 100  # about 1 ms


class CallComparison(msgspec.Struct):
    """A call's sums by channel, and what they are compared with: the watch list is taken as it is when the call begins."""

    channels: list[VoiceprintSum]
    references: dict[str, Voiceprint]


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
        self._enrolled: dict[str, dict[str, Voiceprint]] = {}
        await self._watchlist.start()

    def forget(self) -> None:
        """Drop all open calls, and what they are compared with."""
        super().forget()
        self._pinned.forget()
        self._enrolled.clear()

    async def prepare(self, begin: CallBegin, record: Record) -> None:
        """The watch list as the call met it first, whoever read the call then."""
        if begin.options.technologies is not None and _COMPARISON not in begin.options.technologies:
            return
        pinned = (await self._pinned.of(record)).get(begin.call_id)
        if pinned is None:
            pinned = CallReferences(begin.call_id, {subject: pack(one) for subject, one in self._watchlist.entries.items()})
            await self._pin(pinned, record.partition)
        self._enrolled[begin.call_id] = {subject: unpack(packed) for subject, packed in pinned.voiceprints.items()}

    async def _pin(self, pinned: CallReferences, partition: int) -> None:
        # An empty list too: whoever meets the call again may find voices in it by then.
        try:
            await self.publisher.publish([snapshot_record(pinned, partition)])
        except RecordTooLargeError:
            logger.warning("the watch list is too long to be kept with call %s: a replay would take it anew", pinned.call_id)

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
        if begin.options.technologies is not None or not self._enrolled.get(begin.call_id):
            return None
        log = self._task_log(begin)
        return log, [log.pending(source)]

    def rejection(self, begin: CallBegin) -> TaskError | None:
        """References that are no voiceprints, or none at all."""
        if not begin.options.compare_with and not self._enrolled[begin.call_id]:
            message = "nothing to compare with: compare_with is empty, and so is the watch list"
            return rejected([ErrorDetail(["options", "compare_with"], message, "references.none")])
        try:
            _given(begin)
        except ListsError as error:
            return rejected(error.details)
        return None

    def new_evidence(self, begin: CallBegin) -> CallComparison:
        """A sum for each channel, and the references."""
        found = self._enrolled[begin.call_id]
        enrolled = {f"watchlist/{subject}": found[subject] for subject in sorted(found)}
        given = {} if self.rejection(begin) is not None else _given(begin)
        return CallComparison([VoiceprintSum() for _ in range(begin.channels)], given | enrolled)

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
