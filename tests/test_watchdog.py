"""What the watchdog looks at: aiokafka parks a coordinator's error, and Faust never asks for it."""

import asyncio
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.producer.sender import Sender

from pipeline import membership
from pipeline.app import build_app
from pipeline.membership import Lease, consumer_fault, is_member, producer_fault
from pipeline.settings import Settings
from pipeline.watchdog import EXIT_ZOMBIE, Pulse


def app_with(coordinator: GroupCoordinator) -> Any:
    app = cast(Any, build_app("watched", Settings()))
    app._consumer = SimpleNamespace(_thread=SimpleNamespace(_consumer=SimpleNamespace(_coordinator=coordinator)))
    return app


def coordinator_of(task: "asyncio.Task[None]", error: Exception | None = None) -> GroupCoordinator:
    coordinator = GroupCoordinator.__new__(GroupCoordinator)
    coordinator._pending_exception = error
    coordinator._coordination_task = task
    coordinator.generation = 3
    coordinator.coordinator_id = 1
    coordinator._rejoin_needed_fut = asyncio.get_running_loop().create_future()
    return coordinator


async def test_a_living_coordinator_is_no_fault() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    assert consumer_fault(app_with(coordinator_of(task))) is None
    task.cancel()


async def test_a_parked_error_is_a_fault() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    fault = consumer_fault(app_with(coordinator_of(task, RuntimeError("not coordinator"))))
    assert fault is not None
    assert "not coordinator" in fault
    task.cancel()


async def test_a_task_that_has_ended_is_a_fault() -> None:
    task = asyncio.create_task(asyncio.sleep(0))
    await task
    assert consumer_fault(app_with(coordinator_of(task))) is not None


async def test_who_no_longer_follows_the_cluster_is_at_fault() -> None:
    app = cast(Any, build_app("watched", Settings()))
    client = SimpleNamespace(_sync_task=asyncio.create_task(asyncio.sleep(0.01)))
    app._producer = SimpleNamespace(_producer=SimpleNamespace(client=client))
    app._consumer = SimpleNamespace(_thread=SimpleNamespace(_consumer=SimpleNamespace(_client=client)))
    member = asyncio.create_task(asyncio.sleep(60))
    app._consumer._thread._consumer._coordinator = coordinator_of(member)
    assert producer_fault(app) is None
    assert consumer_fault(app) is None
    await client._sync_task
    assert producer_fault(app) == "the task that follows the cluster has ended"
    assert consumer_fault(app) == "the task that follows the cluster has ended"
    member.cancel()


async def test_a_producer_is_at_fault_when_its_task_has_ended() -> None:
    app = cast(Any, build_app("watched", Settings()))
    assert producer_fault(app) is None
    sender = Sender.__new__(Sender)
    app._producer = SimpleNamespace(_producer=SimpleNamespace(_sender=sender))
    sender._sender_task = asyncio.create_task(asyncio.sleep(0.01))
    assert producer_fault(app) is None
    await sender._sender_task
    assert producer_fault(app) == "the producer's task has ended"


async def test_a_member_whose_heartbeats_are_answered_is_one() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    coordinator = coordinator_of(task)
    assert is_member(app_with(coordinator))
    coordinator.coordinator_id = None  # the broker that coordinates does not answer
    assert not is_member(app_with(coordinator))
    coordinator.coordinator_id = 1
    coordinator.request_rejoin()
    assert not is_member(app_with(coordinator))
    task.cancel()


async def test_who_is_unknown_to_the_group_is_no_member() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    coordinator = coordinator_of(task)
    coordinator.reset_generation()
    assert not is_member(app_with(coordinator))
    task.cancel()


