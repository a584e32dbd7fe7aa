"""`callstream dead-letters replay`: records that were buried go back to where they came from, once what was wrong is gone."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Set
from typing import Literal

import click
import msgspec
from aiokafka import AIOKafkaProducer
from aiokafka.errors import MessageSizeTooLargeError

from pipeline.connection import aiokafka_options
from pipeline.dead_letters import Letters, broker_faults, open_letters
from pipeline.letters import Chains, Letter, Place, Wanted
from pipeline.settings import Settings
from pipeline.whole_topic import partition_numbers
from schemas.media import Header

REPLAYABLE = ("media", "requests", "speech", "prints", "watchlist")

Status = Literal["replayed", "would be replayed", "superseded", "skipped"]
Partitions = Mapping[str, Set[int]]

_MOST_BYTES = 34 * 1_048_576  # before they are compressed; letters were larger once than they are today


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a letter: `target` is where it is now, or would go; `reason` says why it was left."""

    place: str
    status: Status
    target: str | None = None
    reason: str | None = None

    def line(self) -> str:
        """For people."""
        return "  ".join(text for text in (self.place, self.status, self.target, self.reason) if text)


def refusal(letter: Letter, partitions: Partitions) -> str | None:
    """Why this letter cannot be put back, if it cannot; `partitions` are those of the topics that may be written."""
    source = letter.source
    if source is None:
        return "no source header says where it came from"
    if source.topic not in partitions:
        return f"it came from {source.topic}, which is no topic to replay to"
    if source.partition not in partitions[source.topic]:
        return f"{source.topic} has no partition {source.partition}"
    if letter.is_value_left_out:
        return f"its value was too large to be kept ({letter.text(Header.VALUE_LEFT_OUT)})"
    if letter.key is None and not letter.value:
        return "it has neither key nor value"
    return None


class _Replayer:
    """Puts letters back; only says so when there is no producer."""

    def __init__(self, producer: AIOKafkaProducer | None, partitions: Partitions) -> None:
        self._producer = producer
        self._partitions = partitions

    async def replay(self, letter: Letter) -> Outcome:
        """Put one letter back; it is acknowledged when this returns. Raises KafkaError."""
        place, source = str(letter.place), letter.source
        if (reason := refusal(letter, self._partitions)) is not None or source is None:
            return Outcome(place, "skipped", reason=reason)
        if self._producer is None:
            return Outcome(place, "would be replayed", f"{source.topic}/{source.partition}")
        headers = [*letter.original_headers(), (Header.REPLAY_OF.value, place.encode())]
        try:
            sent = await self._producer.send_and_wait(
                source.topic, letter.value, key=letter.key, partition=source.partition, headers=headers
            )
        except MessageSizeTooLargeError:
            return Outcome(place, "skipped", reason=f"{len(letter.value or b'')} bytes are too many for {source.topic}")
        return Outcome(place, "replayed", f"{sent.topic}/{sent.partition}/{sent.offset}")


@contextlib.asynccontextmanager
async def _open_replayer(settings: Settings, *, dry_run: bool) -> AsyncIterator[_Replayer]:
    numbers = await partition_numbers(settings)
    names = [settings.topic(name) for name in REPLAYABLE]
    partitions = {name: numbers[name] for name in names if name in numbers}
    if dry_run:
        yield _Replayer(None, partitions)
        return
    # Compressed, because a record near the topics' limit may have come compressed.
    producer = AIOKafkaProducer(
        **aiokafka_options(settings),
        enable_idempotence=True,
        max_request_size=_MOST_BYTES,
        compression_type="gzip",
    )
    try:
        await producer.start()
        yield _Replayer(producer, partitions)
    finally:
        await producer.stop()


async def _choose(letters: Letters, wanted: Wanted) -> Mapping[Place, Place]:
    """The wanted letters, each with the newest wanted one of its chain."""
    if wanted.places:
        return {place: place for place in wanted.places}
    chains, found = Chains(), []
    async for letter in letters.all():
        chains.note(letter)
        if wanted.matches(letter):
            found.append((letter.timestamp_ms, letter.place))
    return chains.newest(found)


class _Report:
    """Prints outcomes as they come, and counts them."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self.counts: Counter[Status] = Counter()

    def say(self, outcome: Outcome) -> None:
        self.counts[outcome.status] += 1
        click.echo(msgspec.json.encode(outcome) if self._as_json else outcome.line())

    def close(self) -> None:
        if not self._as_json:
            click.echo(", ".join(f"{count} {status}" for status, count in self.counts.items()) or "0 replayed", err=True)


async def replay_letters(settings: Settings, wanted: Wanted, *, limit: int | None, dry_run: bool, as_json: bool) -> bool:
    """Replay the wanted letters, at most `limit`; whether none had to be skipped. Raises DeadLettersError.

    Only letters that were there at the start count, so that none is replayed that its own replay brought.
    """
    report = _Report(as_json=as_json)
    async with open_letters(settings) as letters:
        newest = await _choose(letters, wanted)
        for place in sorted(newest.keys() - set(newest.values())):
            report.say(Outcome(str(place), "superseded", reason=f"its replay died too: {newest[place]}"))
        chosen = sorted(set(newest.values()))[:limit]
        with broker_faults(settings, "cannot replay"):
            async with _open_replayer(settings, dry_run=dry_run) as replayer:
                await _replay(letters, chosen, replayer, report)
    report.close()
    return report.counts["skipped"] == 0


async def _replay(letters: Letters, chosen: Iterable[Place], replayer: _Replayer, report: _Report) -> None:
    left = dict.fromkeys(chosen)
    async for letter in letters.at(list(left)):
        report.say(await replayer.replay(letter))
        del left[letter.place]
    for place in left:
        report.say(Outcome(str(place), "skipped", reason="there is no such dead letter"))
