"""What a file from a stranger can do: be read, be refused, run into a limit. Real children, real kills."""

import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from pipeline.media.files import MediaFile
from pipeline.media.sandbox import DecodeLimits, DecoderError, MediaError, MediaInfo, Sandbox, Selection
from schemas.media import AudioFormat, Encoding
from schemas.requests import ChannelMode
from tests.media.samples import (
    FORMATS,
    Exits,
    Format,
    children_of,
    decoders_of,
    is_running,
    noise,
    open_descriptors,
    samples,
    tones,
    wait_until_gone,
    write,
)

NO_LIVES = DecodeLimits(stall_s=0.5)


async def take(sandbox: Sandbox, path: Path, limits: DecodeLimits, got: list[bytes]) -> None:
    async for chunk in sandbox.decode(path, limits=limits):
        got.append(chunk)  # noqa: PERF401 - what came before an error counts


def claim(wav: Path, size_bytes: int) -> None:
    """Let a WAV's header say that it is of this size."""
    content = bytearray(wav.read_bytes())
    for at in (4, content.index(b"data") + 4):
        content[at : at + 4] = size_bytes.to_bytes(4, "little")
    wav.write_bytes(content)


async def refusal(sandbox: Sandbox, path: Path, limits: DecodeLimits | None = None) -> str:
    with pytest.raises(MediaError) as caught:
        await sandbox.probe(path, limits=limits or DecodeLimits())
    message = str(caught.value)
    assert message.startswith("the file ")
    assert "\n" not in message
    assert str(path.parent) not in message
    return message


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: f"{one.container}-{one.encoding}")
async def test_what_comes_out_of_the_sandbox_is_what_is_in_the_file(sandbox: Sandbox, tmp_path: Path, one: Format) -> None:
    path = write(tmp_path / "file", tones(1.7, one.max_channels, 16_000), 16_000, one.container, one.encoding)
    info = await sandbox.probe(path)
    chunks = [chunk async for chunk in sandbox.decode(path)]
    with MediaFile(path) as media:
        assert chunks == list(media.chunks())
        assert info.format == media.format
    assert info.duration_s == len(b"".join(chunks)) / info.format.bytes_per_s
    assert info.channel_numbers == list(range(one.max_channels))
    assert all(len(chunk) <= 16_000 * one.max_channels and len(chunk) % info.format.frame_bytes == 0 for chunk in chunks)


async def test_a_selection(sandbox: Sandbox, wav: Path) -> None:
    original = noise(20_000, 3)
    write(wav, original, 8000)
    chosen = Selection(channels=[2, 0], range_from_s=0.6, range_to_s=1.9)
    assert await sandbox.probe(wav, chosen) == MediaInfo(AudioFormat(Encoding.PCM_S16LE, 8000, 2), 1.3, [2, 0])
    got = samples([chunk async for chunk in sandbox.decode(wav, chosen)], 2)
    assert np.array_equal(got, original[4800:15_200, [2, 0]])
    mixed = Selection(channel_mode=ChannelMode.MIX, range_from_s=99.0)
    assert await sandbox.probe(wav, mixed) == MediaInfo(AudioFormat(Encoding.PCM_S16LE, 8000, 1), 0.0, [0])
    assert [chunk async for chunk in sandbox.decode(wav, mixed)] == []
    with pytest.raises(MediaError, match="so no channel 7"):
        await sandbox.probe(wav, Selection(channels=[7]))
    with pytest.raises(MediaError):
        await sandbox.probe(wav, Selection(channels=list(range(100_000))))


