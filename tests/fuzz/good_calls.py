"""Good calls among bad records: what is sent, and the account of what became of it."""

import collections
import io
import json
import os
import uuid
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import soundfile

from agents.call_stage import CallStage
from agents.extraction import ExtractionStage
from pipeline.query.records import read_change
from pipeline.records import UNDECODABLE, DeadLetterError, Record, call_id_of, read_media
from pipeline.sample import sample_path
from pipeline.scoring.voiceprint import DIMENSION, Voiceprint, encode
from pipeline.start_tasks import read_start_task
from schemas.media import Header
from schemas.stream import Fault, PrintRecord, SpeechRecord
from schemas.tasks import Technology
from tests.agents.conftest import OpenBench
from tests.fuzz.records import Bad
from tests.harness import Bench, media_headers, sample_audio

COUNT = max(100, int(os.environ.get("CALLSTREAM_FUZZ", "20000")) // 4)
GOOD_CALLS = 3
PIECES = 6
HOUR_S = 3600.0
TECHNOLOGIES = [one.value for one in Technology if one is not Technology.VOICEPRINT_COMPARISON]
DECODERS: dict[str, Any] = {
    "speech": msgspec.msgpack.Decoder(SpeechRecord),
    "prints": msgspec.msgpack.Decoder(PrintRecord),
}

Values = dict[bytes | None, list[bytes | None]]
Piece = tuple[str, bytes, bytes, tuple[tuple[str, bytes], ...]]


def _good_call(number: int) -> list[Piece]:
    """A call of 5 s that asks for everything but what depends on the watch list."""
    options = {Header.OPTIONS: json.dumps({"technologies": TECHNOLOGIES, "languages": ["en", "it", "fr"]})}
    pieces: list[Piece] = []
    for sequence in range(PIECES):
        headers = media_headers(sequence, end=sequence == PIECES - 1) | (options if sequence == 0 else {})
        begin_s = 2.0 * number + sequence * 5 / PIECES
        audio = sample_audio(begin_s, begin_s + 5 / PIECES)
        pieces.append(("media", f"good-{number}".encode(), audio, tuple((str(k), v.encode()) for k, v in headers.items())))
    return pieces


def voiceprint(number: int) -> str:
    values = [((7 * number + 3 * index) % 11 - 5) / 11 for index in range(DIMENSION)]
    return encode(Voiceprint(np.array(values, np.float32), 3.0 + number))


def good_pieces() -> list[Piece]:
    """Good calls in turn, and a request of each kind."""
    calls = [_good_call(number) for number in range(GOOD_CALLS)]
    pieces = [call[sequence] for sequence in range(PIECES) for call in calls]
    bodies = [
        {"voiceprints": [voiceprint(1), voiceprint(2)]},
        {"voiceprints_a": [voiceprint(1)], "voiceprints_b": [voiceprint(2), voiceprint(3)]},
    ]
    for number, body in enumerate(bodies):
        key = str(uuid.uuid5(uuid.NAMESPACE_OID, f"good-{number}")).encode()
        pieces.insert(5 * number + 3, ("requests", key, json.dumps(body).encode(), ()))
    return pieces


def good_keys() -> set[bytes]:
    calls = [
        uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, "callstream"), f"good-{number}/{technology}")
        for number in range(GOOD_CALLS)
        for technology in TECHNOLOGIES
    ]
    return {str(one).encode() for one in calls} | {piece[1] for piece in good_pieces() if piece[0] == "requests"}


def wav() -> bytes:
    frames, rate_hz = soundfile.read(sample_path(), dtype="int16", always_2d=True, frames=4000)
    file = io.BytesIO()
    soundfile.write(file, frames, rate_hz, format="WAV")
    return file.getvalue()


async def put(bench: Bench, piece: Piece) -> None:
    bench._append(*piece)
    await bench.settle()


