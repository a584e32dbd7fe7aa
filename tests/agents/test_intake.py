"""Files that become calls, and what is said of those that cannot: by one voice, in three steps, whatever goes wrong when."""

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import stamina

from agents import vad
from agents.intake import IntakeStage
from pipeline.blobs import LocalBlobs, open_blobs
from pipeline.media.sandbox import DecodeLimits, MediaError
from pipeline.partition_scan import PartitionScan
from pipeline.records import Record
from pipeline.transitions import failed
from schemas.media import CallOptions, Header
from schemas.requests import BlobRef, MediaRequest, StartTask
from schemas.tasks import Technology, call_task_id
from tests.harness import Bench, bench_settings, media_headers, read_log, sample_audio
from tests.media.samples import children_of, noise, write

VAD = Technology.VOICE_ACTIVITY_DETECTION
CALL = "upload-1"
BLOB = "requests/x/file"
JUNK = b"no audio at all" * 100
STEPS = ["pending", "running"]


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Intake and voice activity detection; tries follow each other at once."""
    settings = bench_settings(tmp_path / "data")
    opened = Bench(settings, IntakeStage(settings), vad.VadStage(settings))

    async def read(scan: PartitionScan[Any], first: Record) -> Any:
        return await read_log(scan, opened.log, first)

    monkeypatch.setattr(PartitionScan, "_read", read)
    with stamina.set_testing(True, attempts=5, cap=True):
        async with opened:
            yield opened


def intake_of(bench: Bench) -> IntakeStage:
    stage = bench.frames[0].stage
    assert isinstance(stage, IntakeStage)
    return stage


def put(bench: Bench, content: bytes) -> BlobRef:
    open_blobs(bench.settings).put(BLOB, content)
    return BlobRef(BLOB, hashlib.sha256(content).hexdigest(), len(content))


async def ask(bench: Bench, file: BlobRef, technology: Technology = VAD, **asked: Any) -> None:
    media = MediaRequest(CALL, file, options=CallOptions(owner="crm", correlation_id="corr"), **asked)
    request = msgspec.json.encode(StartTask(technology, media=media, owner="crm"))
    await bench.produce("requests", call_task_id(CALL, technology).encode(), request)


def steps(bench: Bench, technology: Technology = VAD) -> list[str]:
    """The states of the call's task; revisions count from 0 without gaps, each once."""
    records = bench.transitions().get((CALL, technology.value), [])
    assert [record["revision"] for record in records] == list(range(len(records)))
    return [record["task"]["state"] for record in records]


def said(bench: Bench, technology: Technology = VAD) -> dict[str, Any]:
    detail: dict[str, Any] = bench.final(CALL, technology.value)["error"]["detail"][0]
    return detail


@pytest.fixture
def long_wav(tmp_path: Path) -> bytes:
    return write(tmp_path / "long.wav", noise(1_600_000, 1), 16_000).read_bytes()


@asynccontextmanager
async def each_decoder(bench: Bench, treat: Callable[[int], None]) -> AsyncIterator[set[int]]:
    """Do this to every child that decodes, as soon as it is there; the children that met it."""
    met: set[int] = set()

    async def treat_all() -> None:
        while True:
            server_pid = intake_of(bench)._sandbox.server_pid
            for pid in set(children_of(server_pid)) - met if server_pid else ():
                met.add(pid)
                treat(pid)
            await asyncio.sleep(0.001)

    treating = asyncio.create_task(treat_all())
    yield met
    treating.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await treating


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("range_to", [3.0, 5.0])
async def test_a_range_that_holds_nothing_is_rejected_at_its_place(bench: Bench, long_wav: bytes, range_to: float) -> None:
    await ask(bench, put(bench, long_wav), range_from=5.0, range_to=range_to)
    assert steps(bench) == [*STEPS, "rejected"]
    assert (said(bench)["type"], said(bench)["location"]) == ("value.invalid", ["query", "range_to"])


@pytest.mark.parametrize("technology", [VAD, Technology.LANGUAGE_IDENTIFICATION])
async def test_a_file_that_is_none_is_rejected_in_three_steps(bench: Bench, technology: Technology) -> None:
    await ask(bench, put(bench, JUNK), technology)
    assert steps(bench, technology) == [*STEPS, "rejected"]
    detail = said(bench, technology)
    assert (detail["type"], detail["location"]) == ("media.invalid", ["body", "file"])
    assert detail["message"] == "the file cannot be read as WAV, FLAC, Ogg or MP3."
    final = bench.log["results"][-1]
    assert final.text(Header.CORRELATION_ID) == "corr"
    assert bench.final(CALL, technology.value)["owner"] == "crm"
    assert len(bench.transitions()) == 1
    assert bench.dead_letters() == []
    await ask(bench, put(bench, JUNK), technology)  # again, as after a worker's death
    assert steps(bench, technology) == [*STEPS, "rejected"]
    assert bench.dead_letters() == []


async def test_a_file_that_can_be_heard(bench: Bench, long_wav: bytes) -> None:
    await ask(bench, put(bench, long_wav))
    assert steps(bench)[-1] == "done"
    assert steps(bench)[:2] == STEPS


