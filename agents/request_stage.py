"""What the agents that take start-task requests share: pending, running, then done or rejected."""

import asyncio
from abc import abstractmethod
from typing import TypeVar

import msgspec

from agents.call_stage import CallStage
from pipeline.blobs import BlobStore, open_blobs
from pipeline.delivery import Receipt
from pipeline.records import DeadLetterError, Record
from pipeline.start_tasks import ListsError, owner, read_start_task, task_log, with_lists
from pipeline.storing import done, until_stored
from pipeline.transitions import TaskLog, failed, rejected
from schemas.requests import StartTask

Evidence = TypeVar("Evidence")
_STORE_ANSWERS_WITHIN_S = 2.0  # or it is away


class RequestStage(CallStage[Evidence]):
    """A technology over a call's prints that can be started from voiceprints too."""

    topics: tuple[str, ...] = ("prints", "requests")

    @abstractmethod
    def answer(self, request: StartTask) -> msgspec.Struct:
        """The result of a request; runs in a thread. Raises ListsError."""

    async def process(self, record: Record, receipt: Receipt) -> None:
        """Take a print or a request."""
        if not self._is_request(record):
            await super().process(record, receipt)
            return
        if owner(record) is self.technology:
            await self._execute(record)
        receipt.release()

    def _is_request(self, record: Record) -> bool:
        return record.topic == self.settings.topic("requests")

    async def _execute(self, record: Record) -> None:
        technology, request = read_start_task(record)
        log = task_log(record, technology, request.owner)
        store = open_blobs(self.settings)
        if request.lists is not None:  # before anything is said: a request whose lists are gone was answered long ago
            request = await self._with_lists(log, request, store)
        await self.publisher.publish([log.pending(record.source), log.running(record.source)])
        try:
            result = await asyncio.to_thread(self.answer, request)
        except ListsError as error:
            final = log.ended(record.source, rejected(error.details))
        else:
            final = await done(log, record.source, result, store)
        await self.publisher.publish([final])

    async def _with_lists(self, log: TaskLog, request: StartTask, store: BlobStore) -> StartTask:
        loading = asyncio.create_task(until_stored(f"task {log.task_id}", with_lists, self.technology, request, store))
        try:
            await asyncio.wait({loading}, timeout=_STORE_ANSWERS_WITHIN_S)
            if not loading.done():
                self.frame.give_way()
            return await loading
        finally:
            loading.cancel()

    async def fail(self, record: Record, message: str) -> None:
        """Fail the task of this record."""
        if not self._is_request(record):
            await super().fail(record, message)
            return
        try:
            _, request = read_start_task(record)
            log = task_log(record, self.technology, request.owner)
        except DeadLetterError:
            return
        # Maybe nothing was said, maybe all but the end: the same records again do no harm, a gap in the revisions would.
        said = [log.pending(record.source), log.running(record.source)]
        await self.publisher.publish([*said, log.ended(record.source, failed(message))])
