"""Voiceprints: two speaker embeddings of one voice, packed into 908 bytes, exchanged as Base64 (RFC 4648 section 4).

Layout, little-endian: magic `CSVP`, format version u16, model u16, speech length u32 (ms), then 448 float16: the CAM++
embedding (192) and the GE2E embedding (256), each of unit length, or all zeros where there was no speech.
"""

import base64
import binascii
import struct
from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

SPEAKER_DIMENSION = 192
VOICE_DIMENSION = 256
DIMENSION = SPEAKER_DIMENSION + VOICE_DIMENSION
MODEL = "campplus-ge2e-1"
_MODEL_NUMBER = 1
_VERSION = 1
_HEADER = struct.Struct("<4sHHI")
_MAGIC = b"CSVP"
SIZE_BYTES = _HEADER.size + 2 * DIMENSION
_LAYOUT = np.dtype([("kind", "V8"), ("speech_ms", "<u4"), ("embedding", "<f2", (DIMENSION,))])
_KIND = np.void(_HEADER.pack(_MAGIC, _VERSION, _MODEL_NUMBER, 0)[:8])


class VoiceprintError(ValueError):
    """This is no voiceprint of ours; the task that brought it is rejected."""


class Voiceprint(msgspec.Struct, frozen=True, weakref=True):
    """`embedding`: float32 (448,), CAM++ and GE2E, each of unit length or zero; `speech_s`: seconds of speech in it."""

    embedding: Float32
    speech_s: float


EMPTY = Voiceprint(np.zeros(DIMENSION, np.float32), 0.0)


def unit(vector: Float32) -> Float32:
    """The vector at length 1; a zero vector stays as it is."""
    length = np.linalg.norm(vector)
    return (vector / length).astype(np.float32) if length > 0 else vector.astype(np.float32)


def from_embeddings(speaker: Float32, voice: Float32, speech_s: float) -> Voiceprint:
    """A voiceprint of a CAM++ embedding (192,) and a GE2E embedding (256,)."""
    return Voiceprint(np.concatenate([unit(speaker), unit(voice)]), speech_s)


def pack(voiceprint: Voiceprint) -> bytes:
    """The voiceprint as bytes."""
    header = _HEADER.pack(_MAGIC, _VERSION, _MODEL_NUMBER, round(voiceprint.speech_s * 1000))
    return header + voiceprint.embedding.astype("<f2").tobytes()


def unpack(packed: bytes) -> Voiceprint:
    """Read a voiceprint. Raises VoiceprintError for anything else: other size, model or version, NaN, infinity."""
    if len(packed) != SIZE_BYTES:
        raise VoiceprintError(f"a voiceprint has {SIZE_BYTES} bytes, this has {len(packed)}")
    magic, version, model, speech_ms = _HEADER.unpack_from(packed)
    if magic != _MAGIC or version != _VERSION:
        raise VoiceprintError("not a callstream voiceprint")
    if model != _MODEL_NUMBER:
        raise VoiceprintError(f"made by another model (number {model}), this is {MODEL}")
    embedding = np.frombuffer(packed, "<f2", offset=_HEADER.size).astype(np.float32)
    if not np.isfinite(embedding).all():
        raise VoiceprintError("holds values that are not finite numbers")
    for half in (embedding[:SPEAKER_DIMENSION], embedding[SPEAKER_DIMENSION:]):
        square = half.dot(half)
        if square > 0:
            half /= np.sqrt(square)  # in place, to the bits of `unit`: lists are long
    return Voiceprint(embedding, speech_ms / 1000)


def encode(voiceprint: Voiceprint) -> str:
    """The voiceprint as Base64."""
    return base64.b64encode(pack(voiceprint)).decode()


def decode(text: str) -> Voiceprint:
    """Read a Base64 voiceprint. Raises VoiceprintError."""
    try:
        return unpack(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        if isinstance(error, VoiceprintError):
            raise
        raise VoiceprintError("not Base64") from None


def decode_all(texts: Sequence[str]) -> list[Voiceprint]:
    """Read many at once, to the same bits as one by one and in less time. Raises ValueError when one of them is none."""
    packed = [binascii.a2b_base64(text, strict_mode=True) for text in texts]
    if any(len(one) != SIZE_BYTES for one in packed):
        raise VoiceprintError(f"a voiceprint has {SIZE_BYTES} bytes")
    read = np.frombuffer(b"".join(packed), _LAYOUT)
    embeddings = read["embedding"].astype(np.float32)
    if not ((read["kind"] == _KIND).all() and np.isfinite(embeddings).all()):
        raise VoiceprintError("not a callstream voiceprint")
    for halves in (embeddings[:, :SPEAKER_DIMENSION], embeddings[:, SPEAKER_DIMENSION:]):
        lengths = np.sqrt(np.vecdot(halves, halves))
        halves /= np.where(lengths > 0, lengths, np.float32(1))[:, np.newaxis]
    return [Voiceprint(*one) for one in zip(embeddings, (read["speech_ms"] / 1000).tolist(), strict=True)]


class VoiceprintSum:
    """The merged voiceprint of several: the mean weighted by speech length; its length is their sum."""

    def __init__(self) -> None:
        self._sum: NDArray[np.float64] | None = None  # made when it is needed: many channels never speak
        self.speech_s = 0.0

    def add(self, voiceprint: Voiceprint) -> None:
        """Add one more."""
        weighted = voiceprint.embedding.astype(np.float64) * voiceprint.speech_s
        self._sum = weighted if self._sum is None else self._sum + weighted
        self.speech_s += voiceprint.speech_s

    def merged(self) -> Voiceprint:
        """The voiceprint of all that was added, as exact as when it is sent: a call scores like its voiceprint."""
        if self._sum is None:
            return EMPTY
        total = self._sum.astype(np.float32)
        return unpack(pack(from_embeddings(total[:SPEAKER_DIMENSION], total[SPEAKER_DIMENSION:], self.speech_s)))
