"""Whether a partition's records come one behind the other, from the committed offset on.

Where a consumer's position is not in the log any more, aiokafka goes to the log's begin and says so to nobody: records were
deleted before they were read, or the topic was made anew, or the log has lost its end. Pure; the consumer acts on it.
"""

import enum
from collections.abc import Hashable, Mapping


class Step(enum.Enum):
    """What a record's offset says of the log."""

    NEXT = enum.auto()
    SKIPS = enum.auto()  # more than a transaction's marker takes
    BEFORE_COMMITTED = enum.auto()  # the first record since the begin, and before what the group has dealt with
    BEGINS_ANEW = enum.auto()


class LogOrder:
    """The offset that comes next in each partition."""

    def __init__(self) -> None:
        self.next: dict[Hashable, int] = {}
        self._unread: set[Hashable] = set()

    def begin(self, offsets: Mapping[Hashable, int]) -> None:
        """Reading begins, or begins again, at these offsets."""
        self.next = dict(offsets)
        self._unread = set(offsets)

    def step(self, place: Hashable, offset: int) -> Step:
        """The next record of a partition has come."""
        expected, is_first = self.next.get(place, offset), place in self._unread
        self.next[place] = offset + 1
        self._unread.discard(place)
        if offset < expected:
            return Step.BEFORE_COMMITTED if is_first else Step.BEGINS_ANEW
        return Step.SKIPS if offset > expected + 1 else Step.NEXT
