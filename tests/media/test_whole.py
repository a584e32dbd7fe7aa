"""A file is heard whole or refused: headers that were never finished, and audio where libsndfile stops before the end."""

import io
import os
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from pipeline.media.errors import MediaError
from pipeline.media.files import MediaFile, Selection
from pipeline.media.sandbox import Sandbox
from pipeline.media.whole import WholeFile
from tests.media.samples import Int16, noise, samples, tones

RATE_HZ = 16_000
MP3_FRAME = 576  # samples, at this rate
SEVERAL = "the file holds several recordings one behind the other: give each as a file of its own"
MORE = "the file is damaged, or holds several recordings: there is audio behind what can be decoded"


def encoded(frames: NDArray[Any], container: str, encoding: str, **how: Any) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, frames, RATE_HZ, format=container, subtype=encoding, **how)
    return file.getvalue()


def mp3(seconds: float = 6.0) -> bytes:
    """Of variable bit rate: first loud, then silent."""
    frames = np.zeros((round(seconds * RATE_HZ), 1))
    frames[:RATE_HZ] = noise(RATE_HZ, 1) / 65_536
    return encoded(frames, "MP3", "MPEG_LAYER_III", bitrate_mode="VARIABLE", compression_level=0.5)


def without_count(content: bytes) -> bytes:
    """An MP3 without its first frame, which says how many there are."""
    assert b"Xing" in content[:64]
    return content[content.index(content[:2], 4) :]


def wav(frames: Int16) -> bytearray:
    return bytearray(encoded(frames, "WAV", "PCM_16"))


def with_lengths(content: bytearray, riff: int, data: int) -> bytes:
    struct.pack_into("<I", content, 4, riff)
    struct.pack_into("<I", content, 40, data)
    return bytes(content)


def heard(content: bytes, path: Path, selection: Selection | None = None) -> Int16:
    path.write_bytes(content)
    with MediaFile(path, selection or Selection()) as media:
        return samples(list(media.chunks()), media.format.channels)


