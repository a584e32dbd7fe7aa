"""Kafka records that no good producer and no agent would write, by the number of the case."""

import json
import random
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from pipeline.records import UNDECODABLE
from schemas.media import MAX_CHUNK_BYTES, Header
from schemas.requests import StartTask
from schemas.tasks import call_task_id
from tests.fuzz.damage import (
    HUGE,
    JSON_BOMBS,
    JSON_TEXTS,
    MSGPACK_BOMBS,
    chance_of,
    damaged_bytes,
    damaged_json,
    damaged_msgpack,
)

SEED = 20_250_927
BLOB = "requests/fuzz/file"  # what requests for media files name
CALLS = 40  # that many bad calls share what comes on `media`
GOLDEN = Path(__file__).parents[1] / "schemas" / "golden"

RawHeaders = list[tuple[str, bytes | None]]


class Bad(NamedTuple):
    """A record as it is produced."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: RawHeaders


def golden_json(kind: str) -> list[Any]:
    texts = [path.read_text(encoding="utf-8") for path in sorted(GOLDEN.glob(f"{kind}*.json"))]
    return [json.loads(text.replace('"a-reference"', f'"{BLOB}"')) for text in texts]


def golden_msgpack(*names: str) -> list[dict[str, Any]]:
    paths = [path for name in names for path in sorted(GOLDEN.glob(f"{name}*.msgpack"))]
    return [msgspec.msgpack.decode(bytes.fromhex(path.read_text(encoding="ascii"))) for path in paths]


_REQUESTS, _RESULTS, _WATCHLIST = golden_json("requests-"), golden_json("results-"), golden_json("watchlist")
_OPTIONS = golden_json("options")
_SPEECH = golden_msgpack("begin", "draft", "utterance", "end.", "fault")
_PRINTS = golden_msgpack("begin", "print", "end.", "fault")
_SNAPSHOTS = golden_msgpack("opened", "snapshot", "ended", "enrolled", "references")

_KEYS = (None, b"", b"\xff\xfe", b"\x00", b"k" * 129, b"k" * 50_000, "é".encode() * 128, b"\xed\xa0\x80", b"../x", b'"')
_HEADER_VALUES = (
    None, b"", b"\xff", b"\x00", b"-1", b"+1", b"1.0", b"1e3", b" 1", b"0x1", "١".encode(), b"NaN", b"true", b"8000", b"16000",
    b"48000", b"8", b"9", b"0", b"1", b"2", b"3", b"9007199254740992", b"9007199254740993", b"9" * 16, b"9" * 5000,
    str(HUGE).encode(), b"pcm_s16le", b"mulaw", b"alaw", b"opus", b"PCM_S16LE", b"{}", b"[]", b"null", b"x" * 20_000,
)  # fmt: skip
_HEADER_NAMES = (*Header, "", "Sequence", "séquence", "x" * 500, "original-source", "\x00")


def _damaged_headers(chance: random.Random, given: RawHeaders) -> RawHeaders:
    headers = [*given]
    for _ in range(chance.choice([0, 1, 1, 1, 2, 4])):
        at = chance.randrange(len(headers) + 1)
        match chance.randrange(6):
            case 0 if headers:
                del headers[at - 1]
            case 1 if headers:
                headers.insert(at, (headers[at - 1][0], chance.choice(_HEADER_VALUES)))
            case 2:
                headers.insert(at, (str(chance.choice(_HEADER_NAMES)), chance.choice(_HEADER_VALUES)))
            case 3:
                headers += [(str(Header.OPTIONS), damaged_json(chance, chance.choice(_OPTIONS)))]
            case _ if headers:
                headers[at - 1] = (headers[at - 1][0], chance.choice(_HEADER_VALUES))
            case _:
                pass
    return headers


def _key(chance: random.Random, usual: bytes, odd_share: float = 0.1) -> bytes | None:
    return chance.choice([*_KEYS, damaged_bytes(chance, usual)]) if chance.random() < odd_share else usual


def _audio(chance: random.Random) -> bytes | None:
    if chance.random() < 0.004:
        return bytes(MAX_CHUNK_BYTES + 1)
    return chance.choice(
        [chance.randbytes(chance.randint(1, 1600)), bytes(chance.randint(1, 1600)), b"", None, b"RIFF\xff\xff\xff\xff"]
    )


def _media(chance: random.Random, case: int) -> Bad:
    headers: RawHeaders = [
        (str(Header.SEQUENCE), str(chance.choice([0, 0, 1, 2, 3, 5, 9, 70, 100_000])).encode()),
        (str(Header.ENCODING), chance.choice([b"pcm_s16le", b"mulaw", b"alaw"])),
        (str(Header.SAMPLE_RATE), chance.choice([b"8000", b"8000", b"16000", b"44100"])),
        (str(Header.CHANNELS), chance.choice([b"1", b"2", b"8"])),
    ]
    if chance.random() < 0.3:
        headers.append((str(Header.POSITION), str(chance.choice([0, 1, 160, 5000, 10**6, 2**53])).encode()))
    if chance.random() < 0.2:
        headers.append((str(Header.END), b"1"))
    if chance.random() < 0.2:
        headers.append((str(Header.OPTIONS), json.dumps(chance.choice(_OPTIONS)).encode()))
    key = _key(chance, f"bad-call-{chance.randrange(CALLS)}".encode())
    return Bad("media", key, _audio(chance), _damaged_headers(chance, headers))


def _requests(chance: random.Random, case: int) -> Bad:
    tree = chance.choice(_REQUESTS)
    if "media" in tree:
        tree = {**tree, "media": {**tree["media"], "call_id": f"bad-file-{case}"}}
    kind = chance.random()
    value = chance.choice(JSON_BOMBS + JSON_TEXTS) if kind < 0.05 else damaged_json(chance, tree)
    if kind > 0.95:
        value = json.dumps(tree).encode()
    key = _key(chance, str(uuid.uuid5(uuid.NAMESPACE_OID, f"bad-{case}")).encode())
    if chance.random() < 0.6:
        key = _own_key(value) or key
    headers: RawHeaders = [(str(Header.CONTENT_TYPE), b"application/json"), (str(Header.CORRELATION_ID), b"correlation")]
    return Bad("requests", key, value if chance.random() < 0.98 else None, _damaged_headers(chance, headers))


def _own_key(value: bytes) -> bytes | None:
    """The task id that a request with a file must have as key."""
    try:
        request = msgspec.json.decode(value, type=StartTask)
    except UNDECODABLE:
        return None
    if request.media is None or request.technology is None:
        return None
    return call_task_id(request.media.call_id, request.technology).encode()


def _stream(topic: str, trees: list[dict[str, Any]]) -> Callable[[random.Random, int], Bad]:
    def make(chance: random.Random, case: int) -> Bad:
        call_id = f"bad-{topic}-{case}"
        tree = chance.choice(trees)
        own = {"utterance": tree["utterance"] | {"call_id": call_id}} if "utterance" in tree else {"call_id": call_id}
        packed = msgspec.msgpack.encode(tree | own)
        kind = chance.random()
        value = (
            packed if kind < 0.05 else chance.choice([None, *MSGPACK_BOMBS]) if kind < 0.1 else damaged_msgpack(chance, packed)
        )
        return Bad(topic, _key(chance, call_id.encode()), value, _damaged_headers(chance, []))

    return make


def _results(chance: random.Random, case: int) -> Bad:
    tree = chance.choice(_RESULTS)
    task_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"bad-task-{case}"))
    tree = {**tree, "task": {**tree["task"], "task_id": task_id}}
    value = damaged_json(chance, tree) if chance.random() < 0.9 else chance.choice([None, *JSON_BOMBS, *JSON_TEXTS])
    return Bad("results", _key(chance, task_id.encode()), value, _damaged_headers(chance, []))


def _watchlist(chance: random.Random, case: int) -> Bad:
    value = damaged_json(chance, chance.choice(_WATCHLIST)) if chance.random() < 0.9 else chance.choice([None, *JSON_BOMBS])
    return Bad("watchlist", _key(chance, f"bad-subject-{case}".encode(), 0.3), value, _damaged_headers(chance, []))


_MAKERS: dict[str, Callable[[random.Random, int], Bad]] = {
    "media": _media,
    "requests": _requests,
    "speech": _stream("speech", _SPEECH),
    "prints": _stream("prints", _PRINTS),
    "snapshots": _stream("snapshots", _SNAPSHOTS),
    "results": _results,
    "watchlist": _watchlist,
}


def bad_record(topic: str, case: int) -> Bad:
    """The record of this number on this topic: the same one every time."""
    return _MAKERS[topic](chance_of(SEED + sorted(_MAKERS).index(topic), case), case)
