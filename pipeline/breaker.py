"""When a stage buries too much, it or its input is broken: it stops before a topic drains into `dead-letters`.

Pure bookkeeping. The stage's runner asks before each dead letter, so the one that is too many is never sent.
"""

from collections import Counter, deque

EXIT_BREAKER = 78  # EX_CONFIG of sysexits.h: starting again does not help, somebody has to look


class BreakerOpenError(BaseException):
    """This record would be one dead letter too many. No Exception: nobody may take it for a fault of the record."""


class Breaker:
    """Counts what a stage buries, and says when the next would be too many.

    Args:
        limit: as many keys may be buried in a row, with no good record in between; 0 for any number.
        ratio: so large a share of the last `window` records may be buried; 1 for all of them.
        window: how many records the share is of; before there are so many, the share is not judged.
    """

    def __init__(self, limit: int, ratio: float, window: int) -> None:
        self._limit = limit
        self._ratio = ratio
        self._window = window
        self._streak: set[int] = set()  # hashes: a broken key may be as large as a record
        self._outcomes: deque[str | None] = deque()  # the error type, None for a good record
        self._error_types: Counter[str] = Counter()
        self.is_open = False

    def would_trip(self, key: bytes | None) -> bool:
        """Whether one more dead letter of this key would be too many; always once it was."""
        return self.is_open or self._is_streak_too_long(key) or self._is_share_too_large()

    def _is_streak_too_long(self, key: bytes | None) -> bool:
        return bool(self._limit) and len(self._streak) >= self._limit and hash(key) not in self._streak

    def _is_share_too_large(self) -> bool:
        count = len(self._outcomes)
        if count + 1 < self._window:
            return False
        leaves = count >= self._window and self._outcomes[0] is not None
        return (self.buried_count + 1 - leaves) / self._window > self._ratio

    def buried(self, key: bytes | None, error_type: str) -> None:
        """A record is being buried."""
        if self._limit:
            self._streak.add(hash(key))
        self._note(error_type)

    def good(self) -> None:
        """A record was processed, and nothing was buried."""
        self._streak.clear()
        self._note(None)

    def open(self) -> None:
        """From now on every dead letter is too many."""
        self.is_open = True

    def _note(self, outcome: str | None) -> None:
        self._outcomes.append(outcome)
        if outcome is not None:
            self._error_types[outcome] += 1
        if len(self._outcomes) > self._window and (left := self._outcomes.popleft()) is not None:
            self._error_types[left] -= 1

    @property
    def streak_count(self) -> int:
        """The keys that were buried since the last good record."""
        return len(self._streak)

    @property
    def buried_count(self) -> int:
        """The dead letters among the last records."""
        return self._error_types.total()

    def describe(self, error_type: str) -> str:
        """What was buried, for the log; `error_type` is what the record has that would be too many."""
        [(kind, count)] = (self._error_types + Counter([error_type])).most_common(1)
        share = f"{self.buried_count} of the last {len(self._outcomes)} records are in dead-letters"
        return f"{share} ({self.streak_count} keys in a row); most frequent error-type: {kind} ({count} with the next)"
