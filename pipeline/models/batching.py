"""Utterances of several calls in one run of a model, with a bound on how long one waits for others."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
Run = Callable[..., FloatArray]


class _Asked:
    """What one thread asks for; `output` stays None where the run with the others failed."""

    def __init__(self, inputs: tuple[FloatArray, ...]) -> None:
        self.inputs = inputs
        self.shape = tuple(one.shape[1:] for one in inputs)
        self.output: FloatArray | None = None
        self.is_settled = threading.Event()


class _Group:
    """Those that share a run. Whoever came first leads it."""

    def __init__(self) -> None:
        self.asked: list[_Asked] = []
        self.is_full = threading.Event()


class Batcher:
    """Runs together what several threads ask for at about the same time and in the same shape. Thread-safe.

    A group is closed when it is full, or `wait_s` after it began; threads that come later make the next one.
    """

    def __init__(self, run: Run, most: int, wait_s: float) -> None:
        """`run` takes arrays (rows, ...) and gives (rows, ...), each row by itself; `most` are the askers of one run."""
        self._run = run
        self._most = most
        self._wait_s = wait_s
        self._open: dict[tuple[tuple[int, ...], ...], _Group] = {}
        self._lock = threading.Lock()
        self._has_failed = False  # said once

    def run(self, *inputs: FloatArray) -> FloatArray:
        """Arrays (rows, ...) -> their rows of the output. Raises what `run` raises for these rows alone."""
        asked = _Asked(inputs)
        group = self._join(asked)
        if group.asked[0] is asked:
            self._lead(group)
        asked.is_settled.wait()
        # What failed may be another's fault, or that they were too many.
        return self._run(*inputs) if asked.output is None else asked.output

    def _join(self, asked: _Asked) -> _Group:
        with self._lock:
            group = self._open.setdefault(asked.shape, _Group())
            group.asked.append(asked)
            if len(group.asked) == self._most:
                del self._open[asked.shape]
                group.is_full.set()
        return group

    def _lead(self, group: _Group) -> None:
        shape = group.asked[0].shape
        group.is_full.wait(self._wait_s)
        with self._lock:
            if self._open.get(shape) is group:
                del self._open[shape]
        try:
            self._run_together(group.asked)
        except Exception as error:  # noqa: BLE001 (each of them tries alone, and raises its own)
            if not self._has_failed:
                self._has_failed = True
                words = "%d utterances cannot share a run of a model, so each has its own; lower CALLSTREAM_INFERENCE_BATCH: %s"
                logger.warning(words, len(group.asked), error)
        finally:
            for one in group.asked:
                one.is_settled.set()

    def _run_together(self, asked: list[_Asked]) -> None:
        inputs = [np.concatenate(arrays) for arrays in zip(*(one.inputs for one in asked), strict=True)]
        outputs, first = self._run(*inputs), 0
        if len(outputs) != len(inputs[0]):
            raise ValueError(f"{len(outputs)} rows came of {len(inputs[0])}")
        for one in asked:
            behind = first + len(one.inputs[0])
            one.output, first = outputs[first:behind], behind
