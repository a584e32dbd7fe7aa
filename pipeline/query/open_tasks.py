"""The licence limit: how many tasks that were started here may be open at once."""

import contextlib
from collections import Counter
from collections.abc import Iterator

from pipeline.query.errors import capacity_exceeded
from pipeline.query.keys import Keyring
from pipeline.query.view import View, now_ms
from pipeline.settings import Settings

# A request stays on its topic for a day: a task that has not moved since is lost, and holds no place for ever.
LOST_AFTER_MS = 24 * 3_600_000


class OpenTasks:
    """Counts the tasks that POST started here and that are not final, in the view. Belongs to the event loop's thread."""

    def __init__(self, settings: Settings, view: View, keyring: Keyring) -> None:
        self._limit, self._view, self._keyring = settings.open_tasks, view, keyring
        self._starting: Counter[str | None] = Counter()  # those whose row is not in the view yet

    def _check(self, owner: str | None) -> None:
        own_limit = self._keyring.open_tasks_of(owner)
        if not (self._limit or own_limit):
            return
        started = self._view.started_open(now_ms() - LOST_AFTER_MS)
        counts = self._starting + Counter(started)
        if (self._limit and counts.total() >= self._limit) or (own_limit and counts[owner] >= own_limit):
            raise capacity_exceeded()

    @contextlib.contextmanager
    def place(self, owner: str | None) -> Iterator[None]:
        """A place for one task more, held until its row is in the view. Raises RequestRefusedError (403)."""
        self._check(owner)  # nothing is awaited before the next line: two requests cannot both take the last place
        self._starting[owner] += 1
        try:
            yield
        finally:
            self._starting[owner] -= 1
