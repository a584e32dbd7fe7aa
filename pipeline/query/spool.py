"""A request body on its way to the blob store: small ones stay in memory, larger ones grow in the scratch folder."""

import asyncio
import contextlib
import errno
import hashlib
import logging
import mmap
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

from pipeline.query.errors import RequestRefusedError, internal, storage_full
from pipeline.query.keeper import UPLOAD, Keeper, StorageFullError
from schemas.requests import BlobRef

logger = logging.getLogger(__name__)

MEMORY_BYTES = 1_048_576
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Spool:
    """What has come so far. `content_bytes` says how much; a spool that is not kept is gone with its context."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._held = bytearray()
        self._file: IO[bytes] | None = None
        self._hash = hashlib.sha256()
        self._is_kept = False
        self.content_bytes = 0

    async def write(self, piece: bytes) -> None:
        """Take the next piece. Raises RequestRefusedError (507 when the store or the disk is full, else 500)."""
        with _refused():
            self._keeper.reserve(len(piece))
            self.content_bytes += len(piece)
            self._held += piece
            if len(self._held) >= MEMORY_BYTES:
                await asyncio.to_thread(self._flush)

    def _flush(self) -> None:
        if self._file is None:
            self._file = (self._keeper.scratch / f"{UPLOAD}{uuid.uuid4().hex}").open("x+b")  # readable as a blob is to be
        self._file.write(self._held)
        self._file.flush()
        self._hash.update(self._held)
        self._held = bytearray()

    def content(self) -> memoryview:
        """All of it, to read; a large one is mapped, not loaded. Raises RequestRefusedError (507, 500)."""
        if self._file is None:
            return memoryview(self._held)
        with _refused():
            self._flush()
        return memoryview(mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ))

    async def keep(self, task_id: str) -> BlobRef:
        """Make it a blob. Raises RequestRefusedError: 507 when it does not fit, 500 when the store does not answer."""
        with _refused():
            return await asyncio.to_thread(self._keep, self._keeper.request_name(task_id))

    def _keep(self, name: str) -> BlobRef:
        if self._file is None:
            self._hash.update(self._held)
            self._keeper.store.put(name, bytes(self._held))
        else:
            self._flush()
            self._file.close()
            self._keeper.store.put_file(name, Path(self._file.name))
        self._is_kept = True
        return BlobRef(name, self._hash.hexdigest(), self.content_bytes)

    def close(self) -> None:
        """Let go of what was not kept."""
        self._keeper.release(self.content_bytes, kept=self._is_kept)
        if self._file is not None:
            self._file.close()
            Path(self._file.name).unlink(missing_ok=True)


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    try:
        yield
    except StorageFullError:
        raise storage_full() from None
    except OSError as error:
        if error.errno in _FULL:
            raise storage_full() from None
        logger.error("the body of a request cannot be kept: %s", error)  # noqa: TRY400  # one line says it
        raise internal() from None


async def read_body(pieces: AsyncIterator[bytes], keeper: Keeper, max_bytes: int, too_large: RequestRefusedError) -> Spool:
    """A whole body. Raises `too_large` as soon as it is, RequestRefusedError (507, 500)."""
    spool = Spool(keeper)
    with contextlib.ExitStack() as on_failure:
        on_failure.callback(spool.close)
        async for piece in pieces:
            if spool.content_bytes + len(piece) > max_bytes:
                raise too_large
            await spool.write(piece)
        on_failure.pop_all()
    return spool
