"""Builds the bundled sample call from recordings of human speakers: `python -m tools.build_sample [--check]`.

The recordings are the voice prompts of Asterisk as Debian packages them (8 kHz, mono; English by a woman, CC BY-SA 3.0, and
Italian by a man, CC BY 3.0). They are fetched by package name and checked by sha256; each prompt is trimmed, brought to one
level and laid out as turns of a conversation, with pauses from a seeded generator. The same packages give the same samples, bit
for bit.
"""

import hashlib
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt
import soundfile as sf

from pipeline.sample import sample_path

SAMPLE_RATE_HZ = 8000
LEVEL_DBFS = -23.0
SEED = 20
PAUSE_S = (0.3, 1.2)  # between turns; telephone conversations have medians of a few hundred ms
OVERLAP_S = 0.4  # how early an impatient speaker begins
LEAD_S = 1.0  # silence before the first turn and after the last
ACTIVE_BELOW_PEAK_DB = 40.0  # a frame so far below the loudest one counts as silence
FRAME = SAMPLE_RATE_HZ // 100  # 10 ms

Samples = npt.NDArray[np.float64]


class BuildError(Exception):
    """The sample cannot be built here; the message says why and what to do."""


@dataclass(frozen=True)
class Source:
    """A Debian package of prompts: pinned version, sha256 of the .deb file, and the folder of the prompts in it."""

    package: str
    version: str
    sha256: str
    folder: str


@dataclass(frozen=True)
class Turn:
    """One prompt on one channel; `overlaps` when it begins before the turn before it is over."""

    channel: int
    prompt: str
    overlaps: bool = False


SOURCES = (
    Source(
        "asterisk-core-sounds-en-wav",
        "1.6.1-1",
        "2be3ea287d83299d143815fa804f11179a75b7affd4a758b98b55f5afc18a35d",
        "usr/share/asterisk/sounds/en_US_f_Allison",
    ),
    Source(
        "asterisk-core-sounds-it-wav",
        "1.6.1-1",
        "5a26638089e134b8ac39363fe249c5c93c50cd8bfdc9b2499ae61ec4a35e2fcb",
        "usr/share/asterisk/sounds/it_IT_m_Carlo",
    ),
)  # by channel

TURNS = (
    Turn(0, "queue-periodic-announce"),
    Turn(1, "priv-introsaved"),
    Turn(0, "queue-youarenext"),
    Turn(1, "queue-periodic-announce"),
    Turn(0, "vm-intro"),
    Turn(1, "vm-intro"),
    Turn(0, "ss-noservice"),
    Turn(1, "ss-noservice", overlaps=True),
    Turn(0, "vm-invalid-password"),
    Turn(1, "vm-newuser"),
    Turn(0, "vm-saveoper"),
    Turn(1, "vm-rec-unv"),
)


def run(command: list[str], folder: Path) -> None:
    """Run a command in a folder. Raises BuildError with its last line of output when it fails."""
    if shutil.which(command[0]) is None:
        raise BuildError(f"{command[0]} is not here: the sample is built on Debian or a system derived from it")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise BuildError(f"{' '.join(command)}: {last}; `apt-get update` may be needed")


def fetch(source: Source, folder: Path) -> Path:
    """Download and unpack a package under `folder`; returns the folder of its prompts. Raises BuildError."""
    run(["apt-get", "download", f"{source.package}={source.version}"], folder)
    archive = next(folder.glob(f"{source.package}_*.deb"))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != source.sha256:
        raise BuildError(f"{archive.name} has sha256 {digest}, not {source.sha256}: not the file this sample is made from")
    run(["dpkg-deb", "-x", archive.name, source.package], folder)
    return folder / source.package / source.folder


def frame_power(samples: Samples) -> Samples:
    """Mean power of each 10 ms frame, shape (frames,); a last part frame is left out."""
    whole = len(samples) // FRAME * FRAME
    power: Samples = np.square(samples[:whole]).reshape(-1, FRAME).mean(axis=1)
    return power


def active_frames(samples: Samples) -> npt.NDArray[np.bool_]:
    """Which 10 ms frames hold speech: those within 40 dB of the loudest one."""
    power = frame_power(samples)
    active: npt.NDArray[np.bool_] = power > power.max(initial=0.0) * 10 ** (-ACTIVE_BELOW_PEAK_DB / 10)
    return active


