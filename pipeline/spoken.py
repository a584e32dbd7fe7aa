"""What calls have said on `speech` already, so that a successor that hears them again does not say it twice."""

import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition

from pipeline.partition_scan import PartitionScan
from pipeline.records import UNDECODABLE, Record
from pipeline.snapshots import SavedCalls
from schemas.stream import CallEnded, Draft, Print, PrintRecord, Said, SpeechRecord, Utterance

SpeechId = tuple[str, int, int]

_DECODER: msgspec.msgpack.Decoder[SpeechRecord] = msgspec.msgpack.Decoder(SpeechRecord)


def speech_id(one: Said | PrintRecord) -> SpeechId:
    """Which part of its call a record of `speech` or `prints` is: of an utterance its channel and first sample."""
    if isinstance(one, Utterance | Print):
        return "utterance", one.channel, one.start_sample
    return type(one).__name__, 0, 0


class Spoken(msgspec.Struct):
    """What a `speech` partition holds of each call, with its offset, up to offset `end`."""

    said: dict[str, dict[SpeechId, int]]
    end: int


class SpokenIndex(PartitionScan[Spoken]):
    """Reads `speech` from where an open call of a `media` partition may first have said what its snapshot does not know."""

    topic = "speech"

    def __init__(self, saved: SavedCalls) -> None:
        super().__init__(saved.settings)
        self._saved = saved

    def empty(self) -> Spoken:
        """Nothing."""
        return Spoken({}, 0)

    async def begin(
        self,
        consumer: AIOKafkaConsumer,  # noqa: ARG002 - of the base
        place: TopicPartition,  # noqa: ARG002
        first: Record,
    ) -> int | None:
        """The oldest `speech_end` of the open calls; nobody takes a call from the snapshots before this has looked at them."""
        calls = (await self._saved.of(first)).values()
        return min((call.speech_end for call in calls if not isinstance(call, CallEnded)), default=None)

    def take(self, found: Spoken, record: "ConsumerRecord[bytes, bytes]", first: Record) -> None:  # noqa: ARG002 - of the base
        """Note what it is."""
        found.end = record.offset + 1
        try:
            one = _DECODER.decode(record.value or b"")
        except UNDECODABLE:
            return
        if not isinstance(one, Draft):  # which may be said again
            found.said.setdefault(one.call_id, {}).setdefault(speech_id(one), record.offset)

    def finish(self, found: Spoken, end: int) -> None:
        """Also the end of a partition of which nothing had to be read."""
        found.end = end

    async def of_call(self, call_id: str, first: Record) -> dict[SpeechId, int]:
        """What the call has said, once: whoever asked knows the call from then on."""
        return (await self.of(first)).said.pop(call_id, {})

    def advance(self, partition: int, offset: int) -> None:
        """We have written to the partition."""
        if (found := self.known(partition)) is not None:
            found.end = max(found.end, offset + 1)

    def end(self, partition: int) -> int:
        """An offset that whatever is said from now on will not be below."""
        found = self.known(partition)
        return 0 if found is None else found.end
