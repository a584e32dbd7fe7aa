import os
import sys
import threading

import pytest

from pipeline.inference_pool import inference_pool


def niceness(thread: int) -> int:
    return os.getpriority(os.PRIO_PROCESS, thread)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own here")
def test_models_give_way_to_the_thread_that_asks_them() -> None:
    mine = threading.get_native_id()
    before = niceness(mine)
    with inference_pool(2, "models") as pool:
        theirs = {pool.submit(threading.get_native_id).result() for _ in range(4)}
        assert mine not in theirs
        assert {niceness(thread) for thread in theirs} == {min(19, before + 10)}
    assert niceness(mine) == before


def test_where_priorities_are_forbidden_models_run_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "setpriority", refuse)
    with inference_pool(1, "models") as pool:
        assert pool.submit(lambda: 1).result() == 1


def test_a_pool_has_as_many_threads_as_it_is_told_and_their_name() -> None:
    at_once = threading.Barrier(3)

    def name() -> str:
        at_once.wait(10.0)
        return threading.current_thread().name

    with inference_pool(3, "models") as pool:
        names = [one.result() for one in [pool.submit(name) for _ in range(3)]]
    assert len(set(names)) == 3
    assert all(one.startswith("models") for one in names)
