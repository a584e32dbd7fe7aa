"""What an agent is to the frame and the frame to it, and where a record goes that an agent cannot process.

Errors are split by what is to be done: DeadLetterError and every unexpected fault send the record to `dead-letters`;
what may pass is retried where it arises; a process without threads or files left, and a dead letter that cannot be sent,
end the process, the input unacknowledged.
"""

import errno
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Protocol, runtime_checkable

from pipeline.delivery import Receipt, describe_error
from pipeline.publishing import Publisher, RecordTooLargeError
from pipeline.records import DeadLetterError, Record, shown_key
from pipeline.settings import Settings
from schemas.errors import DeadLetterType

logger = logging.getLogger(__name__)

_LIMITS = "ulimit -u and -n, pids of a container"


class NotProcessedError(Exception):
    """A record failed because the process ends: nothing of it counts, and nothing behind it in its call may."""


class ExhaustedError(NotProcessedError):
    """The process has no more threads or files to give: it ends, and a successor begins with none in use."""


class Frame(Protocol):
    """What the frame offers to a stage."""

    settings: Settings
    publisher: Publisher

    async def is_caught_up(self, topic: str, partition: int) -> bool:
        """Whether everything that the partition holds has reached the stage; False when the broker does not answer."""

    def answering_since_s(self, topic: str, partition: int) -> float:
        """Since when (on the monotonic clock) Kafka has answered without a break: before, producers could send nothing."""

    async def submit(self, key: Hashable, job: Callable[[], Awaitable[None]]) -> None:
        """Run a job behind the records of this key that wait."""

    def give_way(self) -> None:
        """The record in work is about to wait for what is away: others may be in work in its place."""

    async def bury(self, record: Record, error_type: DeadLetterType, message: str) -> None:
        """Send a record to `dead-letters`."""


class Stage(Protocol):
    """One agent's work, free of Faust."""

    name: str
    topics: tuple[str, ...]

    async def start(self, frame: Frame) -> None:
        """Load what is needed; called once, before the first record."""

    async def process(self, record: Record, receipt: Receipt) -> None:
        """Process a record; release its receipt now or later. Raises DeadLetterError."""

    async def fail(self, record: Record, message: str) -> None:
        """A fault met this record, which goes to `dead-letters`: make the tasks that it belongs to fail."""

    async def tick(self) -> None:
        """Called every half second."""

    def forget(self) -> None:
        """Drop all state: partitions are being assigned anew, and unacknowledged records come again."""

    async def stop(self) -> None:
        """Let go of what start() took."""


@runtime_checkable
class Counting(Protocol):
    """A stage that counts something of its own."""

    def counts(self) -> Mapping[str, int]:
        """What `/metrics` tells of it."""


async def process_record(
    stage: Stage, frame: Frame, record: Record, receipt: Receipt, is_ending: Callable[[], bool] = lambda: False
) -> None:
    """Let a stage process a record; send it where it belongs when that fails. Raises when it cannot even be buried.

    Raises NotProcessedError when it failed because the process ends, or has to.
    """
    try:
        await stage.process(record, receipt)
    except DeadLetterError as error:
        await frame.bury(record, error.type, str(error))
        receipt.release()
    except Exception as error:
        if is_ending():  # not the record's fault: it is unacknowledged, and comes again
            raise NotProcessedError(describe_error(error)) from error
        check_exhaustion(error)
        logger.exception("stage %s cannot process %s (key %r)", stage.name, record.source, shown_key(record.key))
        await frame.bury(record, DeadLetterType.INTERNAL, describe_error(error))
        await _fail(stage, record, describe_error(error))
        receipt.release()


def check_exhaustion(error: Exception) -> None:
    """Raises ExhaustedError when that is what the error says, or is."""
    if isinstance(error, ExhaustedError):
        raise error
    if _is_exhaustion(error):
        message = f"{describe_error(error)}; the process ends: start it again, and raise its limits ({_LIMITS})"
        raise ExhaustedError(message) from error


def _is_exhaustion(error: Exception) -> bool:
    # Not MemoryError: Linux gives more than there is, so that what is refused is absurd, and the record asked for it.
    if isinstance(error, OSError):
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return isinstance(error, RuntimeError) and str(error) == "can't start new thread"


async def _fail(stage: Stage, record: Record, message: str) -> None:
    try:
        await stage.fail(record, message)
    except RecordTooLargeError:
        # It is buried, and its tasks cannot be told: to end the process would only meet it again.
        logger.exception("stage %s cannot say that the tasks of %s failed", stage.name, record.source)
