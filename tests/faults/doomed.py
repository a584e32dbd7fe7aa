"""A worker that kills itself with SIGKILL at a point of its work: `python -m tests.faults.doomed worker`.

It is the real worker; `CALLSTREAM_DOOM` says where it dies:

    sent:TOPIC:N          when the broker has acknowledged its Nth record to this topic, before anything follows from that
    acknowledged:N        when it has given its Nth offset back, before that is committed
    recovery:begin:N      when it begins its Nth look at what was there before it came; `recovery:end:N` when it has looked
    rebalance:begin:N     when its Nth hand-over begins; `rebalance:drained:N` before it commits, `rebalance:end:N` behind it
    assigned:N            when it has got its Nth assignment and knows nothing of it yet
    slow:FACTOR           does not die: every utterance takes FACTOR times as long
    forgetful             does not die: it writes no snapshots, so that a successor would have to begin anew (for benchmarks)
"""

import functools
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import agents.extractor
import agents.vad
import agents.vad_call
from pipeline.cli import main
from pipeline.delivery import DeliveryWindow, Receipt
from pipeline.partition_scan import PartitionScan
from pipeline.publishing import FaustPublisher
from pipeline.records import OutgoingRecord
from pipeline.runner import StageRunner

Act = Callable[[], None]


def _countdown(number: int) -> Act:
    """Called for the `number`th time it ends the process."""
    counter = itertools.count(1)

    def strike() -> None:
        if next(counter) == number:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)  # until the signal arrives

    return strike


def _around(owner: type, name: str, *, before: Act | None = None, after: Act | None = None) -> None:
    """Wrap a coroutine method."""
    original = getattr(owner, name)

    @functools.wraps(original)
    async def wrapped(*arguments: Any, **named: Any) -> Any:
        if before is not None:
            before()
        result = await original(*arguments, **named)
        if after is not None:
            after()
        return result

    setattr(owner, name, wrapped)


def _sent(topic: str, number: str) -> None:
    strike = _countdown(int(number))
    original = FaustPublisher._send_once

    async def send_once(self: FaustPublisher, record: OutgoingRecord) -> int:
        offset = await original(self, record)
        if record.topic == topic:
            strike()
        return offset

    FaustPublisher._send_once = send_once  # type: ignore[method-assign]


def _acknowledged(number: str) -> None:
    strike = _countdown(int(number))
    original = Receipt.acknowledge

    def acknowledge(self: Receipt) -> None:
        original(self)
        strike()

    Receipt.acknowledge = acknowledge  # type: ignore[method-assign]


def _recovery(when: str, number: str) -> None:
    strike = _countdown(int(number))
    _around(PartitionScan, "_read", **{"begin": {"before": strike}, "end": {"after": strike}}[when])


def _rebalance(when: str, number: str) -> None:
    strike = _countdown(int(number))
    if when == "drained":
        _around(DeliveryWindow, "drain", after=strike)
    else:
        _around(StageRunner, "hand_over", **{"begin": {"before": strike}, "end": {"after": strike}}[when])


def _assigned(number: str) -> None:
    _around(StageRunner, "_on_assigned", before=_countdown(int(number)))


def _slow(factor: str) -> None:
    original = agents.extractor.extract

    def extract(*arguments: Any) -> Any:
        began_s = time.monotonic()
        result = original(*arguments)
        time.sleep((time.monotonic() - began_s) * (float(factor) - 1))
        return result

    agents.extractor.extract = extract  # type: ignore[assignment]


def _forgetful() -> None:
    async def save(*_: Any) -> None: ...

    agents.vad.VadStage._save = save  # type: ignore[assignment, method-assign]
    agents.vad_call.VadCall.opened_records = lambda *_: []  # type: ignore[method-assign]
    vars(agents.vad)["ended_records"] = lambda *_: []


DOOMS: dict[str, Callable[..., None]] = {
    "sent": _sent,
    "acknowledged": _acknowledged,
    "recovery": _recovery,
    "rebalance": _rebalance,
    "assigned": _assigned,
    "slow": _slow,
    "forgetful": _forgetful,
}

if __name__ == "__main__":
    kind, *arguments = os.environ["CALLSTREAM_DOOM"].split(":")
    DOOMS[kind](*arguments)
    sys.exit(main())