async def test_what_is_no_audio_file_is_refused(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "file.wav"
    flac = write(tmp_path / "a.flac", noise(8000, 1), 8000, "FLAC").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.wav", flac)
    for content in (
        b"",
        b"R",
        b"RIFF",
        b"RIFF\x24\x00\x00\x00WAVE",
        b"RIFF\x24\x00\x00\x00WAVEfmt ",
        b"fLaC",
        flac[:30],
        b"OggS" + bytes(40),
        b"ID3",
        b"\xff\xfb\x90",
        b"\xff\xfb\x90\x64" + bytes(2000),
        b"Dear reader,\n" * 100,
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(500),
        (tmp_path / "a.zip").read_bytes(),
        write(tmp_path / "a.aiff", noise(800, 1), 8000, "AIFF").read_bytes(),
        bytes(5000),
    ):
        path.write_bytes(content)
        await refusal(sandbox, path)


async def test_a_file_that_breaks_in_the_middle_is_known_before_anything_is_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", noise(80_000, 1), 8000, "FLAC")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 3000] = bytes(3000)
    path.write_bytes(content)
    assert "cannot be decoded" in await refusal(sandbox, path)
    got: list[bytes] = []
    with pytest.raises(MediaError, match="cannot be decoded"):
        await take(sandbox, path, DecodeLimits(), got)
    assert 0 < len(got) < 10


async def test_a_header_that_claims_4_gb_is_worth_what_is_there(sandbox: Sandbox, wav: Path) -> None:
    claim(write(wav, noise(8000, 1), 8000), 0xFFFF_FFFF)
    assert (await sandbox.probe(wav)).duration_s == 1.0


async def test_hours_of_silence_in_a_small_file_end_at_the_limit(sandbox: Sandbox, exits: Exits, tmp_path: Path) -> None:
    path = tmp_path / "bomb.flac"
    with soundfile.SoundFile(path, "w", 48_000, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(3600):
            file.write(np.zeros(48_000, np.int16))
    assert path.stat().st_size < 2_000_000
    limits = DecodeLimits(decoded_s=60.0)
    assert await refusal(sandbox, path, limits) == "the file is longer than 60 s"
    assert exits[-1].cpu_s < 1
    got: list[bytes] = []
    with pytest.raises(MediaError, match="longer than 60 s"):
        await take(sandbox, path, limits, got)
    assert 59 * 96_000 <= len(b"".join(got)) <= 60 * 96_000
    with pytest.raises(MediaError, match="longer than 60 s"):
        await sandbox.probe(path, Selection(range_from_s=3000.0), limits)
    assert (await sandbox.probe(path, Selection(range_to_s=30.0), limits)).duration_s == 30.0
    assert (await sandbox.probe(path)).duration_s == 3600.0


async def test_the_memory_limit_bites(sandbox: Sandbox, exits: Exits, wav: Path) -> None:
    write(wav, noise(60_000, 1024), 192_000)  # half a second of it is 197 MB
    chosen = Selection(channels=[0])
    assert (await sandbox.probe(wav, chosen)).format.channels == 1
    limits = DecodeLimits(memory_bytes=250_000_000)
    with pytest.raises(MediaError, match="cannot be decoded in 250 MB of memory"):
        await sandbox.probe(wav, chosen, limits)
    assert exits[-1].peak_bytes < limits.memory_bytes
    for megabytes in (1, 20, 60, 100, 110, 115, 120):
        with contextlib.suppress(MediaError):
            await sandbox.probe(wav, chosen, DecodeLimits(memory_bytes=megabytes << 20))
    assert (await sandbox.probe(wav, chosen)).format.channels == 1


async def test_the_limit_of_computing_time_bites(sandbox: Sandbox, exits: Exits, wav: Path) -> None:
    claim(write(wav, noise(1, 8), 192_000), 4_000_000_000)
    os.truncate(wav, 4_000_000_000)  # holds no bytes, but much to resample, however fast the machine is
    assert await refusal(sandbox, wav, DecodeLimits(cpu_s=1)) == "the file cannot be decoded in 1 s of computing time"
    assert os.WTERMSIG(exits[-1].status) == signal.SIGXCPU
    assert 0.5 < exits[-1].cpu_s < 2  # the kernel's own accounts differ a little from each other


def position_in_file(pid: int) -> int:
    lines = Path(f"/proc/{pid}/fdinfo/3").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("pos:")).split()[1])


async def begin(sandbox: Sandbox, path: Path) -> tuple["asyncio.Task[list[bytes]]", int]:
    """A file that is being decoded and whose child waits for us to take the next chunk."""
    got: list[bytes] = []
    begun, never = asyncio.Event(), asyncio.Event()

    async def take() -> list[bytes]:
        async with contextlib.aclosing(sandbox.decode(path, limits=NO_LIVES)) as chunks:
            async for chunk in chunks:
                got.append(chunk)
                if len(got) == 3:
                    begun.set()
                    await never.wait()
        return got

    task = asyncio.create_task(take())
    await asyncio.wait_for(begun.wait(), 60)
    (pid,) = decoders_of(sandbox)
    return task, pid


