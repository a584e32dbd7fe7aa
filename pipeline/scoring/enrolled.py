"""A watch list at one moment. Calls that meet the same list hold one copy of it, and Kafka keeps one for them."""

import hashlib
from collections.abc import Mapping
from weakref import WeakValueDictionary

import msgspec

from pipeline.scoring.voiceprint import Voiceprint, unpack

_ENCODER = msgspec.msgpack.Encoder()
_VOICES: WeakValueDictionary[bytes, Voiceprint] = WeakValueDictionary()  # lists that follow each other share nearly all


class Enrolled:
    """The voices that were enrolled. To make one of 50,000 takes a second, or a seventh of that where another is held.

    `packed`: voiceprints by subject id, in the order of these; `digest`: SHA-256 of both; `references`: what a call's
    channels are compared with, by name. Raises VoiceprintError when something packed is no voiceprint.
    """

    def __init__(self, packed: Mapping[str, bytes]) -> None:
        self.packed = dict(sorted(packed.items()))
        self.digest = hashlib.sha256(_ENCODER.encode(self.packed)).digest()
        self.references: Mapping[str, Voiceprint] = {
            f"watchlist/{subject}": _voice(one) for subject, one in self.packed.items()
        }


def _voice(packed: bytes) -> Voiceprint:
    voice = _VOICES.get(packed)
    return _VOICES.setdefault(packed, unpack(packed)) if voice is None else voice
