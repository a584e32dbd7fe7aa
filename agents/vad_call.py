"""One call in the VAD agent: its assembly, its listener, what was found, and the receipts that a successor would need."""

import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import msgspec

from pipeline.audio.assembly import CallAssembler, Rejected
from pipeline.audio.listener import BLOCK_MS, CallListener, GridPoint, HeardUtterance
from pipeline.audio.segments import SegmentLog, used_samples
from pipeline.blobs import open_blobs
from pipeline.delivery import Receipt
from pipeline.models.silero import SileroVad
from pipeline.options import known_tasks, read_options_again
from pipeline.records import OutgoingRecord, Record
from pipeline.settings import Settings
from pipeline.snapshots import snapshot_record
from pipeline.spoken import SpeechId, speech_id
from pipeline.storing import done
from pipeline.transitions import TaskLog, derived_correlation_id, failed
from pipeline.wanted import Needs, needs_of
from schemas.errors import TaskError
from schemas.media import CallOptions, MediaChunk
from schemas.stream import CallBegin, CallEnd, CallEnded, CallOpened, CallSnapshot, Draft, Fault, Said, SpeechRecord, Utterance
from schemas.tasks import Technology

VAD = Technology.VOICE_ACTIVITY_DETECTION
_MSGPACK = msgspec.msgpack.Encoder()
FILE_PATIENCE_S = 86_400.0  # as long as Kafka keeps what the call has sent by then
_MOST_IN_A_GRID_STEP = 100  # utterances of a channel between two snapshots: one and its pause last 470 ms at least
_AHEAD_S = 2.0  # that a live call's audio may come before its time
_EVERY_SEQUENCE = 2**53  # of a call that was abandoned: whatever comes of it belongs to tasks that are final


def new_assembler(settings: Settings) -> CallAssembler[Record]:
    """An assembler as the settings say."""
    return CallAssembler(settings.reorder_window_s, settings.max_gap_s, settings.max_call_s)


def late(ended: CallEnded, chunk: MediaChunk, record: Record, settings: Settings) -> Sequence[Rejected[Record]]:
    """What is to be said of a chunk of a call that has ended: nothing where it came before."""
    if chunk.abort is not None:
        return ()
    assembler = new_assembler(settings)
    assembler.restore_ended(ended)
    return assembler.put(chunk, record).rejected


