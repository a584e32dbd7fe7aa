"""A fixed window per client, as the reference platform words it: `1 per 5 second`."""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from pipeline.query.errors import RequestRefusedError, rate_limited, too_many_at_once

MAX_CLIENTS = 100_000  # whoever comes from more addresses than that is not held by this limit anyway


def _headers(limit: int, reset_s: float, now_s: float) -> dict[str, str]:
    return {
        "retry-after": str(max(1, math.ceil(reset_s - now_s))),
        "x-ratelimit-limit": str(limit),
        "x-ratelimit-remaining": "0",
        "x-ratelimit-reset": str(math.ceil(reset_s)),
    }


class RateLimiter:
    """Counts per client; its window begins with the first count. Memory: the clients of the last window."""

    def __init__(self, limit: int, window_s: int, clock_s: Callable[[], float] = time.time) -> None:
        self._limit, self._window_s, self._clock_s = limit, window_s, clock_s
        self._windows: OrderedDict[str, tuple[float, int]] = OrderedDict()  # client -> begin (s), count; oldest first

    def _forget(self, now_s: float) -> None:
        while self._windows:
            begin_s, _ = next(iter(self._windows.values()))
            if begin_s <= now_s < begin_s + self._window_s and len(self._windows) <= MAX_CLIENTS:
                return
            self._windows.popitem(last=False)

    def _window(self, client: str, now_s: float) -> tuple[float, int]:
        self._forget(now_s)
        return self._windows.get(client, (now_s, 0))

    def count(self, client: str) -> None:
        """One more."""
        begin_s, count = self._window(client, self._clock_s())
        self._windows[client] = (begin_s, count + 1)

    def refusal(self, client: str, limit: int | None = None) -> RequestRefusedError | None:
        """The answer 429 when the next one would be one too many; `limit` is this client's own, 0 is none."""
        limit = self._limit if limit is None else limit
        now_s = self._clock_s()
        begin_s, count = self._window(client, now_s)
        if not limit or count < limit:
            return None
        return rate_limited(limit, self._window_s, _headers(limit, begin_s + self._window_s, now_s))


class AtOnce:
    """How many requests of each client are being answered."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: dict[str, int] = {}

    def enter(self, client: str, limit: int | None = None) -> None:
        """One more. Raises RequestRefusedError (429) when that is one too many; `limit` is this client's own, 0 is none."""
        limit = self._limit if limit is None else limit
        count = self._counts.get(client, 0)
        if limit and count >= limit:
            now_s = time.time()
            raise too_many_at_once(limit, _headers(limit, now_s + 1, now_s))
        self._counts[client] = count + 1

    def leave(self, client: str) -> None:
        """One less."""
        count = self._counts.pop(client) - 1
        if count:
            self._counts[client] = count
