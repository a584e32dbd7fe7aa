"""Real models and real speech for the audio tests."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
import soxr

from pipeline.models.registry import fetch
from pipeline.models.silero import SileroVad
from pipeline.sample import sample_path
from pipeline.settings import default_cache_dir


@pytest.fixture(scope="session")
def silero_path() -> Path:
    """The packaged silero model, fetched when it is not there."""
    cache_dir = os.environ.get("CALLSTREAM_TEST_MODELS") or os.environ.get("CALLSTREAM_CACHE_DIR") or default_cache_dir()
    return fetch(cache_dir, ["silero"])["silero"][0]


@pytest.fixture(scope="session")
def silero(silero_path: Path) -> SileroVad:
    return SileroVad(silero_path)


@pytest.fixture(scope="session")
def speech() -> dict[int, npt.NDArray[np.int16]]:
    """Channel 0 of the bundled call, by rate in Hz."""
    samples, rate_hz = soundfile.read(sample_path(), dtype="int16")
    narrow = np.ascontiguousarray(samples[:, 0])
    return {8000: narrow, 16000: soxr.resample(narrow, rate_hz, 16000)}
