"""Calls as the VAD agent saved them: read from the compacted topic `snapshots` when a `media` partition is taken over."""

import asyncio
import logging
import math
from weakref import WeakValueDictionary

import msgspec
from aiokafka import ConsumerRecord

from pipeline.partition_scan import PartitionScan
from pipeline.records import UNDECODABLE, OutgoingRecord, Record
from pipeline.scoring.enrolled import Enrolled
from pipeline.settings import Settings
from schemas.stream import CallEnded, CallOpened, CallReferences, CallSnapshot, EnrolledVoices, SnapshotRecord

logger = logging.getLogger(__name__)

TOPIC = "snapshots"

_DECODER: msgspec.msgpack.Decoder[SnapshotRecord] = msgspec.msgpack.Decoder(SnapshotRecord)
_ENCODER = msgspec.msgpack.Encoder()

SavedCall = CallOpened | CallSnapshot | CallEnded

# Compaction keeps the last record of a key. What must outlive a late word of a worker that was believed dead has a key of its
# own; no call id begins with such a byte, since it is not UTF-8.
_ENDED, _REFERENCES, _LIST = b"\xff", b"\xfe", b"\xfd"


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
        if _is_of_a_list(record):
            return
        saved = decode_snapshot(record)
        if isinstance(saved, SavedCall) and is_newer(saved, found.get(saved.call_id)):
            found[saved.call_id] = saved

    async def of_call(self, call_id: str, first: Record) -> SavedCall | None:
        """The call's snapshot, once: whoever asked knows the call from then on."""
        return (await self.of(first)).pop(call_id, None)


class PinnedReferences(PartitionScan[dict[str, bytes]]):
    """Which watch list the calls of a `prints` partition met, by its digest, and those lists."""

    topic = TOPIC

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._lists: dict[bytes, dict[str, bytes]] = {}  # of all partitions; packed
        self._voices: dict[bytes, bytes] = {}  # lists that follow each other share nearly all of theirs
        self._in_use: WeakValueDictionary[bytes, Enrolled] = WeakValueDictionary()
        self._making = asyncio.Lock()

    def empty(self) -> dict[str, bytes]:
        """No calls."""
        return {}

    def forget(self) -> None:
        """Also the lists: they come again with the partitions."""
        super().forget()
        self._lists.clear()
        self._voices.clear()

    def take(self, found: dict[str, bytes], record: "ConsumerRecord[bytes, bytes]", first: Record) -> None:  # noqa: ARG002
        """Of a call keep the first: what came behind it is a repetition."""
        if not _is_of_a_list(record):
            return
        saved = decode_snapshot(record)
        if isinstance(saved, CallReferences):
            found.setdefault(saved.call_id, saved.digest)
        elif isinstance(saved, EnrolledVoices) and saved.digest not in self._lists:
            self._lists[saved.digest] = {
                subject: self._voices.setdefault(packed, packed) for subject, packed in saved.voiceprints.items()
            }

    async def of_call(self, call_id: str, first: Record) -> Enrolled | None:
        """The list that a call met; None when nobody has noted it, or Kafka has forgotten the list."""
        digest = (await self.of(first)).get(call_id)
        if digest is None:
            return None
        if digest in self._lists and digest not in self._in_use:
            async with self._making:  # at a takeover all calls ask at once
                if digest in self._lists and digest not in self._in_use:
                    return self.shared(await asyncio.to_thread(Enrolled, self._lists[digest]))
        return self._in_use.get(digest)

    def shared(self, met: Enrolled) -> Enrolled:
        """This list, or the equal one that another call holds."""
        return self._in_use.setdefault(met.digest, met)


def _is_of_a_list(record: "ConsumerRecord[bytes, bytes]") -> bool:
    """Whether it is a watch list, or of one: they are large, so that whoever needs them not leaves them packed."""
    return (record.key or b"")[:1] in (_LIST, _REFERENCES)


def snapshot_record(saved: SnapshotRecord, partition: int) -> OutgoingRecord:
    """A `snapshots` record, in the partition of the same number as the records of the call that its writer reads."""
    return OutgoingRecord(TOPIC, _key_of(saved), _ENCODER.encode(saved), partition=partition)


def _key_of(saved: SnapshotRecord) -> bytes:
    match saved:
        case EnrolledVoices():
            return _LIST + saved.digest
        case CallReferences():
            return _REFERENCES + saved.call_id.encode()
        case CallEnded():
            return _ENDED + saved.call_id.encode()
        case _:
            return saved.call_id.encode()


def ended_records(saved: CallEnded, partition: int) -> list[OutgoingRecord]:
    """The call has ended, and its snapshot can go."""
    return [snapshot_record(saved, partition), OutgoingRecord(TOPIC, saved.call_id.encode(), None, partition=partition)]
