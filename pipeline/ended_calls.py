"""Calls that have ended, so that no chunk that comes again begins one anew: as long as Kafka keeps their chunks, a day."""

import time
from collections.abc import Callable

from schemas.stream import CallEnded

KEPT_S = 86_400.0
MOST = 200_000  # some 60 MB; one core hears as many calls in a day only where each takes less than half a second of it


class EndedCalls:
    """The newest of them, by call id."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._calls: dict[str, tuple[float, CallEnded]] = {}  # in the order in which they ended

    def __contains__(self, call_id: str) -> bool:
        return call_id in self._calls

    def get(self, call_id: str) -> CallEnded | None:
        """How the call ended; None when that is not known, or not any more."""
        _, ended = self._calls.get(call_id, (0.0, None))
        return ended

    def add(self, ended: CallEnded) -> None:
        """It has ended; those that did too long ago are forgotten."""
        self._calls.pop(ended.call_id, None)
        self._calls[ended.call_id] = (self._clock(), ended)
        while self._is_old(oldest := next(iter(self._calls))):
            del self._calls[oldest]

    def _is_old(self, call_id: str) -> bool:
        return len(self._calls) > MOST or self._clock() - self._calls[call_id][0] > KEPT_S
