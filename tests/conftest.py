"""Fixtures of every test."""

import os
import sys

import hypothesis
import pytest

# As the command line does, and before numpy is there: with more threads products are summed in another order, to other bits.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A machine that stands still for a moment is no fault of what is tested.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

pytest_plugins = ["tests.broker_fixture"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `-n 2` (pytest-xdist) tests run in two lanes: all that need a broker one behind the other, others file by file."""
    for item in items:
        lane = "broker" if item.get_closest_marker("broker") else item.nodeid.partition("::")[0]
        item.add_marker(pytest.mark.xdist_group(lane))


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
