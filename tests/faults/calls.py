"""Calls to disturb: cut from the bundled call by a seed, in a few variants whose undisturbed results are known."""

import random
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import soundfile

from pipeline.sample import sample_path
from pipeline.sending import encode
from schemas.media import Encoding, Header

RATE_HZ = 8000


@dataclass(frozen=True)
class Variant:
    """What a call says. `channels` are those of the bundled call."""

    start_s: float
    length_s: float
    channels: tuple[int, ...]
    encoding: Encoding = Encoding.PCM_S16LE
    options: str | None = None

    @property
    def frame_bytes(self) -> int:
        return len(self.channels) * self.encoding.bytes_per_sample

    def audio(self) -> bytes:
        begin, end = int(self.start_s * RATE_HZ), int((self.start_s + self.length_s) * RATE_HZ)
        return encode(_sample()[begin:end, self.channels], self.encoding)


@cache
def _sample() -> "np.ndarray[tuple[int, int], np.dtype[np.int16]]":
    frames, rate_hz = soundfile.read(sample_path(), dtype="int16", always_2d=True)
    assert rate_hz == RATE_HZ
    return np.asarray(frames)


SHORT = (
    Variant(1.0, 1.6, (0,)),
    Variant(9.4, 1.8, (1,), Encoding.MULAW),
    Variant(14.0, 2.0, (0,), Encoding.ALAW, '{"languages": ["en", "it", "de"]}'),
    Variant(20.0, 1.5, (1,)),
    Variant(27.5, 1.9, (0,), Encoding.MULAW, '{"correlation_id": "given"}'),
    Variant(33.2, 2.2, (1,)),
    Variant(40.0, 2.0, (0, 1), Encoding.PCM_S16LE, '{"technologies": ["voice-activity-detection", "language-identification"]}'),
    Variant(44.8, 2.4, (0, 1), Encoding.MULAW),
    Variant(59.5, 0.6, (0,)),  # next to nothing is said
)
LONG = (
    Variant(0.0, 45.0, (0, 1)),
    Variant(20.0, 40.0, (0, 1), Encoding.MULAW),
    Variant(40.0, 36.0, (1,), Encoding.ALAW),
)


@dataclass
class Chunk:
    """One `media` record; `clock_s` is what its producer's clock is wrong by."""

    key: str | None
    headers: dict[str, str]
    value: bytes
    clock_s: float = 0.0


@dataclass
class Call:
    """A call and the records that carry it, in the order in which they are produced."""

    call_id: str
    variant: Variant
    chunks: list[Chunk] = field(default_factory=list)


def make_calls(count: int, seed: int, prefix: str = "call", *, long_share: float = 0.02, calm: bool = False) -> list[Call]:
    """Calls of mixed variants; unless `calm`, cut anywhere, some chunks twice, some in the wrong order."""
    chance = random.Random(seed)
    calls = []
    for number in range(count):
        variant = chance.choice(LONG if chance.random() < long_share else SHORT)
        calls.append(make_call(f"{prefix}-{seed}-{number}", variant, random.Random(chance.random()), calm=calm))
    return calls


def make_call(call_id: str, variant: Variant, chance: random.Random, *, calm: bool = False) -> Call:
    """One call, its chunks cut by chance."""
    cuts = _even_cuts(variant) if calm else _cuts(variant, chance)
    chunks = _chunks(call_id, variant, cuts)
    return Call(call_id, variant, chunks if calm else _disordered(chunks, chance))


def _even_cuts(variant: Variant) -> list[int]:
    return list(range(0, len(variant.audio()), RATE_HZ // 2 * variant.frame_bytes))


def _cuts(variant: Variant, chance: random.Random) -> list[int]:
    size, at, cuts = len(variant.audio()), 0, []
    while at < size:
        cuts.append(at)
        at += chance.randint(RATE_HZ // 5, RATE_HZ) * variant.frame_bytes + chance.randint(-3, 3)  # also inside a frame
    return cuts


def _chunks(call_id: str, variant: Variant, cuts: list[int]) -> list[Chunk]:
    audio = variant.audio()
    chunks = []
    for number, (begin, end) in enumerate(zip(cuts, [*cuts[1:], len(audio)], strict=True)):
        headers: dict[str, str] = {
            Header.SEQUENCE: str(number),
            Header.ENCODING: variant.encoding.value,
            Header.SAMPLE_RATE: str(RATE_HZ),
            Header.CHANNELS: str(len(variant.channels)),
            Header.POSITION: str(begin),
        }
        if number == 0 and variant.options:
            headers[Header.OPTIONS] = variant.options
        if number == len(cuts) - 1:
            headers[Header.END] = "1"
        chunks.append(Chunk(call_id, headers, audio[begin:end]))
    return chunks


def _disordered(chunks: list[Chunk], chance: random.Random) -> list[Chunk]:
    """Neighbours change places, and some come twice: a producer that retries."""
    order = list(chunks)
    for at in range(1, len(order) - 2):  # not the end: behind it only the reorder window is waited for
        if chance.random() < 0.1:
            order[at], order[at + 1] = order[at + 1], order[at]
    repeated = []
    for chunk in order:
        repeated += [chunk] * (2 if chance.random() < 0.1 else 1)
    return repeated


def interleaved(calls: list[Call], chance: random.Random, at_once: int = 20) -> list[Chunk]:
    """The records of all calls, `at_once` calls at a time, each call's own in their order."""
    waiting = [list(call.chunks) for call in calls]
    talking: list[list[Chunk]] = []
    records = []
    while waiting or talking:
        while waiting and len(talking) < at_once:
            talking.append(waiting.pop(0))
        one = chance.choice(talking)
        records.append(one.pop(0))
        if not one:
            talking.remove(one)
    return records
