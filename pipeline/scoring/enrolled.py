"""A watch list at one moment. Calls that meet the same list hold one copy of it, and Kafka keeps one for them."""

import functools
import hashlib
from collections.abc import Mapping

import msgspec

from pipeline.scoring.voiceprint import Voiceprint, pack, unpack

_ENCODER = msgspec.msgpack.Encoder()


class Enrolled:
    """The voices that were enrolled; `packed` by subject id, in the order of these."""

    def __init__(self, packed: Mapping[str, bytes]) -> None:
        self.packed = dict(sorted(packed.items()))

    @functools.cached_property
    def digest(self) -> bytes:
        """SHA-256 of subjects and voiceprints."""
        return hashlib.sha256(_ENCODER.encode(self.packed)).digest()

    @functools.cached_property
    def references(self) -> Mapping[str, Voiceprint]:
        """What a call's channels are compared with, by name. Raises VoiceprintError when something packed is none."""
        return {f"watchlist/{subject}": unpack(packed) for subject, packed in self.packed.items()}


def enrolled(entries: Mapping[str, Voiceprint]) -> Enrolled:
    """These voices, as they are when they have been packed."""
    return Enrolled({subject: pack(voiceprint) for subject, voiceprint in entries.items()})
