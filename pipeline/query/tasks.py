"""What the HTTP routes do with tasks: read one from the view, start one through Kafka."""

import asyncio
import logging
import sqlite3
import uuid

import msgspec

from pipeline.query.blobs import BlobError, Resolve
from pipeline.query.edge import RequestIds
from pipeline.query.errors import body_too_large, internal, task_not_found
from pipeline.query.metrics import QueryMetrics
from pipeline.query.records import answer_with_result
from pipeline.query.starter import Starter, StartTooLargeError, StartUnavailableError
from pipeline.query.validation import read_start, read_task_id
from pipeline.query.view import View
from pipeline.settings import Settings
from schemas.http import TaskAccepted
from schemas.tasks import TaskInfo, TaskState, Technology

logger = logging.getLogger(__name__)

BASE_PATH = "/api/technology"

_encoder = msgspec.json.Encoder()


def task_path(technology: Technology, task_id: str) -> str:
    """Where a task is polled."""
    return f"{BASE_PATH}/{technology.value}/{task_id}"


class Tasks:
    """Reads and starts tasks. Every refusal is a RequestRefusedError."""

    def __init__(self, settings: Settings, view: View, starter: Starter, resolve: Resolve, metrics: QueryMetrics) -> None:
        self._settings, self._view, self._starter, self._resolve, self._metrics = settings, view, starter, resolve, metrics

    async def read(self, technology: Technology, task_id_text: str) -> bytes:
        """The JSON body of a task's answer. Raises 422 (no UUID), 404, or 500 (its result cannot be read)."""
        task_id = read_task_id(task_id_text)
        row = self._view.get(task_id)
        if row is None or row.technology is not technology:
            raise task_not_found(task_id)
        if row.result_ref is None:
            return row.body or b""
        try:
            result = await asyncio.to_thread(self._resolve, row.result_ref)
        except BlobError:
            logger.exception("task %s is done, but its result cannot be read", task_id)
            raise internal() from None
        return answer_with_result(task_id, row.state, result)

    async def start(self, technology: Technology, body: bytes, ids: RequestIds) -> tuple[str, bytes]:
        """Starts a task; its path and the JSON body of the answer. Raises 400, 413, 422, or 500 (nothing was started)."""
        request = read_start(technology, body)
        task_id = uuid.uuid4()
        try:
            await self._starter.start(task_id, request, ids.correlation_id, ids.request_id)
        except StartTooLargeError:
            raise body_too_large(self._settings.max_body_bytes) from None
        except StartUnavailableError as error:
            logger.error("request %s started no task: %s", ids.request_id, error)  # noqa: TRY400  # one line says it
            raise internal() from None
        await self._remember(task_id, technology)
        self._metrics.started.labels(technology.value).inc()
        accepted = TaskAccepted(TaskInfo(str(task_id), TaskState.PENDING))
        return task_path(technology, str(task_id)), _encoder.encode(accepted)

    async def _remember(self, task_id: uuid.UUID, technology: Technology) -> None:
        try:
            await asyncio.to_thread(self._view.add_pending, task_id, technology)
        except sqlite3.Error:  # the task is started whatever happens here; its first record makes it known
            logger.exception("task %s is started, but cannot be read until its first record comes", task_id)
