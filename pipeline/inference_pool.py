"""Threads for models: they give way to the event loop, which has little to do but in time."""

import contextlib
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

_NICER = 10  # the scheduler then gives the loop nine parts of ten where both want the same core (man 7 sched)
_NICEST = 19


def inference_pool(threads: int, name: str) -> ThreadPoolExecutor:
    """A pool of so many threads, each of a lower priority than the loop's (on Linux, where threads have their own)."""
    return ThreadPoolExecutor(threads, thread_name_prefix=name, initializer=_give_way)


def _give_way() -> None:
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with contextlib.suppress(OSError):  # a sandbox may forbid it; an initializer that raises would break the pool
            os.setpriority(os.PRIO_PROCESS, thread, min(_NICEST, os.getpriority(os.PRIO_PROCESS, thread) + _NICER))