def trim(samples: Samples) -> Samples:
    """Without the silence before and after the speech. Raises BuildError when there is no speech."""
    active = np.flatnonzero(active_frames(samples))
    if not active.size:
        raise BuildError("a prompt is silent: nothing to lay out")
    return samples[active[0] * FRAME : (active[-1] + 1) * FRAME]


def to_level(samples: Samples, level_dbfs: float = LEVEL_DBFS) -> Samples:
    """Scaled so that the frames with speech have this level (dB to full scale). Raises BuildError when it would clip."""
    power = float(frame_power(samples)[active_frames(samples)].mean())
    scaled: Samples = samples * 10 ** (level_dbfs / 20) / np.sqrt(power)
    if np.abs(scaled).max() >= 1.0:
        raise BuildError(f"a prompt would clip at {level_dbfs} dBFS: take a lower level")
    return scaled


def start_samples(lengths: list[int], turns: tuple[Turn, ...] = TURNS) -> tuple[list[int], int]:
    """Where each turn begins, and how long the call is (samples), for turns of these lengths."""
    generator = np.random.default_rng(SEED)
    starts: list[int] = []
    end = round(LEAD_S * SAMPLE_RATE_HZ)
    for turn, length in zip(turns, lengths, strict=True):
        pause_s = -OVERLAP_S if turn.overlaps else float(generator.uniform(*PAUSE_S))
        starts.append(end + round(pause_s * SAMPLE_RATE_HZ) if starts else end)
        end = starts[-1] + length
    return starts, end + round(LEAD_S * SAMPLE_RATE_HZ)


def lay_out(prompts: list[Samples], turns: tuple[Turn, ...] = TURNS) -> npt.NDArray[np.int16]:
    """The call, shape (samples, channels), from one prompt for each turn."""
    starts, length = start_samples([len(prompt) for prompt in prompts], turns)
    call = np.zeros((length, len(SOURCES)))
    for turn, start, prompt in zip(turns, starts, prompts, strict=True):
        call[start : start + len(prompt), turn.channel] += prompt
    return np.round(call * 32767).astype(np.int16)


def read_prompt(path: Path) -> Samples:
    """One prompt, trimmed and at level. Raises BuildError when it is not 8 kHz mono."""
    recording, rate_hz = sf.read(path, dtype="float64")
    samples: Samples = np.asarray(recording, np.float64)
    if rate_hz != SAMPLE_RATE_HZ or samples.ndim != 1:
        raise BuildError(f"{path.name} is not {SAMPLE_RATE_HZ} Hz mono")
    return to_level(trim(samples))


def build() -> npt.NDArray[np.int16]:
    """Fetch the sources and make the call, shape (samples, 2). Raises BuildError."""
    with tempfile.TemporaryDirectory() as name:
        folders = [fetch(source, Path(name)) for source in SOURCES]
        return lay_out([read_prompt(folders[turn.channel] / f"{turn.prompt}.wav") for turn in TURNS])


def digest(call: npt.NDArray[np.int16]) -> str:
    """The sha256 of the samples as little-endian bytes; an encoder's version does not change it."""
    return hashlib.sha256(call.astype("<i2").tobytes()).hexdigest()


@click.command()
@click.option("--check", is_flag=True, help="Compare with the bundled file and write nothing.")
def main(check: bool) -> None:
    """Build the bundled sample call."""
    try:
        call = build()
    except BuildError as error:
        sys.exit(f"build_sample: {error}")
    if check:
        bundled, _ = sf.read(sample_path(), dtype="int16")
        if digest(np.asarray(bundled, np.int16)) != digest(call):
            sys.exit(f"build_sample: {sample_path().name} is not what its sources give: run python -m tools.build_sample")
    else:
        sf.write(sample_path(), call, SAMPLE_RATE_HZ, format="FLAC", subtype="PCM_16", compression_level=1.0)
    click.echo(
        f"{sample_path().name}: {len(call) / SAMPLE_RATE_HZ:.1f} s, {sample_path().stat().st_size} bytes, {digest(call)}"
    )


if __name__ == "__main__":
    main()
