"""What the watchdog looks at: aiokafka parks a coordinator's error, and Faust never asks for it."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator

from pipeline.app import build_app, coordinator_fault
from pipeline.settings import Settings


def app_with(coordinator: GroupCoordinator) -> Any:
    app = cast(Any, build_app("watched", Settings()))
    app._consumer = SimpleNamespace(_thread=SimpleNamespace(_consumer=SimpleNamespace(_coordinator=coordinator)))
    return app


def coordinator_of(task: "asyncio.Task[None]", error: Exception | None = None) -> GroupCoordinator:
    coordinator = GroupCoordinator.__new__(GroupCoordinator)
    coordinator._pending_exception = error
    coordinator._coordination_task = task
    return coordinator


async def test_a_living_coordinator_is_no_fault() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    assert coordinator_fault(app_with(coordinator_of(task))) is None
    task.cancel()


async def test_a_parked_error_is_a_fault() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    fault = coordinator_fault(app_with(coordinator_of(task, RuntimeError("not coordinator"))))
    assert fault is not None
    assert "not coordinator" in fault
    task.cancel()


async def test_a_task_that_has_ended_is_a_fault() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    assert coordinator_fault(app_with(coordinator_of(task))) is not None


def test_looking_makes_no_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    app = build_app("unstarted", Settings())
    monkeypatch.setattr(app, "_new_consumer", lambda: pytest.fail("a consumer was made on the watchdog's thread"))
    assert coordinator_fault(app) is None
