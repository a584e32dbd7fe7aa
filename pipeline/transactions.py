"""Says when a producer's transaction stays open: only what is committed is read, so nothing behind its begin is."""

import logging
from collections.abc import Mapping

from faust.types import TP

logger = logging.getLogger(__name__)

SAY_AGAIN_S = 300.0


class OpenTransactions:
    """Where reading has stood still before a transaction, and since when; one that is long is told, and again."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since: dict[TP, tuple[int, float]] = {}  # by partition: the transaction's first offset, when it was met (s)
        self._say_at_s: dict[TP, float] = {}

    def look(self, begins: Mapping[TP, int], now_s: float) -> None:
        """Take notice of where transactions hide records now, by the offset of the first."""
        before = self._since
        self._since = {place: (begin, now_s) for place, begin in begins.items()}
        self._since.update((place, held) for place, held in before.items() if held[0] == begins.get(place))
        self._say_at_s = {place: at_s for place, at_s in self._say_at_s.items() if self._since.get(place) == before.get(place)}
        for place, (begin, since_s) in self._since.items():
            if now_s >= self._say_at_s.get(place, since_s + self._patience_s):
                self._say_at_s[place] = now_s + SAY_AGAIN_S
                self._say(place, begin, now_s - since_s)

    def _say(self, place: TP, begin: int, held_s: float) -> None:
        logger.warning(
            "%s/%d: a producer's transaction that begins at offset %d has been open for %.0f s: what is behind it is not read "
            "before it ends; `kafka-transactions.sh describe-producers` says whose it is",
            place.topic, place.partition, begin, held_s,
        )  # fmt: skip
