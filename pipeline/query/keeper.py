"""The blob store as the query service uses it: names, a quota, and what is swept away with its tasks.

A request's blob is this service's own business (its name holds the service's id), a result's is found by whoever has the task.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.blobs import REQUESTS, Blob, BlobError, BlobStore, open_blobs, scratch_folder
from pipeline.query.instance import instance_id
from pipeline.query.needs import Needs
from pipeline.query.view import View
from pipeline.settings import Settings

UPLOAD = "upload-"
AT_ONCE = 1000  # blobs that are judged while nobody is answered


class StorageFullError(Exception):
    """The quota is used up, or the disk is."""


class Keeper:
    """One service's blobs. All of it belongs to the event loop's thread."""

    def __init__(self, settings: Settings, view: View, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises OSError when the store cannot be used."""
        self.store: BlobStore = open_blobs(settings)
        self.store.prepare()
        self.scratch: Path = scratch_folder(settings)
        self._quota_bytes = settings.blob_quota_bytes
        self._instance = instance_id(Path(settings.data_dir))
        self._needs = Needs(settings, view, self._instance, self.store.installation, clock)
        self._used_bytes = self._kept_bytes = 0
        self._reserved_bytes = 0
        for left in self.scratch.glob(f"{UPLOAD}*"):  # by a service that was killed: the view's lock says that none runs
            left.unlink(missing_ok=True)

    def request_name(self, task_id: str) -> str:
        """Where what a task is started from is kept."""
        return f"{REQUESTS}/{self._instance}/{task_id}"

    @contextlib.contextmanager
    def starting(self, task_id: str) -> Iterator[None]:
        """The task is about to be started: its request stays until it is in the view, or is given up."""
        self._needs.starting.add(task_id)
        try:
            yield
        finally:
            self._needs.starting.discard(task_id)

    def hold(self, task_id: str) -> None:
        """The task is started, but the view could not take it: its request stays until the view knows better."""
        self._needs.unknown.add(task_id)

    def reserve(self, size_bytes: int) -> None:
        """So much more is about to be written. Raises StorageFullError."""
        if self._used_bytes + self._reserved_bytes + size_bytes > self._quota_bytes:
            raise StorageFullError(f"the blob store holds {self._used_bytes} bytes, and may hold {self._quota_bytes}")
        self._reserved_bytes += size_bytes

    def release(self, size_bytes: int, *, kept: bool) -> None:
        """What was reserved is a blob now, or is gone."""
        self._reserved_bytes -= size_bytes
        if kept:
            self._used_bytes += size_bytes
            self._kept_bytes += size_bytes

    async def measure(self) -> None:
        """Ask the store how much it holds, while nothing can be swept. Raises OSError."""
        await self._listed()
        self._needs.forget()

    async def sweep(self, is_current: Callable[[], bool]) -> int:
        """Delete what no task needs, as long as the view knows all tasks; how many blobs that were.

        Raises OSError, sqlite3.Error; the next sweep goes on.
        """
        blobs, swept = await self._listed(), 0
        await asyncio.to_thread(self._needs.prepare, blobs)
        for index, blob in enumerate(blobs):
            if index % AT_ONCE == 0:
                await asyncio.sleep(0)
            if not is_current():  # nothing is awaited before the view is asked: it has not begun anew meanwhile
                break
            if not self._needs.is_needed(blob) and await asyncio.to_thread(self._delete, blob):
                self._used_bytes -= blob.size_bytes
                swept += 1
        return swept

    async def _listed(self) -> list[Blob]:
        kept_bytes = self._kept_bytes
        blobs = await asyncio.to_thread(lambda: list(self.store.entries()))
        self._used_bytes = sum(blob.size_bytes for blob in blobs) + self._kept_bytes - kept_bytes
        return blobs

    def _delete(self, blob: Blob) -> bool:
        """Unless it is another by now: a worker's successor puts the same result under the same name."""
        try:
            found = self.store.entry(blob.name)
        except BlobError:
            return False  # gone meanwhile
        if found.size_bytes != blob.size_bytes or abs(found.modified_s - blob.modified_s) >= 1.0:
            return False
        self.store.delete(blob.name)
        return True
