"""Disks that are full or cannot be written: of the query service's view, of the blob store, of the broker."""

import json
import random
import subprocess
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from pipeline.broker import BrokerError, EmbeddedBroker
from pipeline.broker.ports import free_port
from tests.broker_fixture import cache_dir
from tests.faults.calls import SHORT, Call, interleaved, make_call, make_calls
from tests.faults.conftest import Reporter, settings_for
from tests.faults.feed import Feed
from tests.faults.outcome import Expected, Outcome, task_ids
from tests.faults.pool import Pool
from tests.system import PATIENCE_S, System, http, open_system, wait_answer, wait_ready, wait_url

pytestmark = pytest.mark.broker

MB = 1_048_576


class SmallDisk:
    """A file system in memory of `size_mb`."""

    def __init__(self, folder: Path, size_mb: int) -> None:
        self.folder = folder
        folder.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip("no right to mount a small file system here")

    def fill(self) -> None:
        """Until nothing more can be written."""
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for size in (MB, 4096):
                try:
                    while file.write(bytes(size)) == size:
                        pass
                except OSError:
                    continue

    def free(self) -> None:
        (self.folder / "filler").unlink()

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True, capture_output=True)

    def close(self) -> None:
        subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    opened = SmallDisk(tmp_path / "disk", 8)
    yield opened
    opened.close()


def test_the_view_meets_a_full_and_a_read_only_disk(system: System, disk: SmallDisk) -> None:
    """It says that it is not ready, goes on answering what it knows, and catches up."""
    with Outcome(system) as outcome, Pool(system, 1):
        query = system.start("query", "--port", "0", CALLSTREAM_DATA_DIR=str(disk.folder))
        url = wait_url(query)
        known, missed, late = (make_call(name, SHORT[0], random.Random(0)) for name in ("known", "missed", "late"))
        with Feed(system.settings, known.chunks):
            pass
        outcome.wait([known], PATIENCE_S)
        wait_ready(url, wanted=True)
        technology, task_id = next(iter(task_ids(known).items()))
        answer = wait_answer(url, technology, task_id)
        disk.fill()
        with Feed(system.settings, missed.chunks):
            pass
        outcome.wait([missed], PATIENCE_S)
        wait_ready(url, wanted=False)
        assert http("GET", f"{url}/api/technology/{technology}/{task_id}")[::2] == (200, answer)
        disk.free()
        wait_ready(url, wanted=True)
        _check_answers(url, outcome, [known, missed])
        assert query.terminate() == 0
        disk.remount("ro")
        refused = system.run("query", "--port", "0", CALLSTREAM_DATA_DIR=str(disk.folder))
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1), refused.stderr
        with Feed(system.settings, late.chunks):
            pass
        outcome.wait([late], PATIENCE_S)
        disk.remount("rw")
        url = wait_url(system.start("query", "--port", "0", CALLSTREAM_DATA_DIR=str(disk.folder)))
        wait_ready(url, wanted=True)
        _check_answers(url, outcome, [known, missed, late])


def _check_answers(url: str, outcome: Outcome, calls: Sequence[Call]) -> None:
    """The service answers what `results` says."""
    for call in calls:
        for technology, task_id in task_ids(call).items():
            final = json.loads(outcome.tasks[task_id].finals[0])
            code, _, body = http("GET", f"{url}/api/technology/{technology}/{task_id}")  # `/ready` has promised it
            assert (code, body["task"], body["result"]) == (200, final["task"], final["result"])


def _is_final(outcome: Outcome, task_id: str) -> bool:
    return task_id in outcome.tasks and bool(outcome.tasks[task_id].finals)


def _large_request(expected: Expected, count: int) -> bytes:
    """A comparison whose result is larger than a record; another count is another result."""
    final = next(values[-1] for (_, technology), values in expected.items() if "extraction" in technology.value)
    voiceprint = json.loads(final)["result"]["channels"][0]["voiceprint"]
    return json.dumps({"voiceprints_a": [voiceprint] * count, "voiceprints_b": [voiceprint] * 410}).encode()


@pytest.mark.only_long
def test_the_blob_store_meets_a_full_and_a_read_only_disk(system: System, disk: SmallDisk, expected: Expected) -> None:
    """A large result waits, its task running; calls go on."""
    with Outcome(system) as outcome, Pool(system, 1, CALLSTREAM_DATA_DIR=str(disk.folder)) as pool:
        for number, (spoil, repair) in enumerate(
            ((disk.fill, disk.free), (lambda: disk.remount("ro"), lambda: disk.remount("rw")))
        ):
            spoil()
            task_id = str(uuid.uuid4())
            system.produce("requests", task_id.encode(), _large_request(expected, 410 - number))
            calls = make_calls(5, number, "beside")
            with Feed(system.settings, interleaved(calls, random.Random(number))):
                pass
            give_up_s = time.monotonic() + PATIENCE_S
            running = {task_id}
            beside = [one for call in calls for one in task_ids(call).values()]
            while not (running <= outcome.tasks.keys() and all(_is_final(outcome, one) for one in beside)):
                outcome.poll()
                assert time.monotonic() < give_up_s, system.logs()
            outcome.judge(calls, expected).check()
            assert not outcome.tasks[task_id].finals
            assert "waits for the blob store" in pool.workers[0].log.read_text()
            repair()
            while not outcome.tasks[task_id].finals:
                outcome.poll()
                assert time.monotonic() < give_up_s, system.logs()
            assert b"result_ref" in outcome.tasks[task_id].finals[0]
        outcome.wait([], PATIENCE_S)
        assert outcome.dead_letters() == []
        assert pool.exits == []


@pytest.mark.only_long
def test_the_broker_meets_a_full_and_a_read_only_disk(tmp_path: Path, expected: Expected, report: Reporter) -> None:
    """Kafka ends when it cannot write; what it had acknowledged is there when it has room again."""
    disk = SmallDisk(tmp_path / "disk", 24)
    port = free_port()

    def new_broker() -> EmbeddedBroker:
        return EmbeddedBroker(cache_dir(), port=port, data_dir=disk.folder / "kafka")

    broker = new_broker()
    broker.start()
    try:
        with (
            open_system(settings_for(broker.bootstrap), tmp_path / "system") as system,
            Outcome(system) as outcome,
            Pool(system, 1) as pool,
        ):
            calls = make_calls(300, 1, "full", long_share=0.1)  # 50 MB with what comes of them
            with Feed(system.settings, interleaved(calls, random.Random(1)), seconds=60):
                assert broker.wait(120) is not None, "the broker did not end"
                broker.stop()
                disk.remount("size=400m")
                disk.remount("ro")
                with pytest.raises(BrokerError, match="Read-only file system"):
                    new_broker().start()
                disk.remount("rw")
                broker = new_broker()
                broker.start()
            outcome.wait(calls, 300)
            letters = outcome.dead_letters()
            verdict = outcome.judge(calls, expected)
            report(1, "broker's disk full, then read-only", calls, verdict, outcome, pool, len(letters))
            verdict.check()
            assert letters == []
    finally:
        broker.stop()
        disk.close()
