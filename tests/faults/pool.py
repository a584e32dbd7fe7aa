"""Workers under a supervisor that starts again whatever ends, as `restart: unless-stopped` does."""

import random
import signal
import sys
import threading
import time
from collections.abc import Sequence

from tests.system import Process, System

DOOMED = [sys.executable, "-m", "tests.faults.doomed"]
_LOOK_EVERY_S = 0.1


class Pool:
    """`size` workers of one inference thread each.

    `dooms` go to the lives of all but the last worker (of the only one, if it is alone), in turn (see tests.faults.doomed),
    until none is left; `always` goes to every life.
    """

    def __init__(
        self, system: System, size: int, dooms: Sequence[str] = (), *, always: str | None = None, **environment: str
    ) -> None:
        self._system = system
        self._environment = {"CALLSTREAM_INFERENCE_THREADS": "1"} | environment
        self._always = always
        self.dooms = list(dooms)
        self._lock = threading.Lock()
        self._signalled: set[int] = set()
        self._stopping = threading.Event()
        self.exits: list[int] = []
        self.surprises: list[int] = []
        self._doomed: set[int] = set()
        self.workers: list[Process] = []
        for slot in range(size):
            self.workers.append(self._start(doomed=slot < max(1, size - 1)))
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)

    def __enter__(self) -> "Pool":
        self._supervisor.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._supervisor.join()
        for worker in self.workers:
            worker.close()

    def _start(self, *, doomed: bool = False) -> Process:
        if self._always is not None:
            return self._system.start("worker", command=DOOMED, **self._environment, CALLSTREAM_DOOM=self._always)
        if not doomed or not self.dooms:
            return self._system.start("worker", **self._environment)
        worker = self._system.start("worker", command=DOOMED, **self._environment, CALLSTREAM_DOOM=self.dooms.pop(0))
        self._doomed.add(worker.pid)
        return worker

    def doomed(self) -> int:
        """How many workers will still die by themselves."""
        with self._lock:
            return len(self.dooms) + sum(worker.pid in self._doomed for worker in self.workers)

    def _supervise(self) -> None:
        while not self._stopping.wait(_LOOK_EVERY_S):
            with self._lock:
                for slot, worker in enumerate(self.workers):
                    if (code := worker.poll()) is not None:
                        self._note(worker, code)
                        self.workers[slot] = self._start(doomed=slot < max(1, len(self.workers) - 1))

    def _note(self, worker: Process, code: int) -> None:
        self.exits.append(code)
        expected_to = {-signal.SIGKILL} if worker.pid in self._doomed else set()
        self._doomed.discard(worker.pid)
        if worker.pid not in self._signalled and code not in expected_to:
            self.surprises.append(code)

    def send(self, slot: int, number: signal.Signals) -> None:
        """Send a signal to whoever is in this slot."""
        with self._lock:
            worker = self.workers[slot]
            if worker.poll() is None:
                self._signalled.add(worker.pid)
                worker.signal(number)

    def add(self) -> None:
        """One more worker."""
        with self._lock:
            self.workers.append(self._start())

    def retire(self) -> int:
        """The last worker is asked to end, and is not replaced; its exit code."""
        with self._lock:
            worker = self.workers.pop()
        worker.wait_handler()
        return worker.terminate()

    def stop_all(self) -> list[int]:
        """End all in order."""
        self._stopping.set()
        self._supervisor.join()
        for worker in self.workers:
            worker.signal(signal.SIGTERM)
        return [worker.wait(60) for worker in self.workers]

    def storm(self, signals: Sequence[signal.Signals], chance: random.Random, burst: int, rest_s: float) -> None:
        """These signals in random order to random workers, 0.1 to 1 s apart; after each burst there is time to come back."""
        order = list(signals)
        chance.shuffle(order)
        for number, one in enumerate(order):
            time.sleep(rest_s if number and number % burst == 0 else chance.uniform(0.1, 1.0))
            self.send(chance.randrange(len(self.workers)), one)
