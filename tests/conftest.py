"""Fixtures of every test."""

import functools
import os
import sys
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

# As the command line does, and before numpy is there: with more threads products are summed in another order, to other bits.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A machine that stands still for a moment is no fault of what is tested. Whether a change passes is not left to luck: it is
# tried with the same examples each time, and other runs, with others each time, find what these do not.
hypothesis.settings.register_profile("callstream", deadline=None, derandomize="CALLSTREAM_CI_RUN" in os.environ)
hypothesis.settings.load_profile("callstream")

ROOT = Path(__file__).resolve().parent.parent

pytest_plugins = ["tests.broker_fixture"]


class _Lanes(LoadScopeScheduling):
    """All files with tests that need a broker one behind the other in one lane, the others file by file beside them."""

    def _split_scope(self, nodeid: str) -> str:
        return _lane_of(nodeid.partition("::")[0])


@functools.cache
def _lane_of(file: str) -> str:
    return "broker" if "pytest.mark.broker" in (ROOT / file).read_text() else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """How tests are spread with `-n 2` (pytest-xdist)."""
    return _Lanes(config, log)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remember how it went."""
    session.config.stash[_STATUS] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End at once: librdkafka's destructors may wait for ever for a broker that a test has taken away."""
    sys.stdout.flush()
    sys.stderr.flush()
    if _STATUS in config.stash:
        os._exit(config.stash[_STATUS])


_STATUS = pytest.StashKey[int]()
