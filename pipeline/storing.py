"""The blob store as agents use it: from threads of its own, waiting for as long as it is full or away."""

import asyncio
import functools
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

import msgspec
import stamina

from pipeline.blobs import BlobStore, result_name
from pipeline.publishing import MAX_RECORD_BYTES
from pipeline.records import OutgoingRecord
from pipeline.stage import check_exhaustion
from pipeline.transitions import ENVELOPE_BYTES, TaskLog

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_JSON = msgspec.json.Encoder()
_THREADS = 8
_TOLD_EVERY = 60  # tries: some five minutes


@functools.cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="blobs")


async def in_blob_thread(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Run what touches the store. One that hangs keeps its threads, and nobody else from asyncio's, which resolve names too."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), functools.partial(work, *arguments, **named))


async def until_stored(what: str, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """Read or write blobs; while the store is full or away the task stays as it is, and so does its input.

    Raises ExhaustedError when it is this process that has no files left.
    """
    async for attempt in stamina.retry_context(on=OSError, attempts=None, timeout=None, wait_initial=0.5, wait_max=5.0):
        with attempt:
            try:
                return await in_blob_thread(work, *arguments, **named)
            except OSError as error:
                check_exhaustion(error)
                if attempt.num % _TOLD_EVERY == 1:
                    logger.warning("%s waits for the blob store, trying again until it works: %s", what, error)
                raise
    raise AssertionError("retried for ever")


async def done(log: TaskLog, source: str, result: msgspec.Struct, store: BlobStore) -> OutgoingRecord:
    """The task's result is here; only one that no record can hold goes to the store."""
    raw = await asyncio.to_thread(_JSON.encode, result)
    if len(raw) <= MAX_RECORD_BYTES - ENVELOPE_BYTES:
        return log.done(source, raw)
    name = result_name(store.installation, log.task_id, raw)
    await until_stored(f"task {log.task_id}", store.put, name, raw)
    return log.done_elsewhere(source, name)
