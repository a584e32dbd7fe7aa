"""The blob store as the query service uses it: names, a quota, and what is swept away with its tasks.

A request's blob is this service's own business (its name holds the service's id), a result's is found by whoever has the task.
A blob is older than `blob_grace_s` before it is swept: whoever wrote it may not have published its record yet.
"""

import asyncio
import logging
import time
from pathlib import Path

from pipeline.blobs import REQUESTS, RESULTS, Blob, BlobError, BlobStore, open_blobs, scratch_folder
from pipeline.query.view import View
from pipeline.settings import Settings

logger = logging.getLogger(__name__)

UPLOAD = "upload-"
_REQUESTS_KEPT_S = 25 * 3600.0  # longer than a request stays on its topic


class StorageFullError(Exception):
    """The quota is used up, or the disk is."""


class Keeper:
    """One service's blobs. `reserve` and `release` belong to the event loop's thread."""

    def __init__(self, settings: Settings, view: View) -> None:
        """Raises OSError when the store cannot be used."""
        self.store: BlobStore = open_blobs(settings)
        self.scratch: Path = scratch_folder(settings)
        self._settings, self._view = settings, view
        self._instance = view.instance_id()
        self._used_bytes = 0
        self._reserved_bytes = 0
        for left in self.scratch.glob(f"{UPLOAD}*"):  # by a service that was killed: the view's lock says that none runs
            left.unlink(missing_ok=True)

    def request_name(self, task_id: str) -> str:
        """Where what a task is started from is kept."""
        return f"{REQUESTS}/{self._instance}/{task_id}"

    def reserve(self, size_bytes: int) -> None:
        """So much more is about to be written. Raises StorageFullError."""
        if self._used_bytes + self._reserved_bytes + size_bytes > self._settings.blob_quota_bytes:
            raise StorageFullError(
                f"the blob store holds {self._used_bytes} bytes, and may hold {self._settings.blob_quota_bytes}"
            )
        self._reserved_bytes += size_bytes

    def release(self, size_bytes: int, *, kept: bool) -> None:
        """What was reserved is a blob now, or is gone."""
        self._reserved_bytes -= size_bytes
        self._used_bytes += size_bytes if kept else 0

    async def measure(self) -> None:
        """Ask the store how much it holds. Raises OSError."""
        self._used_bytes = await asyncio.to_thread(lambda: sum(blob.size_bytes for blob in self.store.entries()))

    async def sweep(self) -> int:
        """Delete what no task needs; how many blobs that were. Raises OSError; the next sweep goes on."""
        blobs = await asyncio.to_thread(lambda: list(self.store.entries()))
        now_s, swept = time.time(), 0
        for blob in blobs:
            if now_s - blob.modified_s > self._settings.blob_grace_s and not self._is_needed(blob, now_s):
                await asyncio.to_thread(self._delete, blob.name)
                swept += 1
        await self.measure()
        return swept

    def _delete(self, name: str) -> None:
        try:
            self.store.delete(name)
        except BlobError:
            logger.warning("the blob store holds %r, which is none of ours: left there", name)

    def _is_needed(self, blob: Blob, now_s: float) -> bool:
        kind, *folders, name = blob.name.split("/") if "/" in blob.name else ("", blob.name)
        if kind not in (REQUESTS, RESULTS):
            return True  # whoever put it there
        if kind == RESULTS:
            row = self._view.get(name[:36])
            return row is not None and row.result_ref == blob.name
        if now_s - blob.modified_s > _REQUESTS_KEPT_S:
            return False
        row = self._view.get(name)
        if row is None:  # another service's task may not have begun yet, and then only that service knows it
            return folders != [self._instance]
        return not row.state.is_final or now_s - row.updated_at_ms / 1000 <= self._settings.blob_grace_s
