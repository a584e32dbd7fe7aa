"""Which utterances have their print already: read from `prints` itself, so that no restart extracts them again.

An utterance is known by its id, `call_id/channel/start_sample`, wherever on `speech` it stands. Prints are in the partition of
the same number as their utterances, and brokers stamp both topics: the prints of the first record that a worker reads of a
`speech` partition, and of those behind it, are not older than that record.
"""

from collections import OrderedDict

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from pipeline.partition_scan import PartitionScan
from pipeline.records import UNDECODABLE, Record
from pipeline.spoken import SpeechId, speech_id
from schemas.stream import CallEnd, Fault, Print, PrintRecord, Said, Utterance

_CLOCK_SKEW_S = 120.0  # between the clocks of two brokers
_REMEMBERED = 100_000  # ids of a partition
_KEPT_S = 86_400.0  # as long as Kafka keeps the topics
_DECODER: msgspec.msgpack.Decoder[PrintRecord] = msgspec.msgpack.Decoder(PrintRecord)


class Known(msgspec.Struct):
    """When each record was passed on (s since the epoch), and the languages in the prints of open calls."""

    times_s: OrderedDict[tuple[str, SpeechId], float]
    languages: dict[str, dict[SpeechId, bytes]]

    def add(self, one: PrintRecord, at_s: float) -> None:
        """Note a record of `prints`."""
        self.times_s[one.call_id, speech_id(one)] = at_s
        if isinstance(one, Print) and one.languages is not None:
            self.languages.setdefault(one.call_id, {})[speech_id(one)] = one.languages
        elif isinstance(one, CallEnd | Fault):
            self.languages.pop(one.call_id, None)


class PrintIndex(PartitionScan[Known]):
    """What of a `speech` partition has been passed on to `prints`."""

    topic = "prints"

    def empty(self) -> Known:
        """Nothing."""
        return Known(OrderedDict(), {})

    async def begin(self, consumer: AIOKafkaConsumer, place: TopicPartition, first: Record) -> int | None:
        """Some time before the first utterance was heard."""
        since_ms = max(0, int((first.timestamp_s - _CLOCK_SKEW_S) * 1000))
        found = (await consumer.offsets_for_times({place: since_ms}))[place]
        return None if found is None else int(found.offset)

    def take(self, found: Known, record: "ConsumerRecord[bytes, bytes]", first: Record) -> None:  # noqa: ARG002 - of the base
        """Note a print, a begin or an end."""
        try:
            one = _DECODER.decode(record.value or b"")
        except UNDECODABLE:
            return
        found.add(one, record.timestamp / 1000)

    async def holds(self, record: Record, speech: Said) -> bool:
        """Whether this was passed on, within the time for which a call id is its call's alone."""
        return await self._has(record, speech.call_id, speech_id(speech))

    async def has_ended(self, record: Record, call_id: str) -> bool:
        """Whether the call's end was passed on, within that time, as far as the scan went back."""
        return any([await self._has(record, call_id, speech_id(end)) for end in (CallEnd(call_id, 0), Fault(call_id, ""))])

    async def _has(self, record: Record, call_id: str, part: SpeechId) -> bool:
        at_s = (await self.of(record)).times_s.get((call_id, part))
        return at_s is not None and record.timestamp_s - at_s < _KEPT_S

    async def languages_of(self, record: Record, utterance: Utterance) -> bytes | None:
        """What the utterance's print holds, as long as its call is open."""
        return (await self.of(record)).languages.get(utterance.call_id, {}).get(speech_id(utterance))

    async def note(self, record: Record, made: PrintRecord) -> None:
        """This was passed on for the record."""
        known = await self.of(record)
        known.add(made, record.timestamp_s)
        if len(known.times_s) > _REMEMBERED:
            known.times_s.popitem(last=False)
