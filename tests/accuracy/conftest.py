"""Recordings of real speakers that every checkout has: the bundled call, cut up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.sample import sample_path


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """What the bundled call holds: a woman who speaks English and a man who speaks Italian, two recordings of each."""
    samples, rate_hz = soundfile.read(sample_path(), dtype="int16")
    rows = ["path,speaker,gender,language"]
    for channel, who in enumerate(("woman,f,en", "man,m,it")):
        voice = samples[np.abs(samples[:, channel]) > 0, channel]
        for number in range(2):
            name = f"{channel}_{number}.wav"
            soundfile.write(tmp_path / name, voice[number * 6 * rate_hz : (number + 1) * 6 * rate_hz], rate_hz)
            rows.append(f"{name},{who}")
    (tmp_path / "clips.csv").write_text("\n".join(rows))
    return tmp_path / "clips.csv"