def refusal(content: bytes, path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        heard(content, path)
    return str(caught.value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def test_an_mp3_that_does_not_say_how_long_it_is_is_heard_to_its_end(path: Path) -> None:
    known = heard(mp3(), path)
    assert len(known) == 6 * RATE_HZ
    content = without_count(mp3())
    whole = heard(content, path)
    with soundfile.SoundFile(path) as guessed:
        assert guessed.frames < len(whole) / 2
    assert len(whole) % MP3_FRAME == 0
    assert 0 < len(whole) - len(known) < 4 * MP3_FRAME
    for tail in (b"TAG" + bytes(125), b"APETAGEX" + bytes(noise(5000, 1)), bytes(5000)):
        assert np.array_equal(heard(content + tail, path), whole)
    assert np.array_equal(heard(b"ID3\x03\x00\x00\x00\x00\x02\x00" + bytes(256) + content, path), whole)
    assert len(heard(content[:-20], path)) == len(whole) - MP3_FRAME
    part = Selection(range_from_s=2.5, range_to_s=5.25)
    assert np.array_equal(heard(content, path, part), whole[40_000:84_000])


async def test_the_sandbox_hears_it_too(path: Path, sandbox: Sandbox) -> None:
    whole = heard(without_count(mp3()), path)
    assert (await sandbox.probe(path)).duration_s == len(whole) / RATE_HZ
    assert np.array_equal(samples([chunk async for chunk in sandbox.decode(path)], 1), whole)


def test_an_mp3_that_was_cut_off_is_heard_as_far_as_it_goes(path: Path) -> None:
    content = mp3()
    assert 4 * RATE_HZ < len(heard(content[: len(content) * 9 // 10], path)) < 6 * RATE_HZ


@pytest.mark.parametrize(("riff", "data"), [(0, 0), (36, 0), (0xFFFF_FFFF, 0), (8, 0), (0, 0xFFFF_FFFF), (36, 0x7FFF_FFFF)])
def test_a_wav_whose_header_was_never_finished_is_heard_to_its_end(path: Path, riff: int, data: int) -> None:
    original = noise(RATE_HZ, 2)
    original[0] = 0
    assert np.array_equal(heard(with_lengths(wav(original), riff, data), path), original)
    assert heard(with_lengths(wav(original[:0]), riff, data), path).size == 0


def test_a_wav_may_have_other_chunks_behind_its_data(path: Path) -> None:
    original = noise(RATE_HZ, 1)
    note = b"LIST" + struct.pack("<I", 4) + b"INFO"
    odd = b"note" + struct.pack("<I", 3) + b"abc"
    for tail in (note, odd + note, odd + b"\0" + note, note + bytes(70_000), bytes(noise(400, 1))):
        assert np.array_equal(heard(bytes(wav(original)) + tail, path), original)
        assert heard(bytes(wav(original[:0])) + note, path).size == 0
    assert refusal(bytes(wav(original)) + bytes(noise(4000, 1)), path) == MORE
    assert refusal(bytes(wav(original)) + note + bytes(noise(4000, 1)), path) == MORE


@pytest.mark.parametrize("kind", [("WAV", "PCM_16"), ("WAV", "ULAW"), ("FLAC", "PCM_16"), ("MP3", "MPEG_LAYER_III")])
@pytest.mark.parametrize("tag_bytes", [100, 20_000])
def test_a_tag_in_front_takes_nothing_from_the_end(path: Path, kind: tuple[str, str], tag_bytes: int) -> None:
    content = encoded(tones(2.0, 1, RATE_HZ), *kind)
    tag = b"ID3\x03\x00\x00\x00" + bytes([tag_bytes >> 14, tag_bytes >> 7 & 127, tag_bytes & 127]) + bytes(tag_bytes)
    expected = heard(content, path)
    assert np.array_equal(heard(tag + content, path), expected)
    if kind == ("WAV", "PCM_16"):
        assert np.array_equal(heard(tag + with_lengths(bytearray(content), 0, 0), path), expected)


def test_what_fills_a_wav_up_or_describes_it_is_no_audio(path: Path) -> None:
    original = noise(RATE_HZ, 1)
    note = b"LIST" + struct.pack("<I", 1800) + bytes(noise(900, 1))
    cut, picture = b"_PMX" + struct.pack("<I", 90_000) + bytes(noise(2000, 1)), bytes(noise(20_000, 1))
    tags = (b"ID3\x03\x00\x00\x00\x02\x00\x00" + picture, b"APETAGEX" + picture)
    for tail in (cut, note + cut, *tags, b"\xff" * 4000, bytes(300) + note, b"\0" + note, note + b"\xff" * 4000 + note):
        assert np.array_equal(heard(bytes(wav(original)) + tail, path), original)
    assert heard(bytes(wav(original[:0])) + cut, path).size == 0
    for tail in (bytes(300) + bytes(noise(4000, 1)), b"\xff" * 4000 + bytes(noise(4000, 1))):
        assert refusal(bytes(wav(original)) + tail, path) == MORE
    assert refusal(bytes(wav(original)) + bytes(300) + bytes(wav(original)), path) == SEVERAL


@pytest.mark.parametrize("container", ["WAV", "FLAC", "VORBIS", "OPUS", "MP3"])
def test_of_files_one_behind_the_other_none_is_left_out_in_silence(path: Path, container: str) -> None:
    kind = {"WAV": ("WAV", "PCM_16"), "FLAC": ("FLAC", "PCM_16"), "MP3": ("MP3", "MPEG_LAYER_III")}
    first, second = (encoded(tones(seconds, 1, RATE_HZ), *kind.get(container, ("OGG", container))) for seconds in (2.0, 0.5))
    expected = {"WAV": SEVERAL, "FLAC": SEVERAL, "MP3": MORE}
    ogg = "the file holds several streams of audio: give each as a file of its own"
    assert refusal(first + second, path) == expected.get(container, ogg)
    assert refusal(second + first, path) == expected.get(container, ogg)


def test_mp3_behind_the_count_of_frames(path: Path) -> None:
    alone, more = mp3(), without_count(mp3())
    assert refusal(alone + b"ID3\x03\x00\x00\x00\x04\x00\x00" + bytes(65_536) + more, path) == MORE
    assert len(heard(more + alone, path)) == len(heard(more, path)) + len(heard(without_count(alone), path)) + MP3_FRAME
    assert refusal(alone[:3000] + bytes(3000) + alone[3000:], path).startswith("the file ")
    assert refusal(more[:3000] + bytes(3000) + more[3000:], path).startswith("the file ")


def test_flac_behind_the_number_of_samples(path: Path) -> None:
    content = bytearray(encoded(noise(4 * RATE_HZ, 1), "FLAC", "PCM_16"))
    content[22:26] = struct.pack(">I", 1000)
    assert refusal(bytes(content), path) == MORE
    content[22:26] = bytes(4)  # unknown
    assert len(heard(bytes(content), path)) == 4 * RATE_HZ


@pytest.mark.parametrize("seconds", [0.02, 0.3, 3.0, 3.2, 19.9])
def test_what_stands_behind_flac_is_no_audio(path: Path, seconds: float) -> None:
    content = encoded(tones(seconds, 1, RATE_HZ), "FLAC", "PCM_16")
    expected = heard(content, path)
    assert len(expected) == round(seconds * RATE_HZ)
    for tail in (b"TAG" + bytes(125), b"APETAGEX" + bytes(24) + b"abc" * 3000, b"\n", bytes(5000)):
        assert np.array_equal(heard(content + tail, path), expected)


def test_no_file_keeps_the_search_for_its_parts_busy(path: Path) -> None:
    """Each of these would take minutes of a decoder's time, without a sign of life; a tenth of it is enough to be refused."""
    small = wav(noise(RATE_HZ, 1))
    begin = bytes(small[:12])
    hostile = {
        "pages": b"OggS" + (b"OggS" + bytes(23) + b"x") * 20_000,
        "chunks": begin + (b"JUNK" + bytes(4)) * 110_000,
        "chunks behind": bytes(small) + (b"JUNK" + bytes(4)) * 110_000,
        "fill": bytes(small) + (b"\0JUNK" + bytes(4)) * 110_000,
        "chunks and fill": bytes(small) + ((b"JUNK" + bytes(4)) * 5_000 + b"\xff" * 16) * 22,
        "fill of two kinds": bytes(small) + (b"\xff" * 16 + b"\xfe" * 16) * 110_000,
        "tags": (b"ID3" + bytes(7)) * 2_000,
        "frames": without_count(mp3(1.0)) + b"\xff\xfb" * 1_100_000,
    }
    for name, content in hostile.items():
        assert refusal(content, path).startswith(("the file is damaged: it has more", "the file is damaged: 10,001")), name
    notes = (b"LIST" + struct.pack("<I", 4) + b"note") * 12_000
    assert np.array_equal(heard(bytes(small) + notes, path), noise(RATE_HZ, 1))


def test_a_file_that_fails_while_it_is_read_is_not_at_its_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_bytes(wav(noise(RATE_HZ, 1)))
    read = os.read

    def fail_later(fd: int, count: int) -> bytes:
        if os.lseek(fd, 0, os.SEEK_CUR) > RATE_HZ:
            raise OSError(5, "Input/output error")
        return read(fd, count)

    monkeypatch.setattr(os, "read", fail_later)
    with path.open("rb") as file, WholeFile(file.fileno()) as whole, pytest.raises(MediaError, match="Input/output error"):
        list(whole.parts(1000, "int16"))


def test_a_pipe_is_read_as_it_comes(path: Path) -> None:
    original = noise(RATE_HZ, 1)
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(bytes(wav(original)),))
    writer.start()
    with MediaFile(path, is_trusted=True) as media:
        assert np.array_equal(samples(list(media.chunks()), 1), original)
    writer.join()
