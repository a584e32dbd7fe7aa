"""Files that nobody would write: small files of every format, damaged in ways that can be repeated."""

import io
from collections.abc import Callable

import numpy as np
import soundfile

from tests.media.samples import FORMATS, tones

SEED = 20_240_611

_EXTREMES = (
    0,
    1,
    2,
    0x7F,
    0x80,
    0xFF,
    0x7FFF,
    0x8000,
    0xFFFF,
    0x10000,
    0x7FFF_FFFF,
    0x8000_0000,
    0xFFFF_FFF0,
    0xFFFF_FFFF,
    2**63,
    2**64 - 1,
)
_MARKS = (b"fmt ", b"data", b"fact", b"LIST", b"PEAK", b"RIFF", b"OggS", b"fLaC", b"vorbis", b"Opus", b"Xing", b"Info", b"LAME")
_HEAD_BYTES = 80

Random = np.random.Generator


def originals() -> list[bytes]:
    """One file of each format, 0.1 to 0.3 s long."""
    files = []
    for number, one in enumerate(FORMATS):
        rate_hz = 48_000 if one.encoding == "OPUS" else (8000, 16_000, 11_025)[number % 3]
        channels = min(one.max_channels, 1 + number % 2)
        seconds = 0.1 + 0.2 * number / len(FORMATS)
        file = io.BytesIO()
        soundfile.write(file, tones(seconds, channels, rate_hz), rate_hz, format=one.container, subtype=one.encoding)
        files.append(_timeless(bytearray(file.getvalue())))
    return files


def _timeless(content: bytearray) -> bytes:
    """Without what an encoder takes from the clock: the serial number of Ogg pages, the time of a WAV's PEAK chunk."""
    if (peak := content.find(b"PEAK")) >= 0:
        content[peak + 12 : peak + 16] = bytes(4)
    at = -1
    while (at := content.find(b"OggS", at + 1)) >= 0:
        content[at + 14 : at + 18] = b"call"
    _mend_pages(content)
    return bytes(content)


def mutant(number: int, files: list[bytes]) -> bytes:
    """The file of this number: the same one every time."""
    random = np.random.default_rng([SEED, number])
    content = bytearray(files[number % len(files)])
    for _ in range(random.choice([1, 1, 1, 2, 3])):
        if content:
            content = _MUTATIONS[random.integers(len(_MUTATIONS))](random, content, files)
    if content[:4] == b"OggS" and random.random() < 0.7:
        _mend_pages(content)  # or the damage would never be looked at
    return bytes(content)


def _place(random: Random, content: bytearray) -> int:
    """Anywhere, and often where the headers are."""
    return int(random.integers(min(len(content), _HEAD_BYTES) if random.random() < 0.3 else len(content)))


def _flip_bits(random: Random, content: bytearray, _files: list[bytes]) -> bytearray:
    for _ in range(random.integers(1, 12)):
        content[_place(random, content)] ^= 1 << int(random.integers(8))
    return content


def _replace_run(random: Random, content: bytearray, _files: list[bytes]) -> bytearray:
    at, length = _place(random, content), int(random.integers(1, 65))
    run = random.bytes(length) if random.random() < 0.5 else bytes([random.integers(256)]) * length
    content[at : at + length] = run[: len(content) - at]
    return content


def _truncate(random: Random, content: bytearray, _files: list[bytes]) -> bytearray:
    return content[: _place(random, content)]


def _extreme_number(random: Random, content: bytearray, _files: list[bytes]) -> bytearray:
    _put_number(random, content, int(random.integers(min(len(content), _HEAD_BYTES))))
    return content


def _chunk_length(random: Random, content: bytearray, _files: list[bytes]) -> bytearray:
    found = [(place, mark) for mark in _MARKS if (place := content.find(mark)) >= 0]
    if found:
        place, mark = found[random.integers(len(found))]
        _put_number(random, content, place + len(mark) + int(random.integers(0, 24)) * int(random.integers(0, 2)))
    return content


def _put_number(random: Random, content: bytearray, at: int) -> None:
    width = int(random.choice([1, 2, 3, 4, 8]))
    value = _EXTREMES[random.integers(len(_EXTREMES))] % (1 << 8 * width)
    content[at : at + width] = value.to_bytes(width, "little" if random.random() < 0.5 else "big")


def _splice(random: Random, content: bytearray, files: list[bytes]) -> bytearray:
    other = files[random.integers(len(files))]
    return content[: _place(random, content)] + other[int(random.integers(len(other))) :]


def _insert(random: Random, content: bytearray, files: list[bytes]) -> bytearray:
    other = files[random.integers(len(files))]
    begin, at = int(random.integers(len(other))), _place(random, content)
    content[at:at] = other[begin : begin + int(random.integers(1, 200))]
    return content


def _repeat(random: Random, content: bytearray, _files: list[bytes]) -> bytearray:
    at, length = _place(random, content), int(random.integers(1, 400))
    return content[: at + length] + content[at:]


_Mutation = Callable[[Random, bytearray, list[bytes]], bytearray]
_MUTATIONS: list[_Mutation] = [
    _flip_bits,
    _flip_bits,
    _replace_run,
    _truncate,
    _extreme_number,
    _extreme_number,
    _chunk_length,
    _splice,
    _insert,
    _repeat,
]


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        value = byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C1_1DB7 if value & 0x8000_0000 else 0)) & 0xFFFF_FFFF
        table.append(value)
    return table


_CRC = _crc_table()


def _mend_pages(content: bytearray) -> None:
    """Give each page of an Ogg file the checksum of what it holds now."""
    at = 0
    while (at := content.find(b"OggS", at)) >= 0 and at + 27 <= len(content):
        body = at + 27 + content[at + 26]
        end = body + sum(content[at + 27 : body])
        content[at + 22 : at + 26] = bytes(4)
        checksum = 0
        for byte in content[at:end]:
            checksum = (checksum << 8 ^ _CRC[checksum >> 24 ^ byte]) & 0xFFFF_FFFF
        content[at + 22 : at + 26] = checksum.to_bytes(4, "little")
        at += 4
