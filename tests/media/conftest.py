"""Media files of every format, made when they are needed."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.media.sandbox import Sandbox
from tests.media.samples import Exits


@pytest.fixture
def exits() -> Exits:
    """What the children took, in the order of their ends."""
    return []


@pytest.fixture
async def sandbox(exits: Exits) -> AsyncIterator[Sandbox]:
    with Sandbox(on_exit=exits.append) as one:
        yield one


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    return tmp_path / "file.wav"