async def put_bad(bench: Bench, bad: Bad) -> Record:
    """As a worker would read it: a header without a value is none."""
    headers = tuple((name, value) for name, value in bad.headers if value is not None)
    bench._append(bad.topic, bad.key, bad.value, headers)
    record = bench.log[bad.topic][-1]
    await bench.settle()
    return record


async def end_everything(bench: Bench) -> None:
    """An hour and a day later whatever call is open ends; on `speech` and `prints` as its agent would end it."""
    bench.clock_s += 25 * HOUR_S
    for key in sorted({record.key for record in bench.log["media"] if record.key}):
        await put(bench, ("media", key, b"\0\0", (("sequence", b"0"), ("end", b"1"))))
    for kind, topic in ((ExtractionStage, "speech"), (CallStage, "prints")):
        for stage in [frame.stage for frame in bench.frames if isinstance(frame.stage, kind)]:
            for call_id in sorted(stage._calls):
                fault = msgspec.msgpack.encode(Fault(call_id, "the end"))
                await put(bench, (topic, call_id.encode(errors="replace")[:1000], fault, ()))


def good_values(bench: Bench) -> Values:
    keys = good_keys()
    return {key: values for key, values in bench.values().items() if key in keys}


class Account:
    """What became of every bad record."""

    def __init__(self, letters: Sequence[Record], results: Sequence[Record], prefix: str = "") -> None:
        self.buried: dict[str, set[str]] = collections.defaultdict(set)
        for letter in letters:
            source, kind = dict(letter.headers)[Header.SOURCE], dict(letter.headers)[Header.ERROR_TYPE]
            self.buried[source.decode().removeprefix(prefix)].add(kind.decode())
        self._final: set[bytes | None] = set()
        self._calls: dict[str, set[bool]] = collections.defaultdict(set)
        last = {record.key: record.value or b"" for record in results}
        for key, body in ((key, json.loads(value)) for key, value in last.items()):
            is_final = body["task"]["state"] in ("done", "failed", "rejected")
            self._calls[body.get("call_id", "")].add(is_final)
            if is_final:
                self._final.add(key)
        self.final_count = len(self._final)

    def fate(self, record: Record) -> str | None:
        """How a record is accounted for; None when it is not."""
        if kinds := self.buried.get(record.source):
            return f"{record.topic} buried: {', '.join(sorted(kinds))}"
        try:
            return self._rule(record)
        except (DeadLetterError, *UNDECODABLE):
            return None  # it breaks the rules, and was not buried

    def keeps_the_rules(self, record: Record) -> bool:
        """Whether its stage could read it."""
        try:
            self._rule(record)
        except (DeadLetterError, *UNDECODABLE):
            return False
        return True

    def _rule(self, record: Record) -> str | None:
        match record.topic:
            case "media":
                read_media(record)
                return "media: its call is final" if self._calls.get(call_id_of(record)) == {True} else None
            case "requests":
                read_start_task(record)
                key = None if record.key is None else str(uuid.UUID(record.key.decode())).encode()
                return "requests: answered" if key is None or key in self._final else None
            case _:
                one = DECODERS[record.topic].decode(record.value or b"")
                return f"{record.topic}: a valid {type(one).__name__}"


def unacknowledged(bench: Bench) -> list[str]:
    """Offsets that were not given back."""
    places = [(frame, topic) for frame in bench.frames for topic in frame.stage.topics]
    return [
        f"{frame.stage.name}: {len(frame.acknowledged[topic])} of {len(bench.log[topic])} of {topic}"
        for frame, topic in places
        if frame.acknowledged[topic] != list(range(len(bench.log[topic])))
    ]


async def undisturbed(open_bench: OpenBench) -> Values:
    async with open_bench() as bench:
        for piece in good_pieces():
            await put(bench, piece)
        return good_values(bench)


def check_results(bench: Bench) -> None:
    """Whatever the stages said of good calls and bad, the query service can read."""
    for record in bench.log["results"]:
        read_change(record.key, record.value, 0)