async def test_a_file_that_is_not_what_was_put_there_is_a_dead_letter(bench: Bench, long_wav: bytes) -> None:
    reference = put(bench, long_wav)
    put(bench, b"something else")
    await ask(bench, reference)
    assert bench.dead_letters() == ["blob.missing"]
    assert "is not what was put there" in (bench.log["dead-letters"][0].text(Header.ERROR_MESSAGE) or "")
    assert bench.log["results"] == bench.log["media"] == []


async def test_a_file_whose_decoder_is_killed_each_time_fails_and_lets_others_pass(bench: Bench, long_wav: bytes) -> None:
    async with each_decoder(bench, kill) as killed:
        await ask(bench, put(bench, long_wav))
    assert len(killed) >= 5  # and whatever a library starts beside them
    assert steps(bench) == [*STEPS, "failed"]
    assert "ended by signal 9" in said(bench)["message"]
    assert bench.dead_letters() == ["internal"]
    assert bench.frames[0].acknowledged["requests"] == [0]


Chunks = AsyncIterator[bytes]


def at_chunk(bench: Bench, number: int, interfere: Callable[[], None]) -> None:
    """Interfere with each decoding for a call when so many chunks are taken."""
    sandbox = intake_of(bench)._sandbox
    decode = sandbox.decode

    async def decode_and_interfere(*arguments: Any) -> Chunks:
        taken = 0
        async with contextlib.aclosing(decode(*arguments)) as chunks:
            async for chunk in chunks:
                if (taken := taken + 1) == number:
                    interfere()
                yield chunk

    sandbox.decode = decode_and_interfere  # type: ignore[method-assign,assignment]


async def test_a_decoder_that_stands_still_is_tried_again_and_is_no_refusal(bench: Bench, long_wav: bytes) -> None:
    intake_of(bench)._limits = DecodeLimits(stall_s=0.5)
    stopped: list[int] = []

    def stop_twice() -> None:
        if len(stopped) < 2:
            (pid,) = children_of(intake_of(bench)._sandbox.server_pid)
            stopped.append(pid)
            os.kill(pid, signal.SIGSTOP)

    at_chunk(bench, 3, stop_twice)
    await ask(bench, put(bench, long_wav))
    assert len(stopped) == 2
    assert steps(bench)[-1] == "done"
    assert bench.final(CALL, VAD.value)["result"].get("missing", []) == []
    assert bench.dead_letters() == []


async def test_trouble_once_the_call_has_begun_fails_it_and_says_nothing_twice(bench: Bench, long_wav: bytes) -> None:
    is_broken = True

    def break_off() -> None:
        if is_broken:
            raise MediaError("cannot be decoded: this time")

    at_chunk(bench, 20, break_off)
    await ask(bench, put(bench, long_wav))
    assert steps(bench)[:2] == STEPS
    assert steps(bench)[-1] == "failed"
    assert "which was decoded before" in said(bench)["message"]
    assert bench.dead_letters() == ["internal"]
    is_broken = False
    before = steps(bench)
    await ask(bench, put(bench, long_wav))  # whatever comes of the file now, its task is final
    assert steps(bench) == before


async def test_a_refusal_of_a_call_that_has_begun_is_a_failure(bench: Bench, long_wav: bytes) -> None:
    options = msgspec.json.encode(CallOptions(technologies=[VAD], is_file=True)).decode()
    await bench.produce("media", CALL.encode(), sample_audio(0, 1), media_headers(0, options=options))
    await ask(bench, put(bench, JUNK))
    assert steps(bench) == [*STEPS, "failed"]
    assert "cannot be read" in said(bench)["message"]


@pytest.mark.parametrize("is_told_by_time", [False, True])
async def test_a_file_whose_rest_does_not_come_fails(bench: Bench, *, is_told_by_time: bool) -> None:
    options = msgspec.json.encode(CallOptions(technologies=[VAD], is_file=True)).decode()
    await bench.produce("media", CALL.encode(), sample_audio(0, 3), media_headers(0, options=options))
    stage = bench.frames[1].stage
    assert isinstance(stage, vad.VadStage)
    if is_told_by_time:
        bench.clock_s += 86_500
        await bench.produce("media", CALL.encode(), sample_audio(3, 4), media_headers(1, end=True))
    else:
        stage._calls[CALL].last_arrival_s -= 86_500
        await bench.tick()
    assert steps(bench)[-1] == "failed"
    assert said(bench)["message"] == "the rest of the file did not come within 24 h"
    assert bench.dead_letters() == []


async def test_any_fault_of_ours_fails_the_task_in_three_steps(bench: Bench, long_wav: bytes) -> None:
    reference = put(bench, long_wav)
    intake_of(bench)._store = LocalBlobs(None)  # type: ignore[arg-type]
    await ask(bench, reference)
    assert steps(bench) == [*STEPS, "failed"]
    assert bench.final(CALL, VAD.value)["error"] == msgspec.to_builtins(failed(said(bench)["message"]))


@pytest.mark.parametrize("abort", ["", "{", "[]", "{}", '{"type": 1}'])
async def test_an_abort_that_is_none_is_a_dead_letter(bench: Bench, abort: str) -> None:
    await bench.produce("media", b"call", b"", media_headers(0, abort=abort))
    assert bench.dead_letters() == ["header.invalid"]
    assert bench.log["results"] == []
