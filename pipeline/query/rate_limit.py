"""A fixed window per client address, as the reference platform words it: `1 per 5 second`."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from pipeline.query.errors import RequestRefusedError, rate_limited

EXEMPT_PATHS = frozenset({"/health", "/ready", "/metrics"})


class RateLimiter:
    """Counts requests; a client's window begins with its first request. Memory: the clients of the last window."""

    def __init__(self, limit: int, window_s: int, clock_s: Callable[[], float] = time.time) -> None:
        self._limit, self._window_s, self._clock_s = limit, window_s, clock_s
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()  # address -> begin (s), requests; oldest first

    def _forget(self, now_s: float) -> None:
        while self._windows:
            begin_s, _ = next(iter(self._windows.values()))
            if begin_s <= now_s < begin_s + self._window_s:
                return
            self._windows.popitem(last=False)

    def refusal(self, address: str) -> RequestRefusedError | None:
        """Counts one request of this client; the answer 429 when it is one too many."""
        now_s = self._clock_s()
        self._forget(now_s)
        begin_s, count = self._windows.get(address, (now_s, 0))
        self._windows[address] = (begin_s, count + 1)
        if count < self._limit:
            return None
        return rate_limited(self._limit, self._window_s, self._headers(begin_s + self._window_s, now_s))

    def _headers(self, reset_s: float, now_s: float) -> dict[str, str]:
        return {
            "retry-after": str(max(1, math.ceil(reset_s - now_s))),
            "x-ratelimit-limit": str(self._limit),
            "x-ratelimit-remaining": "0",
            "x-ratelimit-reset": str(math.ceil(reset_s)),
        }
