"""`callstream dead-letters list` and `show`: what could not be processed, and why. Nothing is changed by looking."""

import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError

from pipeline.cancellation import stop_consumer
from pipeline.letters import Letter, Place, Wanted, printable, readable
from pipeline.output import is_of_output
from pipeline.settings import Settings
from pipeline.whole_topic import open_topic
from schemas.media import Header

Offsets = Mapping[TopicPartition, int]

_PATIENCE_S = 30.0  # for the next record of a partition that has one


class DeadLettersError(Exception):
    """The dead letters cannot be read, or not be put back; the message is one line."""


class Letters:
    """The letters that were there when this was opened, by partition and offset."""

    def __init__(self, consumer: AIOKafkaConsumer, begins: Offsets, ends: Offsets) -> None:
        self._consumer = consumer
        self._begins = begins
        self._ends = ends

    async def all(self) -> AsyncIterator[Letter]:
        """Every letter."""
        for place in sorted(self._ends):
            async for letter in self._read(place, self._begins[place], self._ends[place]):
                yield letter

    async def at(self, places: Sequence[Place]) -> AsyncIterator[Letter]:
        """The letters of these places, those that are there."""
        for partition in sorted(self._ends):
            offsets = {place.offset for place in places if place.partition == partition.partition}
            begin, end = self._begins[partition], self._ends[partition]
            if there := sorted(offset for offset in offsets if begin <= offset < end):
                async for letter in self._read(partition, there[0], there[-1] + 1):
                    if letter.place.offset in offsets:
                        yield letter

    async def _read(self, place: TopicPartition, begin: int, end: int) -> AsyncIterator[Letter]:
        # One after the other by pausing: an aiokafka consumer that is assigned anew and stopped at once may never end.
        self._consumer.pause(*self._ends)
        self._consumer.seek(place, begin)
        self._consumer.resume(place)
        moved_s = time.monotonic()
        while await self._consumer.position(place) < end:
            records = (await self._consumer.getmany(place, timeout_ms=500)).get(place, [])
            if not records and time.monotonic() - moved_s > _PATIENCE_S:
                raise DeadLettersError(f"nothing comes from {place.topic}/{place.partition} any more; try again")
            moved_s = time.monotonic() if records else moved_s
            for record in records:
                if record.offset < end:
                    yield _letter(record)


def _letter(record: ConsumerRecord[bytes, bytes]) -> Letter:
    headers = tuple((name, value or b"") for name, value in record.headers)
    return Letter(Place(record.partition, record.offset), record.timestamp, record.key, record.value, headers)


@contextlib.contextmanager
def broker_faults(settings: Settings, what: str) -> Iterator[None]:
    """What the broker says, as a DeadLettersError."""
    try:
        yield
    except (KafkaError, OSError) as error:
        if is_of_output(error):
            raise
        raise DeadLettersError(f"{what} at {settings.broker}: {error}") from None


@contextlib.asynccontextmanager
async def open_letters(settings: Settings) -> AsyncIterator[Letters]:
    """The letters that there are now. Raises DeadLettersError."""
    with broker_faults(settings, "cannot read the dead letters"):
        consumer, places = await open_topic(settings, settings.topic("dead-letters"), from_begin=True)
        try:
            begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
            yield Letters(consumer, begins, ends)
        finally:
            await stop_consumer(consumer)


async def list_letters(settings: Settings, wanted: Wanted, *, limit: int | None, as_json: bool) -> None:
    """Print the wanted letters, at most `limit`, and how many of each error type. Raises DeadLettersError."""
    counts: Counter[str] = Counter()
    async with open_letters(settings) as letters:
        async for letter in letters.all():
            if counts.total() == limit:
                break
            if wanted.matches(letter):
                counts[letter.text(Header.ERROR_TYPE) or "(no error-type)"] += 1
                click.echo(msgspec.json.encode(letter.summary()) if as_json else describe_letter(letter))
    if not as_json:
        for error_type, count in counts.most_common():
            click.echo(f"{count:7} {error_type}", err=True)
        click.echo(f"{counts.total():7} dead letters", err=True)


def describe_letter(letter: Letter) -> str:
    """One line for people."""
    about = letter.summary()
    key = "(no key)" if letter.key is None else about["key"]
    parts = (about["place"], about["time"], about["error_type"], about["stage"], key, about["source"], f"{about['size']} B")
    line = "  ".join(str(part) for part in parts)
    return line if letter.replay_of is None else f"{line}  replay of {letter.replay_of}"


async def show_letter(settings: Settings, place: Place, *, as_json: bool, value_file: Path | None) -> None:
    """Print everything about one letter; write its value to a file. Raises DeadLettersError."""
    async with open_letters(settings) as letters:
        found = [letter async for letter in letters.at([place])]
    if not found:
        raise DeadLettersError(f"there is no dead letter {place}; `callstream dead-letters list` says which there are")
    [letter] = found
    click.echo(msgspec.json.encode(letter.details()) if as_json else "\n".join(_lines(letter)))
    if value_file is not None:
        _write_value(letter, value_file)


def _write_value(letter: Letter, path: Path) -> None:
    if letter.is_value_left_out:
        raise DeadLettersError(f"the value of {letter.place} was too large to be kept ({letter.text(Header.VALUE_LEFT_OUT)})")
    try:
        path.write_bytes(letter.value or b"")
    except OSError as error:
        raise DeadLettersError(f"{path} cannot be written: {error.strerror}") from None


def _lines(letter: Letter) -> Iterator[str]:
    about: dict[str, Any] = letter.details()
    for name in ("place", "time", "key", "size"):
        yield f"{name}: {'(none)' if about[name] is None else about[name]}"
    for name, value in letter.headers:
        yield f"header {readable(name.encode())}: {readable(value)}"
    text = printable(letter.value)
    yield f"value: {about['size']} bytes, sha256 {about['sha256']}" if text is None else f"value:\n{text}"
