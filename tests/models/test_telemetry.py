"""onnxruntime's builds report to their maker. Calls are nobody's business, so nothing of this program does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.broker_fixture import cache_dir

LOADS_A_MODEL = """
import {first}
from pipeline.models.detector import load_vad
from pipeline.settings import Settings
settings = Settings()
load_vad(settings.cache_dir, settings.manifest_path)
"""


@pytest.mark.parametrize("first", ["pipeline.cli", "benchmarks.vad", "pipeline.models.session"])
def test_nothing_is_collected(tmp_path: Path, first: str) -> None:
    """What is to be sent lies in the home folder first, with the id of the machine."""
    kept = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME")}
    environment = kept | {
        "HOME": str(tmp_path),
        "CALLSTREAM_CACHE_DIR": str(cache_dir()),
        "MPLCONFIGDIR": str(tmp_path / "plots"),
    }
    subprocess.run([sys.executable, "-c", LOADS_A_MODEL.format(first=first)], env=environment, check=True, timeout=100)
    assert [path for path in tmp_path.rglob("*") if "onnxruntime" in str(path)] == []
