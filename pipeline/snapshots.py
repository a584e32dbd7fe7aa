"""Calls as the VAD agent saved them: read from the compacted topic `snapshots` when a `media` partition is taken over."""

import logging

import msgspec
from aiokafka import ConsumerRecord

from pipeline.partition_scan import PartitionScan
from pipeline.records import UNDECODABLE, OutgoingRecord, Record
from schemas.stream import CallEnded, CallSnapshot, SnapshotRecord

logger = logging.getLogger(__name__)

TOPIC = "snapshots"

_DECODER: msgspec.msgpack.Decoder[SnapshotRecord] = msgspec.msgpack.Decoder(SnapshotRecord)
_ENCODER = msgspec.msgpack.Encoder()

Saved = dict[str, SnapshotRecord]


def is_newer(one: SnapshotRecord, other: SnapshotRecord | None) -> bool:
    """Whether this says more of the call: a worker that was believed dead may have written behind its successor."""
    if other is None or isinstance(one, CallEnded):
        return True
    return isinstance(other, CallSnapshot) and one.block >= other.block


class SavedCalls(PartitionScan[Saved]):
    """The newest snapshot of every call of a partition."""

    topic = TOPIC

    def empty(self) -> Saved:
        """No calls."""
        return {}

    def take(self, found: Saved, record: "ConsumerRecord[bytes, bytes]", first: Record) -> None:  # noqa: ARG002 - of the base
        """Keep it if it is newer."""
        if not record.value:
            return
        try:
            saved = _DECODER.decode(record.value)
        except UNDECODABLE as error:
            # The call is heard from its begin then, as far as its chunks are still there.
            logger.warning("%s/%d/%d is no snapshot and is left out: %s", record.topic, record.partition, record.offset, error)
            return
        if is_newer(saved, found.get(saved.call_id)):
            found[saved.call_id] = saved

    async def of_call(self, call_id: str, first: Record) -> SnapshotRecord | None:
        """The call's snapshot, once: whoever asked knows the call from then on."""
        return (await self.of(first)).pop(call_id, None)


def snapshot_record(saved: SnapshotRecord, partition: int) -> OutgoingRecord:
    """A `snapshots` record, in the partition of the same number as the call's `media` records."""
    return OutgoingRecord(TOPIC, saved.call_id.encode(), _ENCODER.encode(saved), partition=partition)
