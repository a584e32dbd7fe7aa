"""Audio to write, and the formats to write it in."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from numpy.typing import NDArray

from pipeline.media.sandbox import Exit, Sandbox

Int16 = NDArray[np.int16]
Exits = list[Exit]


class Format(NamedTuple):
    """A container and an encoding by libsndfile's names, and how near to the original it comes (correlation)."""

    container: str
    encoding: str
    likeness: float
    max_channels: int = 2


FORMATS = [
    Format("WAV", "PCM_U8", 0.999),
    Format("WAV", "PCM_16", 1.0),
    Format("WAV", "PCM_24", 0.999999),
    Format("WAV", "PCM_32", 0.999999),
    Format("WAV", "FLOAT", 0.999999),
    Format("WAV", "DOUBLE", 0.999999),
    Format("WAV", "ALAW", 0.999),
    Format("WAV", "ULAW", 0.999),
    Format("WAV", "GSM610", 0.97, max_channels=1),
    Format("WAVEX", "PCM_16", 1.0),
    Format("FLAC", "PCM_S8", 0.99),
    Format("FLAC", "PCM_16", 1.0),
    Format("FLAC", "PCM_24", 0.999999),
    Format("OGG", "VORBIS", 0.99),
    Format("OGG", "OPUS", 0.97),
    Format("MP3", "MPEG_LAYER_III", 0.99),
]


def tones(seconds: float, channels: int, rate_hz: int) -> NDArray[np.float64]:
    """A chord of its own in each channel, (n, channels)."""
    at_s = np.arange(round(seconds * rate_hz)) / rate_hz
    columns = [0.3 * np.sin(2 * np.pi * (310 + 170 * n) * at_s) + 0.1 * np.sin(2 * np.pi * 97 * at_s) for n in range(channels)]
    return np.stack(columns, axis=1)


def noise(frames: int, channels: int, seed: int = 0) -> Int16:
    """(frames, channels), no two samples alike by more than chance."""
    return np.random.default_rng(seed).integers(-20_000, 20_000, (frames, channels)).astype(np.int16)


def write(
    path: Path, frames: NDArray[np.float64] | Int16, rate_hz: int, container: str = "WAV", encoding: str = "PCM_16"
) -> Path:
    soundfile.write(path, frames, rate_hz, format=container, subtype=encoding)
    return path


def samples(chunks: list[bytes], channels: int) -> Int16:
    """(n, channels)."""
    return np.frombuffer(b"".join(chunks), "<i2").reshape(-1, channels)


def children_of(pid: int | None) -> list[int]:
    """The processes that a process has started; those that are dead and not waited for are none."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(folder.name))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until_gone(pids: list[int], within_s: float = 30.0) -> bool:
    deadline_s = time.monotonic() + within_s
    while any(map(is_running, pids)):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True


def decoders_of(sandbox: Sandbox) -> list[int]:
    assert sandbox.server_pid is not None
    return children_of(sandbox.server_pid)


def open_descriptors(pid: int | str = "self") -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
