"""The fault suite's forms: a short one in every test run, the long one with CALLSTREAM_FAULTS=long (`make faults`)."""

import json
import os
import random
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from pipeline.settings import Settings
from tests.faults.calls import LONG, SHORT, Call, make_call
from tests.faults.feed import Feed
from tests.faults.outcome import Expected, Outcome, Verdict, undisturbed
from tests.faults.pool import Pool
from tests.faults.uploads import FROM_FILES, FROM_LISTS, MEGABYTES, REJECTED, Upload, letters, serve, start, values, wait_final
from tests.faults.uploads import Expected as ExpectedOfUploads
from tests.system import System, open_system

Value = TypeVar("Value")
IS_LONG = os.environ.get("CALLSTREAM_FAULTS") == "long"
SESSION_TIMEOUT_S = 6.0


def pick(short: Value, long: Value) -> Value:
    """A size by the form of the run."""
    return long if IS_LONG else short


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that have no short form are not part of a short run."""
    if IS_LONG:
        return
    left_out = [item for item in items if item.get_closest_marker("only_long")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def settings_for(bootstrap: str, partitions: int = 4, **changed: object) -> Settings:
    prefix = f"f{uuid.uuid4().hex[:10]}."
    return Settings(
        broker=bootstrap,
        topic_prefix=prefix,
        partitions=partitions,
        language_model="tiny",
        session_timeout_s=SESSION_TIMEOUT_S,
        **changed,  # type: ignore[arg-type]
    )


@pytest.fixture
def system(broker_bootstrap: str, tmp_path: Path) -> Iterator[System]:
    """Topics of this test's own."""
    with open_system(settings_for(broker_bootstrap), tmp_path) as opened:
        yield opened


@pytest.fixture(scope="session")
def expected(broker_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """What each variant of a call says when one worker hears it and nothing happens."""
    calls = [
        make_call(f"undisturbed-{number}", variant, random.Random(0), calm=True)
        for number, variant in enumerate((*SHORT, *LONG))
    ]
    with (
        open_system(settings_for(broker_bootstrap), tmp_path_factory.mktemp("undisturbed")) as opened,
        Pool(opened, 1) as pool,
        Outcome(opened) as outcome,
    ):
        with Feed(opened.settings, [chunk for call in calls for chunk in call.chunks]):
            pass
        outcome.wait(calls, 120)
        assert outcome.lag() == {}
        assert pool.exits == []
        assert outcome.dead_letters() == []
        return undisturbed(outcome, calls)


@dataclass
class Report:
    """One line of the table of runs."""

    test: str
    seed: int
    faults: str
    calls: int
    tasks: int
    lost: int
    conflicting: int
    different: int
    duplicate_results: int
    duplicate_speech: int
    duplicate_prints: int
    dead_letters: int
    restarts: int
    seconds: float


Reporter = Callable[..., Report]


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Reporter:
    """Notes a run in CALLSTREAM_FAULTS_REPORT (JSON lines), before anything of it is asserted."""
    began_s = time.monotonic()

    def note(
        seed: int, faults: str, calls: list[Call], verdict: Verdict, outcome: Outcome, pool: Pool | None, dead_letters: int = 0
    ) -> Report:
        line = Report(
            test=request.node.name,
            seed=seed,
            faults=faults,
            calls=len(calls),
            tasks=verdict.tasks,
            lost=len(verdict.lost),
            conflicting=len(verdict.conflicting) + len(verdict.gaps),
            different=len(verdict.different),
            duplicate_results=verdict.duplicates,
            duplicate_speech=outcome.duplicates("speech"),
            duplicate_prints=outcome.duplicates("prints"),
            dead_letters=dead_letters,
            restarts=0 if pool is None else len(pool.exits),
            seconds=round(time.monotonic() - began_s, 1),
        )
        if path := os.environ.get("CALLSTREAM_FAULTS_REPORT"):
            with Path(path).open("a") as file:
                file.write(json.dumps(asdict(line)) + "\n")
        return line

    return note


@dataclass
class Calm:
    """A run that nothing disturbed: its tasks are final, its workers have ended, its query service is up."""

    system: System
    outcome: Outcome
    tasks: dict[str, Upload]
    expected: ExpectedOfUploads


@pytest.fixture(scope="module")
def calm(broker_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calm]:
    settings = settings_for(broker_bootstrap, partitions=2)
    with open_system(settings, tmp_path_factory.mktemp("calm")) as system, Outcome(system) as outcome:
        with Pool(system, 1) as pool:
            _, client = serve(system)
            with client:
                tasks = start(client, (*FROM_FILES, *FROM_LISTS, MEGABYTES))
            wait_final(outcome, tasks)
            assert set(pool.stop_all()) == {0}
        assert letters(system) == {}
        expected = {upload: values(outcome.tasks[task_id], task_id) for task_id, upload in tasks.items()}
        for upload, (*_, final) in expected.items():
            assert (b'"state":"rejected"' if upload.file in REJECTED else b'"state":"done"') in final
        yield Calm(system, outcome, tasks, expected)
