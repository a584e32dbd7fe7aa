"""Calls as the VAD agent saved them: read from the compacted topic `snapshots` when a `media` partition is taken over."""

import logging
import math

import msgspec
from aiokafka import ConsumerRecord

from pipeline.partition_scan import PartitionScan
from pipeline.records import UNDECODABLE, OutgoingRecord, Record
from schemas.stream import CallEnded, CallOpened, CallReferences, CallSnapshot, SnapshotRecord

logger = logging.getLogger(__name__)

TOPIC = "snapshots"

_DECODER: msgspec.msgpack.Decoder[SnapshotRecord] = msgspec.msgpack.Decoder(SnapshotRecord)
_ENCODER = msgspec.msgpack.Encoder()

SavedCall = CallOpened | CallSnapshot | CallEnded

# Compaction keeps the last record of a key. What must outlive a late word of a worker that was believed dead has a key of its
# own; no call id begins with such a byte, since it is not UTF-8.
_ENDED, _REFERENCES = b"\xff", b"\xfe"


def decode_snapshot(record: "ConsumerRecord[bytes, bytes]") -> SnapshotRecord | None:
    """Read a `snapshots` record; None for what no agent wrote."""
    if not record.value:
        return None
    try:
        return _DECODER.decode(record.value)
    except UNDECODABLE as error:
        # The call is heard from its begin then, as far as its chunks are still there.
        logger.warning("%s/%d/%d is no snapshot and is left out: %s", record.topic, record.partition, record.offset, error)
        return None


def is_newer(one: SavedCall, other: SavedCall | None) -> bool:
    """Whether this says more of the call: a worker that was believed dead may have written behind its successor."""
    return other is None or _progress(one) >= _progress(other)


def _progress(saved: SavedCall) -> float:
    match saved:
        case CallOpened():
            return -1
        case CallSnapshot():
            return saved.block
        case CallEnded():
            return math.inf


class SavedCalls(PartitionScan[dict[str, SavedCall]]):
    """The newest snapshot of every call of a partition."""

    topic = TOPIC

    def empty(self) -> dict[str, SavedCall]:
        """No calls."""
        return {}

    def take(self, found: dict[str, SavedCall], record: "ConsumerRecord[bytes, bytes]", first: Record) -> None:  # noqa: ARG002 - of the base
        """Keep it if it is newer."""
        saved = decode_snapshot(record)
        if isinstance(saved, SavedCall) and is_newer(saved, found.get(saved.call_id)):
            found[saved.call_id] = saved

    async def of_call(self, call_id: str, first: Record) -> SavedCall | None:
        """The call's snapshot, once: whoever asked knows the call from then on."""
        return (await self.of(first)).pop(call_id, None)


class PinnedReferences(PartitionScan[dict[str, CallReferences]]):
    """The watch list as calls met it, for the calls of a `prints` partition."""

    topic = TOPIC
    _newest: dict[str, bytes] | None = None

    def empty(self) -> dict[str, CallReferences]:
        """No calls."""
        return {}

    def take(self, found: dict[str, CallReferences], record: "ConsumerRecord[bytes, bytes]", first: Record) -> None:  # noqa: ARG002
        """Keep the first: what came behind it is a repetition."""
        saved = decode_snapshot(record)
        if isinstance(saved, CallReferences):
            if saved.voiceprints == self._newest:  # as of nearly every call: one copy is enough for all
                saved = msgspec.structs.replace(saved, voiceprints=self._newest)
            self._newest = saved.voiceprints
            found.setdefault(saved.call_id, saved)


def snapshot_record(saved: SnapshotRecord, partition: int) -> OutgoingRecord:
    """A `snapshots` record, in the partition of the same number as the records of the call that its writer reads."""
    kind = _ENDED if isinstance(saved, CallEnded) else _REFERENCES if isinstance(saved, CallReferences) else b""
    return OutgoingRecord(TOPIC, kind + saved.call_id.encode(), _ENCODER.encode(saved), partition=partition)


def ended_records(saved: CallEnded, partition: int) -> list[OutgoingRecord]:
    """The call has ended, and its snapshot can go."""
    return [snapshot_record(saved, partition), OutgoingRecord(TOPIC, saved.call_id.encode(), None, partition=partition)]
