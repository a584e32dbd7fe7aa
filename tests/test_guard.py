"""What a second of audio costs may not grow unnoticed. Counts, not times: they hardly depend on the machine."""

import subprocess
import sys

import pytest

from benchmarks import guard


def test_allocations_and_calls_have_not_grown() -> None:
    if guard.recorded() is None:
        pytest.skip(f"nothing is on record for Python {guard.PYTHON}: python -m benchmarks.guard --record")
    # in a process of its own: what other tests leave running in this one allocates too
    found = subprocess.run([sys.executable, "-m", "benchmarks.guard"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


async def test_what_was_left_before_and_is_freed_meanwhile_is_not_counted() -> None:
    left = [object() for _ in range(50_000)]

    async def work() -> None:
        left.clear()

    assert await guard.allocations(work) < 1000
