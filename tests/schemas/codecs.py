"""How each Struct of schemas/ is written and read: JSON, or MessagePack as a member of a topic's union."""

import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.stream import PrintRecord, SnapshotRecord, SpeechRecord
from tests.schemas.strategies import all_structs

UNIONS = {"speech": SpeechRecord, "prints": PrintRecord, "snapshots": SnapshotRecord}


@dataclass(frozen=True)
class Codec:
    """One type as it is written and read."""

    name: str
    kind: type[msgspec.Struct]
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]

    @property
    def is_json(self) -> bool:
        return self.encode is msgspec.json.encode


def _codecs() -> list[Codec]:
    tagged = {kind for union in UNIONS.values() for kind in typing.get_args(union)}
    as_msgpack = [
        Codec(f"{topic}-{kind.__name__}", kind, msgspec.msgpack.encode, msgspec.msgpack.Decoder(union).decode)
        for topic, union in UNIONS.items()
        for kind in typing.get_args(union)
    ]
    as_json = [
        Codec(kind.__name__, kind, msgspec.json.encode, msgspec.json.Decoder(kind).decode)
        for kind in all_structs()
        if kind not in tagged
    ]
    return as_msgpack + as_json


CODECS = _codecs()
