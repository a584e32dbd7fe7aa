"""Which utterances have their print already: read from `prints` itself, so that no restart extracts them again.

A print says in its `source` header which `speech` record it is of, and both stand in partitions of the same number. So the
first record that a worker reads of a `speech` partition tells where to begin: no print of it or of those behind it is older.
"""

from aiokafka import ConsumerRecord

from pipeline.partition_scan import PartitionScan
from pipeline.records import Record
from schemas.media import Header

_CLOCK_SKEW_S = 120.0  # between the clocks of the worker that heard an utterance and the one that extracted it


class PrintIndex(PartitionScan[set[int]]):
    """The `speech` offsets whose prints were there when a partition was taken over."""

    topic = "prints"

    def empty(self) -> set[int]:
        """No offsets."""
        return set()

    def since_ms(self, first: Record) -> int:
        """Some time before the first utterance was heard."""
        return max(0, int((first.timestamp_s - _CLOCK_SKEW_S) * 1000))

    def take(self, found: set[int], record: "ConsumerRecord[bytes, bytes]", first: Record) -> None:
        """Note which record this print is of."""
        source = dict(record.headers).get(Header.SOURCE, b"").decode(errors="replace")
        place, _, offset = source.rpartition("/")
        if place == f"{first.topic}/{first.partition}" and offset.isdecimal():
            found.add(int(offset))

    async def holds(self, speech: Record) -> bool:
        """Whether this utterance's print is there."""
        return speech.offset in await self.of(speech)
