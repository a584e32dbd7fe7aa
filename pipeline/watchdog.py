"""Ends a worker that is dead but does not know it, or that cannot bring itself to end: from a thread of its own."""

import asyncio
import contextlib
import faulthandler
import logging
import math
import os
import threading
from collections.abc import Sequence

from pipeline.breaker import EXIT_BREAKER
from pipeline.membership import consumer_fault, producer_fault
from pipeline.runner import StageRunner
from pipeline.settings import Settings

logger = logging.getLogger(__name__)

EXIT_ZOMBIE = 70
_LOOK_EVERY_S = 2.0
LAST_WORDS_S = 5.0  # for leaving the groups and closing connections
_SESSIONS = 3  # a loop that has stood still for so many session timeouts lost its partitions long ago


class Pulse:
    """Whether an event loop turns, asked from another thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._answered = threading.Event()
        self._silent = 0
        self._ask()

    def _ask(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed: the process has ended
            self._loop.call_soon_threadsafe(self._answered.set)

    def silent_looks(self) -> int:
        """How many looks in a row have had no answer. Looks, not seconds: a process that was frozen was not looked at."""
        if self._answered.is_set():
            self._answered.clear()
            self._silent = 0
            self._ask()
        else:
            self._silent += 1
        return self._silent


def start(
    runners: Sequence[StageRunner], settings: Settings, loop: asyncio.AbstractEventLoop, has_ended: threading.Event
) -> None:
    """Watch a worker's agents until it has ended."""
    arguments = (runners, settings, Pulse(loop), has_ended)
    threading.Thread(target=_watch, args=arguments, name="watchdog", daemon=True).start()


def _watch(runners: Sequence[StageRunner], settings: Settings, pulse: Pulse, has_ended: threading.Event) -> None:
    most_silent = math.ceil(_SESSIONS * settings.session_timeout_s / _LOOK_EVERY_S)
    while not any(runner.app.should_stop for runner in runners):
        has_ended.wait(_LOOK_EVERY_S)
        if pulse.silent_looks() > most_silent:
            logger.critical("the event loop stands still; the process ends, start it again; what it stands at is on stderr")
            faulthandler.dump_traceback()
            os._exit(EXIT_ZOMBIE)
        _look_for_faults(runners)
    if not has_ended.wait(settings.grace_period_s + LAST_WORDS_S):
        _end_unfinished(runners, settings.grace_period_s)


def _look_for_faults(runners: Sequence[StageRunner]) -> None:
    for runner in runners:
        runner.app.lease.tell()
        fault = consumer_fault(runner.app) or producer_fault(runner.app)
        if fault is not None and not runner.app.should_stop:
            logger.critical("agent %s: %s; the process ends, start it again", runner.stage.name, fault)
            os._exit(EXIT_ZOMBIE)


def _end_unfinished(runners: Sequence[StageRunner], grace_period_s: float) -> None:
    """Where every task and thread stands goes to stderr: nobody can ask this process once it has ended."""
    for task in asyncio.all_tasks(runners[0].app.loop):
        task.print_stack(limit=4)
    faulthandler.dump_traceback()
    logger.critical("the agents did not end within %g s; the process ends, unfinished work will be done again", grace_period_s)
    os._exit(EXIT_BREAKER if any(runner.breaker.is_open for runner in runners) else EXIT_ZOMBIE)
