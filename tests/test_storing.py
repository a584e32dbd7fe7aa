"""A blob store that hangs, or is away, keeps waiting those alone who need it."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from agents.gender import GenderStage
from pipeline.blobs import LocalBlobs, open_blobs
from pipeline.delivery import DeliveryWindow
from pipeline.publishing import MAX_RECORD_BYTES
from pipeline.records import Record
from pipeline.settings import Settings
from pipeline.storing import done, in_blob_thread
from pipeline.transitions import TaskLog
from schemas.media import CallOptions
from schemas.requests import BlobRef, StartTask
from schemas.stream import CallBegin
from schemas.tasks import Technology
from tests.harness import Bench

GENDER = Technology.GENDER_IDENTIFICATION


class Result(msgspec.Struct):
    """Some bytes of JSON."""

    text: str


@pytest.fixture
def hung() -> Iterator[threading.Event]:
    """What the store waits for; it comes when the test is over."""
    answer = threading.Event()
    yield answer
    answer.set()


async def test_a_store_that_hangs_keeps_no_thread_of_others(hung: threading.Event, tmp_path: Path) -> None:
    waiting = [asyncio.create_task(in_blob_thread(hung.wait)) for _ in range(40)]
    await asyncio.sleep(0.1)
    async with asyncio.timeout(20):
        assert await asyncio.to_thread(str, 1) == "1"
        assert (await asyncio.get_running_loop().getaddrinfo("localhost", 80))[0]
        log = TaskLog(GENDER, "5f0c2b6e-3a2e-5d0b-8d1e-0d7f3a1c9b42", "c")
        record = await done(log, "media/0/1", Result("small"), LocalBlobs(tmp_path))
    assert msgspec.json.decode(record.value or b"")["result"] == {"text": "small"}
    assert not any(one.done() for one in waiting)
    hung.set()
    assert all(await asyncio.gather(*waiting))


async def test_a_result_that_no_record_can_hold_is_in_the_store(tmp_path: Path) -> None:
    log = TaskLog(GENDER, "5f0c2b6e-3a2e-5d0b-8d1e-0d7f3a1c9b42", "c")
    store = LocalBlobs(tmp_path)
    result = Result("x" * MAX_RECORD_BYTES)
    record = await done(log, "media/0/1", result, store)
    name = msgspec.json.decode(record.value or b"")["result_ref"]
    assert msgspec.json.decode(b"".join(store.chunks(name)), type=Result) == result


async def test_requests_that_wait_for_the_store_leave_calls_their_place(tmp_path: Path) -> None:
    settings = Settings(data_dir=str(tmp_path), in_flight=4)
    open_blobs(settings).prepare()
    (tmp_path / "blobs" / "requests").rmdir()
    (tmp_path / "blobs").rmdir()  # it was mounted, and is not any more
    stage, crashes = GenderStage(settings), list[BaseException]()
    window = DeliveryWindow(settings.in_flight, crashes.append)
    bench = Bench(settings, stage)
    bench.frames[0].give_way = window.lanes.give_way  # type: ignore[method-assign]
    await stage.start(bench.frames[0])

    async def take(record: Record) -> None:
        receipt = bench.frames[0].receipt(record)
        await window.lanes.submit(record.key or b"", lambda: stage.process(record, receipt))

    has_passed = asyncio.Event()

    async def behind() -> None:
        has_passed.set()

    async with asyncio.timeout(20):
        for number in range(3 * settings.in_flight):
            request = StartTask(GENDER, lists=BlobRef(f"requests/x/{number}", "0" * 64, 5))
            key = f"5f0c2b6e-3a2e-5d0b-8d1e-{number:012x}".encode()
            await take(Record("requests", 0, number, key, msgspec.json.encode(request), (), 1.0))
        begin = msgspec.msgpack.encode(CallBegin("live", 1, CallOptions(), "c"))
        await take(Record("prints", 0, 0, b"live", begin, (), 1.0))
        await window.lanes.submit(b"live", behind)
        await has_passed.wait()
    assert "live" in stage._calls
    window.reset()
    assert crashes == []
