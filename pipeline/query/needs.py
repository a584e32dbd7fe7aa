"""Which blobs are needed, as far as one query service can know.

A blob must have been seen as it is for `blob_grace_s`, by this process's clock, before it is judged at all: whoever wrote it
may not have published its record yet, and the store's clock may be wrong.
"""

import logging
import time
from collections.abc import Callable, Sequence

from pipeline.blobs import PARTIAL, REQUESTS, RESULTS, Blob, BlobError, checked, is_old_result
from pipeline.query.view import View
from pipeline.settings import Settings

logger = logging.getLogger(__name__)

REQUESTS_KEPT_S = 25 * 3600.0  # longer than a request stays on its topic
UNPUBLISHED_S = 3600.0  # a worker that cannot reach Kafka has a result that no record names yet


class Needs:
    """`prepare` and `is_needed` take turns; all but `prepare` belongs to the event loop's thread."""

    def __init__(
        self, settings: Settings, view: View, instance: str, installation: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._view, self._clock = settings, view, clock
        self._instance, self._installation = instance, installation
        self._since: dict[Blob, float] = {}
        self._old_refs: set[str] = set()
        self._strange: set[str] = set()
        self.starting: set[str] = set()  # tasks that are about to be started here
        self.unknown: set[str] = set()  # tasks that were, and that the view could not take

    def prepare(self, blobs: Sequence[Blob]) -> None:
        """These are there; in any thread. Raises sqlite3.Error."""
        now_s = self._clock()
        self._since = {blob: self._since.get(blob, now_s) for blob in blobs}
        has_old = any(is_old_result(blob.name) and self._outlives_tasks(blob) for blob in blobs)
        self._old_refs = self._view.old_result_refs() if has_old else set()

    def forget(self) -> None:
        """The view is behind: whatever is unneeded, is so since a time that is yet to come."""
        self._since = {}

    def is_needed(self, blob: Blob) -> bool:
        """Whether it is to stay for now."""
        if self._clock() - self._since.get(blob, self._clock()) <= self._settings.blob_grace_s:
            return True
        if is_old_result(blob.name):
            return not self._outlives_tasks(blob) or blob.name in self._old_refs
        kind, *folders = blob.name.split("/")
        if kind not in (REQUESTS, RESULTS) or self._is_strange(blob.name):
            return True  # whoever put it there
        name = folders.pop()
        return self._request(blob, folders, name) if kind == REQUESTS else self._result(blob, folders, name)

    def _age_s(self, blob: Blob) -> float:
        return max(0.0, time.time() - blob.modified_s)

    def _outlives_tasks(self, blob: Blob) -> bool:
        return self._age_s(blob) > self._settings.task_ttl_s + self._settings.blob_grace_s

    def _is_strange(self, name: str) -> bool:
        try:
            checked(name)
        except BlobError:
            if name not in self._strange:
                logger.warning("the blob store holds %r, which is none of ours: left there", name)
                self._strange.add(name)
            return True
        return False

    def _result(self, blob: Blob, folders: Sequence[str], name: str) -> bool:
        if folders != [self._installation]:
            return True  # another installation's tasks are not known here
        if name.startswith(PARTIAL):
            return False
        row = self._view.get(name[:36])
        if row is None:  # expired, or not published yet
            return self._age_s(blob) <= min(UNPUBLISHED_S, self._settings.task_ttl_s)
        return row.result_ref == blob.name or not row.state.is_final

    def _request(self, blob: Blob, folders: Sequence[str], name: str) -> bool:
        if name in self.starting:
            return True
        if self._age_s(blob) > REQUESTS_KEPT_S:
            self.unknown.discard(name)
            return False
        row = self._view.get(name)
        if row is not None:
            return not row.state.is_final or time.time() - row.updated_at_ms / 1000 <= self._settings.blob_grace_s
        # only the service that took it knows a task that has not begun; and not even that, once its view has begun anew
        is_own = folders == [self._instance] and blob.modified_s * 1000 >= self._view.knows_since_ms
        return not is_own or name in self.unknown
