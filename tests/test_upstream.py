"""The faults of libraries in docs/upstream are still there: one that is gone takes its workaround along."""

import shutil
import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

UPSTREAM = Path(__file__).parent.parent / "docs" / "upstream"
NAMES = sorted(folder.name for folder in UPSTREAM.iterdir() if folder.is_dir())
NO_BROKER = [
    "aiokafka-fetcher-close-cancelled",
    "aiokafka-header-name-not-utf8",
    "faust-commit-past-head",
    "faust-failed-commit-forgotten",
    "faust-gap-counts-record",
    "faust-overlapping-rebalances",
    "faust-seek-across-threads",
    "faust-web-enabled-ignored",
]
SOURCE_ONLY = {"msgspec-struct-threads"}  # its patch is for C code, which is not installed


@pytest.mark.parametrize("name", NO_BROKER)
def test_a_fault_is_still_there(name: str) -> None:
    tried = subprocess.run(
        [sys.executable, UPSTREAM / name / "reproduce.py"], check=False, capture_output=True, text=True, timeout=30
    )
    assert tried.stdout.splitlines()[-1:] == ["REPRODUCED"], tried.stdout + tried.stderr
    assert tried.returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_fault_is_described_reproduced_and_mended(name: str) -> None:
    for file in ("README.md", "reproduce.py", "fix.patch"):
        assert (UPSTREAM / name / file).stat().st_size > 0
    assert f"[{name}]({name}/README.md)" in (UPSTREAM / "README.md").read_text()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SOURCE_ONLY])
def test_a_patch_applies_to_what_is_installed(name: str) -> None:
    if shutil.which("patch") is None:
        pytest.skip("there is no `patch` here")
    package = PathFinder.find_spec(name.split("-")[0])  # not importlib's: Faust, once imported, hides its own
    assert package is not None
    assert package.origin is not None
    applied = subprocess.run(
        ["patch", "--dry-run", "--batch", "-p1", "-i", UPSTREAM / name / "fix.patch"],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(package.origin).parent.parent,
    )
    assert applied.returncode == 0, applied.stdout
