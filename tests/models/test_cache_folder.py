"""A cache folder that may not be looked into, as behind `sudo -u` with the home kept: told in one line, with its setting."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.broker.errors import BrokerError
from pipeline.broker.jars import ensure_jars, expected_sums
from pipeline.models.errors import ModelError
from pipeline.models.manifest import load_manifest
from pipeline.models.store import status

NOBODY = 65_534


@contextlib.contextmanager
def closed(folder: Path) -> Iterator[None]:
    """To everybody but root, who this is no longer meanwhile."""
    was = os.geteuid()
    folder.chmod(0)
    if was == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(was)
        folder.chmod(0o700)


def test_models(tmp_path: Path) -> None:
    manifest = load_manifest()
    with closed(tmp_path), pytest.raises(ModelError, match="Permission denied; check CALLSTREAM_CACHE_DIR"):
        status(tmp_path, manifest)


def test_jars(tmp_path: Path) -> None:
    assert expected_sums()  # what Python loads for that may lie where nobody may look, too
    with closed(tmp_path), pytest.raises(BrokerError, match=r"CALLSTREAM_CACHE_DIR.*Permission denied"):
        ensure_jars(tmp_path)