async def test_a_lease_lasts_for_a_session_timeout_behind_an_answered_heartbeat() -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    coordinator, lease, answers = coordinator_of(task), Lease(session_timeout_s=0.2), [False, True]

    async def heartbeat() -> bool:
        return answers.pop(0)

    coordinator._do_heartbeat = heartbeat  # type: ignore[method-assign]
    lease.follow(coordinator)
    assert not lease.is_valid()
    await coordinator._do_heartbeat()  # not answered
    assert not lease.is_valid()
    await coordinator._do_heartbeat()
    assert lease.is_valid()
    await asyncio.wait_for(lease.wait(), 5)
    await asyncio.sleep(0.25)
    assert not lease.is_valid()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(lease.wait(), 0.1)
    task.cancel()


def test_a_lease_knows_since_when_kafka_has_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(membership, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    lease = Lease(session_timeout_s=10.0)
    assert lease.answering_since_s() == 1000.0
    lease.renew(1000.0)
    for now_s[0] in (1004.0, 1008.0):
        lease.renew(now_s[0])
        assert lease.answering_since_s() == 1000.0
    now_s[0] = 1014.0  # it does not answer, nor does it when it has been asked again
    assert lease.answering_since_s() == 1014.0
    now_s[0] = 1020.0
    lease.renew(1019.0)
    now_s[0] = 1022.0
    assert lease.answering_since_s() == 1020.0


def test_a_lease_that_ends_is_told_once_and_its_return_too(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(membership, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    lease = Lease(10.0, "g")
    lease.tell()  # there was none yet
    lease.renew(1000.0)
    for now_s[0] in (1005.0, 1011.0, 1013.0):
        lease.tell()
    lease.renew(1014.0)
    lease.renew(1015.0)
    away, back = caplog.messages
    assert away.startswith("group g: no heartbeat was answered for 10 s, waiting")
    assert back == "group g: heartbeats are answered again"
    lease.waive()
    now_s[0] = 1050.0
    lease.tell()
    assert len(caplog.messages) == 2


def test_looking_makes_no_consumer(monkeypatch: pytest.MonkeyPatch) -> None:
    app = build_app("unstarted", Settings())
    monkeypatch.setattr(app, "_new_consumer", lambda: pytest.fail("a consumer was made on the watchdog's thread"))
    assert consumer_fault(app) is None
    assert not is_member(app)


async def test_a_loop_that_turns_has_a_pulse_and_one_that_stands_still_has_none() -> None:
    pulse = Pulse(asyncio.get_running_loop())
    await asyncio.sleep(0.01)
    assert pulse.silent_looks() == 0
    assert [pulse.silent_looks() for _ in range(3)] == [1, 2, 3]
    await asyncio.sleep(0.01)
    assert pulse.silent_looks() == 0


STANDS_STILL = """
import asyncio, sys, threading, time
from types import SimpleNamespace
from pipeline import watchdog
from pipeline.app import build_app
from pipeline.settings import Settings

async def main():
    watchdog._LOOK_EVERY_S, watchdog._SESSIONS = 0.05, 0.1
    runner = SimpleNamespace(app=build_app("watched", Settings()), stage=SimpleNamespace(name="watched"))
    watchdog.start([runner], Settings(), asyncio.get_running_loop(), threading.Event())
    for _ in range(100):
        await asyncio.sleep(0.05)
    print("turned", flush=True)
    time.sleep(120)

asyncio.run(main())
"""


def test_a_process_whose_loop_stands_still_ends_and_says_where() -> None:
    ended = subprocess.run([sys.executable, "-c", STANDS_STILL], capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stdout) == (EXIT_ZOMBIE, "turned\n")
    assert "the event loop stands still" in ended.stderr
    assert "in main" in ended.stderr


HANGS = """
import threading
from concurrent.futures import ThreadPoolExecutor
from pipeline.last_resort import end_within

ThreadPoolExecutor().submit(threading.Event().wait)  # as on a disk that hangs
end_within(0.5, 78, "the worker")
print("asked to end", flush=True)
"""


def test_a_process_that_is_to_end_waits_for_no_thread_that_hangs() -> None:
    ended = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stdout) == (78, "asked to end\n")
    assert "the worker did not end within 0.5 s" in ended.stderr