class VadCall:
    """A call in progress. It makes records; publishing them is the stage's."""

    def __init__(
        self,
        call_id: str,
        settings: Settings,
        silero: SileroVad,
        place: tuple[str, int],
        said: Mapping[SpeechId, int] = MappingProxyType({}),
    ) -> None:
        """`place` is its topic and partition; `said` the offsets of what was said of it on `speech` and would be said again."""
        self.call_id = call_id
        self._said = said
        self.is_opened = False
        self.is_too_large = False  # for a snapshot
        self.has_begun = False
        self.is_ending = False
        self.assembler = new_assembler(settings)
        self.correlation_id = derived_correlation_id(call_id)
        self.options = CallOptions()
        self.listener: CallListener | None = None
        self.place = place
        self.last_timestamp_s = 0.0
        self._first_timestamp_s = 0.0
        self.last_arrival_s = time.monotonic()
        self.last_source = ""
        self._settings = settings
        self._silero = silero
        self._log: TaskLog | None = None
        self._segments: SegmentLog | None = None
        self._receipts: list[tuple[int, Receipt]] = []
        self._needs = Needs(None, language=True)
        self._drafted: dict[int, tuple[int, int]] = {}  # the newest of each channel
        self._drafted_at = 0

    def restore(self, saved: CallSnapshot) -> None:
        """Go on from a snapshot; the call's tasks are pending and running since. When that fails, the call can be failed."""
        self.has_begun = True
        self.assembler.restore(saved.assembly)
        self.correlation_id = saved.correlation_id
        self.options = read_options_again(self.assembler.options)
        if VAD in known_tasks(self.options):
            # Should this fail here, the call's failure stands behind all partial results, of which each utterance made one.
            self._log = self._task_log(VAD, saved.revision + self._partials_since(saved))
        self._open(CallListener(saved.assembly.format, self._silero, saved), saved.segments_ms)
        if self._log is not None:
            self._log.revision = saved.revision

    def _partials_since(self, saved: CallSnapshot) -> int:
        """How many partial results there are behind the snapshot, at most: of those that were not said nobody knows."""
        if self.options.max_speech_length is not None or not needs_of(self.options, self._settings).are_endless:
            return _MOST_IN_A_GRID_STEP * saved.assembly.format.channels
        said = sum(kind == "utterance" and offset >= saved.speech_end for (kind, *_), offset in self._said.items())
        return said + 1  # one may have been said of an utterance that did not come to `speech` any more

    def _task_log(self, task: Technology, first_revision: int = 0) -> TaskLog:
        return TaskLog.of_call(
            task,
            self.call_id,
            self.correlation_id,
            first_revision=first_revision,
            request_id=self.options.request_id,
            owner=self.options.owner,
        )

    def arrived(self, sequence: int, record: Record, receipt: Receipt) -> None:
        """Note a record of this call."""
        self._receipts.append((sequence, receipt))
        self._first_timestamp_s = self._first_timestamp_s or record.timestamp_s
        self.last_timestamp_s = max(self.last_timestamp_s, record.timestamp_s)
        self.last_arrival_s = time.monotonic()
        self.last_source = record.source

    @property
    def patience_s(self) -> float:
        """How long to wait for its next record: behind its end only the chunks that are missing may come."""
        if self.assembler.end_seen:
            return self._settings.reorder_window_s
        return FILE_PATIENCE_S if self.options.is_file else self._settings.idle_timeout_s

    def release(self, before_sequence: int | None = None) -> None:
        """Give back the records of the chunks before this one, or all."""
        kept = [
            (sequence, one) for sequence, one in self._receipts if before_sequence is not None and sequence >= before_sequence
        ]
        for sequence, receipt in self._receipts:
            if before_sequence is None or sequence < before_sequence:
                receipt.release()
        self._receipts = kept

    def opened_records(self, speech_end: int) -> list[OutgoingRecord]:
        """Before the call says anything: where a successor has to look for what it said."""
        if self.is_opened:
            return []
        self.is_opened = True
        return [snapshot_record(CallOpened(self.call_id, speech_end), self.place[1])]

    def begin(self, source: str) -> list[OutgoingRecord]:
        """The call's format is known: its tasks are pending, and voice activity detection runs."""
        audio_format = self.assembler.format
        assert audio_format is not None
        options = self.options = read_options_again(self.assembler.options)
        self.correlation_id = options.correlation_id or self.correlation_id
        self.has_begun = True
        self._open(CallListener(audio_format, self._silero), None)
        tasks = known_tasks(options)
        records = [self._task_log(task).pending(source) for task in tasks]
        if VAD in tasks:
            self._log = self._task_log(VAD, 1)
            records.append(self._log.running(source))
        return [*records, *self._speech(CallBegin(self.call_id, audio_format.channels, options, self.correlation_id))]

    def _open(self, listener: CallListener, segments_ms: list[list[tuple[int, int]]] | None) -> None:
        audio_format = self.assembler.format
        assert audio_format is not None
        self._needs = needs_of(self.options, self._settings)
        self.listener = listener
        self._segments = SegmentLog(audio_format, listener.rate_hz, segments_ms, self.options)

    def utterance(self, heard: HeardUtterance, source: str) -> list[OutgoingRecord]:
        """An utterance, as far as it is used, and the segments by now."""
        assert self._segments is not None
        used = self._used(heard)
        records = [] if used is None else self._speech(used)
        self._segments.add(heard.channel, heard.span)
        if self._log is not None:
            partial = self._segments.result(self.assembler.missing_bytes, heard.span.end_sample)
            records.append(self._log.running(source, partial))
        return records

    def drafts(self) -> list[OutgoingRecord]:
        """The utterances that pause, each time once, so that whoever has nothing else to do gets ahead with them.

        Of live calls only: of a file the rest comes before anybody could.
        """
        if self.listener is None or self.listener.blocks_heard == self._drafted_at or not self._settings.drafts:
            return []
        self._drafted_at = self.listener.blocks_heard
        if not self._is_live():
            return []
        return [record for heard in self.listener.pausing() for record in self._draft(heard)]

    def _is_live(self) -> bool:
        """Whether it comes as fast as it is spoken, by the timestamps of its records."""
        assert self.listener is not None
        heard_s = self.listener.blocks_heard * BLOCK_MS / 1000
        return not self.options.is_file and heard_s <= self.last_timestamp_s - self._first_timestamp_s + _AHEAD_S

    def _draft(self, heard: HeardUtterance) -> list[OutgoingRecord]:
        used = self._used(heard)
        if used is None or not self._is_worth_a_draft(used) or speech_id(used) in self._said:
            return []
        place = used.start_sample, used.end_sample
        if self._drafted.get(used.channel) == place:
            return []
        self._drafted[used.channel] = place
        return [self._to_speech(Draft(used))]

    def _is_worth_a_draft(self, utterance: Utterance) -> bool:
        """Where voiceprints have enough, a language is known too, as a rule: nothing would be made of the draft."""
        return utterance.wants_voiceprint or self._needs.voiceprint_s == 0

    def _used(self, heard: HeardUtterance) -> Utterance | None:
        """The utterance up to the call's limit of speech; nothing behind it, nor when its channel has said enough."""
        assert self.listener is not None
        assert self._segments is not None
        span, rate_hz, before_ms = heard.span, self.listener.rate_hz, self._segments.speech_ms(heard.channel)
        used = used_samples(span, before_ms, rate_hz, self.options.max_speech_length)
        wanted = self._needs.of_utterance(before_ms)
        if not used or not any(wanted):
            return None
        audio = heard.audio[:used].astype("<i2").tobytes()
        return Utterance(self.call_id, heard.channel, span.start_sample, span.start_sample + used, rate_hz, audio, *wanted)

    def snapshot(self, point: GridPoint, speech_end: int) -> CallSnapshot:
        """The call at a grid point, when everything before it is published, on `speech` before `speech_end`."""
        assert self._segments is not None
        return CallSnapshot(
            self.call_id,
            self.assembler.state_at(point.position),
            point.first_block,
            point.block,
            point.detectors,
            self._segments.state(),
            0 if self._log is None else self._log.revision,
            self.correlation_id,
            speech_end,
        )

    async def end(self, source: str) -> list[OutgoingRecord]:
        """The call was heard to its end. Waits for the blob store where the result is large."""
        assert self._segments is not None
        result = self._segments.result(self.assembler.missing_bytes)
        records = self._speech(CallEnd(self.call_id, len(result.channels)))
        if self._log is not None:
            records.append(await done(self._log, source, result, open_blobs(self._settings)))
        return records

    def fail(self, source: str, message: str) -> list[OutgoingRecord]:
        """The call cannot be heard to its end."""
        if not self.has_begun:
            return []
        records = self._speech(Fault(self.call_id, message))
        if self._log is not None:
            records.append(self._log.ended(source, failed(message)))
        return records

    def refused(self, source: str, error: TaskError) -> list[OutgoingRecord]:
        """Nothing of the call will be heard, and nothing was said of it: its tasks from their begin to their end."""
        logs = [self._task_log(task) for task in known_tasks(self.options)]
        return [record for log in logs for record in (log.pending(source), log.running(source), log.ended(source, error))]

    def ended_state(self) -> CallEnded:
        """What keeps this call from beginning anew."""
        if self.assembler.abandoned:
            return CallEnded(self.call_id, _EVERY_SEQUENCE, [])
        return self.assembler.ended_state(self.call_id)

    def _speech(self, record: Said) -> list[OutgoingRecord]:
        """The record; nothing when it was said."""
        return [] if speech_id(record) in self._said else [self._to_speech(record)]

    def _to_speech(self, record: SpeechRecord) -> OutgoingRecord:
        """In the partition of the same number as the call's media."""
        return OutgoingRecord("speech", self.call_id.encode(), _MSGPACK.encode(record), partition=self.place[1])
