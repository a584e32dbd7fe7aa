"""What a second of audio costs may not grow unnoticed. Counts, not times: they hardly depend on the machine."""

import pytest

from benchmarks import guard


def test_allocations_and_calls_have_not_grown() -> None:
    recorded = guard.recorded()
    if recorded is None:
        pytest.skip(f"nothing is on record for Python {guard.PYTHON}: python -m benchmarks.guard --record")
    for name, counts in guard.measure().items():
        assert counts.allocations <= guard.GROWTH * recorded[name].allocations, f"{name}: see benchmarks/guard.py"
        assert counts.calls <= guard.GROWTH * recorded[name].calls, f"{name}: see benchmarks/guard.py"
        assert counts.allocations > recorded[name].allocations / 2, f"{name}: record anew, so that less stays less"
