"""What the HTTP routes do with tasks: read one from the view, start one through Kafka."""

import asyncio
import contextlib
import itertools
import logging
import sqlite3
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec

from pipeline.blobs import BlobError
from pipeline.query.edge import RequestIds
from pipeline.query.errors import body_too_large, internal, not_caught_up, task_not_found
from pipeline.query.forms import MediaForm
from pipeline.query.keeper import Keeper
from pipeline.query.media_requests import media_request, read_asked
from pipeline.query.metrics import QueryMetrics
from pipeline.query.open_tasks import OpenTasks
from pipeline.query.owners import is_visible
from pipeline.query.records import around_result
from pipeline.query.spool import read_body
from pipeline.query.starter import INLINE_BYTES, Starter, StartTooLargeError, StartUnavailableError
from pipeline.query.validation import check_start, read_task_id
from pipeline.query.view import TaskRow, View
from pipeline.request_lists import read_lists
from pipeline.settings import Settings
from schemas.http import TaskAccepted
from schemas.requests import StartTask
from schemas.tasks import TaskInfo, TaskState, Technology, call_task_id

logger = logging.getLogger(__name__)

BASE_PATH = "/api/technology"
CHECKS_AT_ONCE = 1  # large bodies that are looked at, for the sake of memory
CATCH_UP_S = 5.0  # how long a task that is not in the view is waited for while the view catches up
SMALL_BYTES = 1_000_000  # a body below waits for none of them

Pieces = AsyncIterator[bytes]
Scope = Mapping[str, object]  # of ASGI


class LargeAnswer(NamedTuple):
    """The body of an answer that is not held in memory."""

    pieces: Iterator[bytes]
    size_bytes: int


Answer = bytes | LargeAnswer

_encoder = msgspec.json.Encoder()


def task_path(technology: Technology, task_id: str) -> str:
    """Where a task is polled."""
    return f"{BASE_PATH}/{technology.value}/{task_id}"


class Tasks:
    """Reads and starts tasks. Every refusal is a RequestRefusedError."""

    def __init__(
        self,
        settings: Settings,
        view: View,
        starter: Starter,
        keeper: Keeper,
        metrics: QueryMetrics,
        open_tasks: OpenTasks,
        until_complete: Callable[[float], Awaitable[bool]],
    ) -> None:
        self._settings, self._view, self._starter, self._metrics = settings, view, starter, metrics
        self.keeper = keeper
        self._open_tasks, self._until_complete = open_tasks, until_complete
        self._checking = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def read(self, technology: Technology, task_id_text: str, scope: Scope) -> Answer:
        """A task's answer. Raises 422 (no UUID), 404, 500 (its result cannot be read), or 503 (not caught up)."""
        task_id = read_task_id(task_id_text)
        row = self._seen(task_id, scope)
        if row is None:  # a poller drops a task at 404, so this must be true
            if not await self._until_complete(CATCH_UP_S):
                raise not_caught_up()
            row = self._seen(task_id, scope)
        if row is None or row.technology is not technology:
            raise task_not_found(task_id)
        return await self._answer(row)

    def _seen(self, task_id: str, scope: Scope) -> TaskRow | None:
        """None also for another's task, so that nothing that follows tells the two apart."""
        row = self._view.get(task_id)
        return row if row is not None and is_visible(row.owner, scope) else None

    async def _answer(self, row: TaskRow) -> Answer:
        if row.result_ref is None:
            return row.body or b""
        before, after = around_result(row.task_id, row.state)
        try:
            size_bytes = await asyncio.to_thread(self.keeper.store.size_bytes, row.result_ref)
        except (BlobError, OSError):
            logger.exception("task %s is done, but its result cannot be read", row.task_id)
            raise internal() from None
        pieces = itertools.chain([before], self.keeper.store.chunks(row.result_ref), [after])
        return LargeAnswer(pieces, len(before) + size_bytes + len(after))

    async def start_lists(
        self, technology: Technology, pieces: Pieces, ids: RequestIds, owner_of: Callable[[], str | None]
    ) -> tuple[str, bytes]:
        """Start from lists of voiceprints; the task's path and the body of the answer.

        Whose it is, is asked behind the body: a key may be taken away while it comes. Raises 400, 401, 403, 413, 422, 507, or
        500 (nothing was started).
        """
        limit = self._settings.max_body_bytes
        body = await read_body(pieces, self.keeper, limit, body_too_large(limit))
        with contextlib.closing(body):
            async with contextlib.nullcontext() if body.content_bytes < SMALL_BYTES else self._checking:
                await asyncio.to_thread(check_start, technology, body.content())
            task_id, owner = str(uuid.uuid4()), owner_of()
            with self._place(technology, owner), self.keeper.starting(task_id):
                if body.content_bytes <= INLINE_BYTES:
                    lists = read_lists(technology, body.content())
                    request = msgspec.structs.replace(StartTask(technology, owner=owner), **lists)
                else:
                    request = StartTask(technology, lists=await body.keep(task_id), owner=owner)
                return await self._start(technology, task_id, request, ids)

    async def start_media(
        self, technology: Technology, form: MediaForm, values: Mapping[str, str], ids: RequestIds, owner: str | None = None
    ) -> tuple[str, bytes]:
        """Start from a media file that was read whole. Raises as `start_lists`."""
        parameters, options = read_asked(technology, values, form.config)
        options = msgspec.structs.replace(options, owner=owner, correlation_id=ids.correlation_id, request_id=ids.request_id)
        call_id = f"upload-{uuid.uuid4()}"
        task_id = call_task_id(call_id, technology)
        assert form.file is not None
        with self._place(technology, owner), self.keeper.starting(task_id):
            media = media_request(call_id, await form.file.keep(task_id), parameters, options)
            return await self._start(technology, task_id, StartTask(technology, media=media, owner=owner), ids)

    def _place(self, technology: Technology, owner: str | None) -> contextlib.AbstractContextManager[None]:
        # the reference platform's page of voice activity detection knows no 403
        return contextlib.nullcontext() if technology is Technology.VOICE_ACTIVITY_DETECTION else self._open_tasks.place(owner)

    async def _start(self, technology: Technology, task_id: str, request: StartTask, ids: RequestIds) -> tuple[str, bytes]:
        try:
            await self._starter.start(uuid.UUID(task_id), request, ids.correlation_id, ids.request_id)
        except StartTooLargeError:
            raise body_too_large(self._settings.max_body_bytes) from None
        except StartUnavailableError as error:
            logger.error("request %s started no task: %s", ids.request_id, error)  # noqa: TRY400  # one line says it
            raise internal() from None
        await self._remember(uuid.UUID(task_id), technology, request.owner)
        self._metrics.started.labels(technology.value).inc()
        accepted = TaskAccepted(TaskInfo(task_id, TaskState.PENDING))
        return task_path(technology, task_id), _encoder.encode(accepted)

    async def _remember(self, task_id: uuid.UUID, technology: Technology, owner: str | None) -> None:
        try:
            await self._view.aside(self._view.add_pending, task_id, technology, owner)
        except sqlite3.Error:  # the task is started whatever happens here; its first record makes it known
            self.keeper.hold(str(task_id))
            logger.exception("task %s is started, but cannot be read until its first record comes", task_id)