def is_reading(pid: int) -> bool:
    """Whether a child is past its beginning: confined, tied to its server's life, and into the file."""
    try:
        return position_in_file(pid) > 0
    except (OSError, StopIteration):
        return False


async def decoding(sandbox: Sandbox) -> list[int]:
    """The children, as soon as there are any and all of them read."""
    while sandbox.server_pid is None or not (pids := decoders_of(sandbox)) or not all(map(is_reading, pids)):  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return pids


@pytest.fixture
def long_wav(wav: Path) -> Path:
    return write(wav, noise(4_000_000, 2), 16_000)


@pytest.fixture
def large_wav(tmp_path: Path) -> Path:
    """Seconds of work for a decoder: nobody can catch one that is done in a few milliseconds."""
    path = write(tmp_path / "large.wav", noise(1, 2), 16_000)
    claim(path, 2_000_000_000)
    os.truncate(path, 2_000_000_000)  # holds no bytes
    return path


async def test_a_child_is_not_ahead_of_the_one_who_asks(sandbox: Sandbox, long_wav: Path) -> None:
    task, pid = await begin(sandbox, long_wav)
    await asyncio.sleep(1)  # longer than the time to stall, which a consumer may take
    assert is_running(pid)
    assert position_in_file(pid) < 2_000_000
    task.cancel()


async def test_a_cancelled_consumer_leaves_no_child(sandbox: Sandbox, long_wav: Path, large_wav: Path) -> None:
    before = open_descriptors()
    for _ in range(3):
        task, pid = await begin(sandbox, long_wav)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await asyncio.to_thread(wait_until_gone, [pid])
    probing = asyncio.create_task(sandbox.probe(large_wav))
    await decoding(sandbox)
    probing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probing
    assert await asyncio.to_thread(wait_until_gone, decoders_of(sandbox))
    assert open_descriptors() <= before + 2  # the server's socket
    assert (await sandbox.probe(long_wav)).duration_s == 250.0


async def test_a_child_that_is_killed_by_another_is_not_the_files_fault(
    sandbox: Sandbox, long_wav: Path, large_wav: Path
) -> None:
    for number, expected in ((signal.SIGKILL, DecoderError), (signal.SIGSEGV, MediaError), (signal.SIGABRT, MediaError)):
        probing = asyncio.create_task(sandbox.probe(large_wav))
        pids = await decoding(sandbox)
        os.kill(pids[0], signal.SIGSTOP)
        os.kill(pids[0], number)
        os.kill(pids[0], signal.SIGCONT)
        with pytest.raises(expected):
            await probing
    assert (await sandbox.probe(long_wav)).duration_s == 250.0


async def test_one_child_ends_without_the_others(sandbox: Sandbox, long_wav: Path) -> None:
    task, pid = await begin(sandbox, long_wav)
    other = asyncio.create_task(sandbox.probe(long_wav))
    os.kill(pid, signal.SIGKILL)
    assert (await other).duration_s == 250.0
    task.cancel()


async def test_a_frozen_child_is_ended_and_a_frozen_parent_is_not_the_files_fault(
    sandbox: Sandbox, long_wav: Path, large_wav: Path
) -> None:
    probing = asyncio.create_task(sandbox.probe(large_wav, limits=NO_LIVES))
    pids = await decoding(sandbox)
    os.kill(pids[0], signal.SIGSTOP)
    with pytest.raises(DecoderError):  # it may be the machine that stands still
        await asyncio.wait_for(probing, 180)
    assert await asyncio.to_thread(wait_until_gone, pids)
    chunks = sandbox.decode(long_wav, limits=NO_LIVES)
    await anext(chunks)
    time.sleep(1.5)  # noqa: ASYNC251 - as if this process had been stopped
    assert len([chunk async for chunk in chunks]) == 499


