"""The real models, fetched once into the folder that CALLSTREAM_TEST_MODELS names, or into the user's cache."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.models import registry
from pipeline.models.manifest import Manifest, load_manifest
from pipeline.models.models import ModelSet
from pipeline.settings import default_cache_dir

REFERENCE_DIR = Path(__file__).resolve().parents[3] / "shared" / "reference"
CLIPS = (0, 1, 2)


@pytest.fixture(scope="session")
def cache_dir() -> Path:
    folder = Path(os.environ.get("CALLSTREAM_TEST_MODELS") or default_cache_dir())
    registry.fetch(folder)
    registry.fetch(folder, ["whisper-tiny"])
    return folder


@pytest.fixture(scope="session")
def manifest() -> Manifest:
    return load_manifest()


@pytest.fixture(scope="session")
def models(cache_dir: Path) -> ModelSet:
    return ModelSet.load(cache_dir, "tiny")


def reference(name: str) -> dict[str, npt.NDArray[Any]]:
    """Outputs of the original frameworks on real speech, which are kept beside the repository."""
    path = REFERENCE_DIR / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"the original frameworks' outputs are not at {path}")
    with np.load(path) as arrays:
        return dict(arrays)


def samples_of(arrays: dict[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    return (arrays["pcm"] / np.float32(32768)).astype(np.float32)
