"""Uploads whose blobs have no room, or whose store or broker is away: refused or waited for, and no blob stays behind."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from pipeline.broker import EmbeddedBroker
from tests.faults.conftest import Calm, settings_for
from tests.faults.outcome import Outcome
from tests.faults.pool import Pool
from tests.faults.test_disk import SmallDisk
from tests.faults.uploads import (
    FROM_FILES,
    LARGE_RESULT,
    LONG_LISTS,
    MEGABYTES,
    SHORT_LISTS,
    SMALL,
    Folder,
    Upload,
    judge,
    letters,
    requested,
    serve,
    start,
    wait_final,
)
from tests.system import PATIENCE_S, System, open_system, wait_ready

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def idle(broker_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Topics that no worker reads."""
    with open_system(settings_for(broker_bootstrap, partitions=1), tmp_path_factory.mktemp("idle")) as system:
        yield system


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    opened = SmallDisk(tmp_path / "disk", 8)
    yield opened
    opened.close()


def _refused(client: httpx.Client, *uploads: Upload) -> None:
    for upload in uploads:
        answer = upload.send(client)
        assert answer.status_code == 507, answer.text


def test_more_than_the_quota_is_507(idle: System, tmp_path: Path) -> None:
    folder = Folder(tmp_path / "data")
    _, client = serve(idle, CALLSTREAM_DATA_DIR=str(tmp_path / "data"), CALLSTREAM_BLOB_QUOTA_BYTES="500000")
    with client:
        kept = start(client, [SMALL])
        _refused(client, MEGABYTES, LONG_LISTS)
        kept |= start(client, [SMALL])
        folder.wait_swept(requests=kept)


@pytest.mark.parametrize("full", ["data", "store"])
def test_a_full_disk_is_507_until_there_is_room(idle: System, tmp_path: Path, disk: SmallDisk, full: str) -> None:
    store = disk.folder / "blobs"
    data = disk.folder if full == "data" else tmp_path / "data"
    _, client = serve(idle, CALLSTREAM_DATA_DIR=str(data), CALLSTREAM_BLOB_STORE=str(store))
    with client:
        kept = start(client, [SMALL])
        disk.fill()
        _refused(client, MEGABYTES, SMALL, LONG_LISTS)
        folder = Folder(data, store)
        assert (folder.requests(), folder.scratch()) == (set(kept), set())
        disk.free()
        kept |= start(client, [MEGABYTES, SMALL])
        for task_id, upload in kept.items():
            assert client.get(f"{upload.path}/{task_id}").status_code == 200
        folder.wait_swept(requests=kept)


def test_a_task_that_the_view_could_not_take_keeps_its_blob(idle: System, tmp_path: Path, disk: SmallDisk) -> None:
    """It was answered 202, so a worker may come for it at any time."""
    environment = {"CALLSTREAM_DATA_DIR": str(disk.folder), "CALLSTREAM_BLOB_STORE": str(tmp_path / "store")}
    _, client = serve(idle, **environment)
    with client:
        wait_ready(str(client.base_url), wanted=True)
        disk.fill()
        [task_id] = start(client, [SMALL])
        assert client.get(f"{SMALL.path}/{task_id}").status_code == 404
        disk.free()
        time.sleep(2.5)  # it sweeps
        assert Folder(disk.folder, tmp_path / "store").requests() == {task_id}


class Mount:
    """A folder that is to be had at another place, or not."""

    def __init__(self, folder: Path, place: Path) -> None:
        self._folder, self._place = folder, place
        folder.mkdir()
        place.mkdir()

    def mount(self) -> None:
        command = ["mount", "--bind", str(self._folder), str(self._place)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no right to mount a folder here")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,bind,{options}", str(self._place)], check=True, capture_output=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._place)], check=False, capture_output=True)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    made = Mount(tmp_path / "stored", tmp_path / "store")
    made.mount()
    yield made
    made.unmount()


def _wait_done(outcome: Outcome, task_ids: dict[str, Upload]) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not all(task_id in outcome.tasks and outcome.tasks[task_id].finals for task_id in task_ids):
        outcome.poll()
        assert time.monotonic() < give_up_s, outcome.system.logs()


def test_workers_wait_for_a_blob_store_that_is_away(broker_bootstrap: str, tmp_path: Path, mount: Mount, calm: Calm) -> None:
    """Not mounted: nothing is known of its blobs. Read-only: what came of a request cannot be kept."""
    settings = settings_for(broker_bootstrap, partitions=2)
    store = {"CALLSTREAM_BLOB_STORE": str(tmp_path / "store")}
    with open_system(settings, tmp_path / "system") as system, Outcome(system) as outcome:
        _, client = serve(system, **store)
        files, large = start(client, [SMALL, FROM_FILES[-1]]), start(client, [LARGE_RESULT])
        mount.unmount()
        with contextlib.closing(client), Pool(system, 1, **store) as pool:
            beside = start(client, [SHORT_LISTS])
            _wait_done(outcome, beside)  # needs no blob
            assert SMALL.send(client).status_code == 500
            assert list((tmp_path / "store").iterdir()) == []
            time.sleep(2)
            outcome.poll()
            assert outcome.tasks.keys() == beside.keys()
            mount.mount()
            mount.remount("ro")
            _wait_done(outcome, files)
            time.sleep(2)
            outcome.poll()
            assert not any(outcome.tasks[task_id].finals for task_id in large if task_id in outcome.tasks)
            mount.remount("rw")
            wait_final(outcome, files | large | beside)
            judge(outcome, files | large | beside, calm.expected).check()
            assert (letters(system), pool.exits) == ({}, [])


def test_without_kafka_a_file_is_500_and_its_blob_goes(embedded_broker: EmbeddedBroker, tmp_path: Path) -> None:
    with open_system(settings_for(embedded_broker.bootstrap, partitions=1), tmp_path) as system:
        folder = Folder.of(system)
        _, client = serve(system)
        with client:
            kept = start(client, [SMALL])
            embedded_broker.kill()
            answer = MEGABYTES.send(client)
            assert (answer.status_code, answer.json()["type"]) == (500, "internal"), answer.text
            embedded_broker.restart()
            wait_ready(str(client.base_url), wanted=True)
            folder.wait_swept(requests=kept)
            kept |= start(client, [SMALL])
            folder.wait_swept(requests=kept)
            assert requested(system) == kept.keys()