async def test_signals_to_a_whole_group_end_no_child(sandbox: Sandbox, large_wav: Path) -> None:
    probing = asyncio.create_task(sandbox.probe(large_wav))
    pids = await decoding(sandbox)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for pid in (*pids, sandbox.server_pid or 0):
            os.kill(pid, number)
    assert (await probing).duration_s > 31_000


async def test_a_server_that_is_killed_is_replaced(sandbox: Sandbox, long_wav: Path) -> None:
    task, pid = await begin(sandbox, long_wav)
    probing = asyncio.create_task(sandbox.probe(long_wav))
    await asyncio.sleep(0)
    server_pid = sandbox.server_pid or 0
    os.kill(server_pid, signal.SIGKILL)
    with pytest.raises(DecoderError, match="server"):
        await probing
    assert await asyncio.to_thread(wait_until_gone, [pid, server_pid])
    assert (await sandbox.probe(long_wav)).duration_s == 250.0
    assert sandbox.server_pid != server_pid
    task.cancel()


PARENT = """
import asyncio, sys
from pathlib import Path
from pipeline.media.sandbox import Sandbox

async def main():
    sandbox = Sandbox()
    chunks = [sandbox.decode(Path(sys.argv[1])) for _ in range(2)]
    for one in chunks:
        await anext(one)
    print(sandbox.server_pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_a_parent_that_is_killed_leaves_nothing_behind(long_wav: Path, number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, str(long_wav)], stdout=subprocess.PIPE, text=True) as parent:  # noqa: ASYNC220
        assert parent.stdout is not None
        server_pid = int(parent.stdout.readline())
        pids = [server_pid, *children_of(server_pid)]
        assert len(pids) == 3
        parent.send_signal(number)
        parent.wait()
    assert await asyncio.to_thread(wait_until_gone, pids)


async def test_a_child_has_nothing_that_it_does_not_need(
    sandbox: Sandbox, long_wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLSTREAM_SECRET", "hunter2")
    task, pid = await begin(sandbox, long_wav)
    folder = Path(f"/proc/{pid}")
    assert b"hunter2" not in (folder / "environ").read_bytes()
    links = {int(link.name): str(link.readlink()) for link in (folder / "fd").iterdir()}
    assert set(links) == {0, 1, 2, 3, 4}
    assert links[0] == links[1] == links[2] == os.devnull
    assert links[3] == str(long_wav)
    limits = {line[:25].strip(): line[25:].split()[:2] for line in (folder / "limits").read_text().splitlines()}
    assert limits["Max file size"] == limits["Max core file size"] == limits["Max processes"] == ["0", "0"]
    assert limits["Max open files"] == ["5", "5"]
    assert limits["Max address space"] == [str(512 << 20)] * 2
    assert limits["Max cpu time"] == ["300", "301"]
    status = (folder / "status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "Threads:\t1\n" in status
    task.cancel()


async def test_no_more_children_at_once_than_are_allowed(long_wav: Path) -> None:
    with Sandbox(max_children=3) as sandbox:
        probing = [asyncio.create_task(sandbox.probe(long_wav)) for _ in range(8)]
        most = 0
        while not all(one.done() for one in probing):
            most = max(most, len(decoders_of(sandbox)) if sandbox.server_pid else 0)
            await asyncio.sleep(0.005)
        assert [one.result().duration_s for one in probing] == [250.0] * 8
        assert 2 <= most <= 3
        server_pid = sandbox.server_pid or 0
    assert not is_running(server_pid)


async def test_what_is_there_to_be_tried_again_is_an_os_error(sandbox: Sandbox, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "none.wav", tmp_path, tmp_path / "pipe"):
        with pytest.raises(OSError, match=r"No such file|no regular file"):
            await sandbox.probe(path)


async def test_the_same_file_gives_the_same_chunks_in_every_child(sandbox: Sandbox, wav: Path) -> None:
    write(wav, tones(3.01, 2, 11_025), 11_025)
    first = [chunk async for chunk in sandbox.decode(wav)]
    for _ in range(5):
        assert [chunk async for chunk in sandbox.decode(wav)] == first
    assert math.isclose(len(b"".join(first)) / 64_000, 3.01, abs_tol=0.001)
