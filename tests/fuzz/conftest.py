from pathlib import Path

import pytest

from agents import comparison, extraction, gender, intake, language, vad
from tests.agents.conftest import OpenBench, opener


@pytest.fixture
def open_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OpenBench:
    """A bench with every stage, also the one that takes files; keyword arguments are settings."""
    return opener(tmp_path, monkeypatch, (intake, vad, extraction, language, gender, comparison))
