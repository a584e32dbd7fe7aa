"""Thousands of damaged files through the real sandbox: each is read or refused, in little time, and leaves nothing behind.

CALLSTREAM_FUZZ is how many (20,000). A file that fails is named by its number: `mutant(number, originals())` makes it again.
"""

import asyncio
import collections
import os
import re
import time
from pathlib import Path

import pytest

from pipeline.media.sandbox import DecodeLimits, Exit, MediaError, MediaInfo, Sandbox
from tests.fuzz.mutations import mutant, originals

COUNT = int(os.environ.get("CALLSTREAM_FUZZ", "20000"))
AT_ONCE = 2
LIMITS = DecodeLimits(memory_bytes=256 << 20, cpu_s=10, stall_s=60.0, decoded_s=600.0)
MOST_CPU_S = 1.0

_DIGITS = re.compile(r"\d+")


class Fuzzer:
    """One file after another through a sandbox of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._exits: list[Exit] = []
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.faults: list[str] = []
        self.most_cpu_s = 0.0
        self.peak_bytes = 0

    async def run(self, numbers: range, files: list[bytes]) -> None:
        with Sandbox(max_children=1, on_exit=self._exits.append) as sandbox:
            for number in numbers:
                self._path.write_bytes(mutant(number, files))
                self._exits.clear()
                try:
                    self._count("read", await sandbox.probe(self._path, limits=LIMITS))
                except MediaError as error:
                    self._count(f"refused: {_DIGITS.sub('N', error.reason).partition(':')[0]}", None)
                except Exception as error:  # noqa: BLE001 - that is what is looked for
                    self.faults.append(f"file {number}: {error!r}")
                self._judge(number)

    def _count(self, outcome: str, info: MediaInfo | None) -> None:
        self.outcomes[outcome] += 1
        if info is not None and not 0 <= info.duration_s <= LIMITS.decoded_s:
            self.faults.append(f"a file of {info.duration_s} s")

    def _judge(self, number: int) -> None:
        if len(self._exits) != 1:
            self.faults.append(f"file {number}: its child did not come to its own end")
            return
        (ending,) = self._exits
        self.most_cpu_s = max(self.most_cpu_s, ending.cpu_s)
        self.peak_bytes = max(self.peak_bytes, ending.peak_bytes)
        if ending.cpu_s > MOST_CPU_S:
            self.faults.append(f"file {number}: {ending.cpu_s:.2f} s of computing time")
        if ending.peak_bytes > LIMITS.memory_bytes:
            self.faults.append(f"file {number}: {ending.peak_bytes / 1e6:.0f} MB")
        if ending.status:
            self.outcomes["of these, ended by a signal or without a word"] += 1
            print(f"file {number}: wait status {ending.status}")  # noqa: T201


def folder(path: Path) -> set[str]:
    return {one.name for one in path.iterdir()}


async def test_damaged_files_are_read_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "working").mkdir()
    monkeypatch.chdir(tmp_path / "working")
    root = folder(Path("/"))
    files = originals()
    fuzzers = [Fuzzer(tmp_path / f"file-{number}") for number in range(AT_ONCE)]
    began_s = time.monotonic()
    await asyncio.gather(*(one.run(range(number, COUNT, AT_ONCE), files) for number, one in enumerate(fuzzers)))
    took_s = time.monotonic() - began_s
    outcomes = sum((one.outcomes for one in fuzzers), collections.Counter[str]())
    most = max(one.most_cpu_s for one in fuzzers), max(one.peak_bytes for one in fuzzers) / 1e6
    print(f"{COUNT} files in {took_s:.1f} s; at most {most[0]:.3f} s of computing time and {most[1]:.0f} MB")  # noqa: T201
    print("\n".join(f"{count:6} {outcome}" for outcome, count in outcomes.most_common()))  # noqa: T201
    assert not [fault for one in fuzzers for fault in one.faults]
    assert not folder(tmp_path / "working")
    assert folder(tmp_path) == {"file-0", "file-1", "working"}
    assert folder(Path("/")) == root
    assert outcomes["read"] > COUNT / 20  # or nothing of the decoders was reached
    assert sum(count for outcome, count in outcomes.items() if outcome.startswith("refused")) > COUNT / 4


def test_the_damage_can_be_repeated() -> None:
    files = originals()
    assert [mutant(number, files) for number in range(50)] == [mutant(number, originals()) for number in range(50)]
    assert len({mutant(number, files) for number in range(500)}) > 490
