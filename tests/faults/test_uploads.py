"""What was accepted over HTTP is neither lost nor contradicted, whoever dies and whatever is away; and no blob stays behind."""

import contextlib
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from pipeline.broker import EmbeddedBroker
from pipeline.broker.ports import free_port
from schemas.tasks import Technology
from tests.faults.conftest import Reporter, pick, settings_for
from tests.faults.outcome import Outcome
from tests.faults.pool import DOOMED, Pool
from tests.faults.test_disk import SmallDisk, wait_status
from tests.faults.uploads import (
    FROM_FILES,
    FROM_LISTS,
    GRACE,
    LARGE_RESULT,
    LONG_LISTS,
    REJECTED,
    SHORT_LISTS,
    Expected,
    Folder,
    Upload,
    accepted,
    content,
    judge,
    letters,
    requested,
    result_refs,
    serve,
    start,
    values,
    wait_final,
)
from tests.system import PATIENCE_S, Process, System, open_system, wait_url

pytestmark = pytest.mark.broker

PAUSE_S = 4.5
IDLE_TIMEOUT_S = 2.0
PATIENT = {"CALLSTREAM_BLOB_GRACE_S": "600"}  # longer than a takeover
MEGABYTES = Upload(Technology.VOICE_ACTIVITY_DETECTION, "megabytes.wav")
SMALL = Upload(Technology.VOICE_ACTIVITY_DETECTION, "one.flac")


@dataclass
class Calm:
    """A run that nothing disturbed: its tasks are final, its workers have ended, its query service is up."""

    system: System
    outcome: Outcome
    tasks: dict[str, Upload]
    expected: Expected


@pytest.fixture(scope="module")
def calm(broker_bootstrap: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Calm]:
    settings = settings_for(broker_bootstrap, partitions=2)
    with open_system(settings, tmp_path_factory.mktemp("calm")) as system, Outcome(system) as outcome:
        with Pool(system, 1) as pool:
            _, client = serve(system)
            with client:
                tasks = start(client, (*FROM_FILES, *FROM_LISTS, MEGABYTES))
            wait_final(outcome, tasks)
            assert set(pool.stop_all()) == {0}
        assert letters(system) == {}
        expected = {upload: values(outcome.tasks[task_id], task_id) for task_id, upload in tasks.items()}
        for upload, (*_, final) in expected.items():
            assert (b'"state":"rejected"' if upload.file in REJECTED else b'"state":"done"') in final
        yield Calm(system, outcome, tasks, expected)


DOOMS = (
    "acknowledged:{n}",  # behind an acknowledged request (or what came of one), before the commit
    "sent:media:{n}",  # in the middle of a file's chunks
    "sent:results:{n}",
    "sent:snapshots:{few}",
    "sent:speech:{n}",
    "recovery:end:{few}",
)


def _some(chance: random.Random, count: int) -> list[Upload]:
    return [chance.choice(FROM_FILES if chance.random() < 0.85 else FROM_LISTS) for _ in range(count)]


@pytest.mark.parametrize("seed", pick([1], list(range(1, 11))))
def test_workers_die_while_uploads_are_heard(
    broker_bootstrap: str, tmp_path: Path, calm: Calm, report: Reporter, seed: int
) -> None:
    """Also for longer than the idle timeout: the rest of a file will come. Tasks that nobody was told of end like others."""
    chance = random.Random(seed)
    dooms = [one.format(n=chance.randint(2, 15), few=chance.randint(1, 2)) for one in pick(DOOMS[:1], DOOMS)]
    settings = settings_for(broker_bootstrap, partitions=2, idle_timeout_s=IDLE_TIMEOUT_S)
    with open_system(settings, tmp_path) as system, Outcome(system) as outcome:
        tasks = _left_alone(system, [*FROM_FILES, *FROM_LISTS, *_some(chance, pick(4, 16))])
        tasks |= _unanswered(system)
        query, client = serve(system, **PATIENT)
        first = system.start("worker", command=DOOMED, CALLSTREAM_DOOM=f"sent:media:{chance.randint(25, 60)}")
        assert first.wait(PATIENCE_S) == -signal.SIGKILL
        time.sleep(PAUSE_S)
        with contextlib.closing(client), Pool(system, 2, dooms) as pool:
            for _ in range(60):
                if not pool.doomed():
                    break
                tasks |= start(client, _some(chance, 6))
                time.sleep(2)
            tasks |= start(client, _some(chance, max(0, 40 - len(tasks))))
            wait_final(outcome, tasks)
        verdict = judge(outcome, tasks, calm.expected)
        report(seed, f"{1 + len(dooms)} boundaries, uploads", list(tasks), verdict, outcome, pool, len(letters(system)))
        verdict.check()
        assert tasks.keys() == outcome.tasks.keys()
        assert letters(system) == {}
        assert pool.exits == [-signal.SIGKILL] * len(dooms)
        query.kill()
        serve(system)
        Folder.of(system).wait_swept(result_refs(outcome))


def _left_alone(system: System, uploads: list[Upload]) -> dict[str, Upload]:
    """Started by a service that sweeps at once, while no worker is there: it leaves what is waited for. Then it is killed."""
    query, client = serve(system)
    with client:
        tasks = start(client, uploads)
    time.sleep(2.5)
    query.kill()
    assert Folder.of(system).requests() == {task_id for task_id, upload in tasks.items() if upload.has_blob}
    return tasks


def _unanswered(system: System) -> dict[str, Upload]:
    """Started by services that died before they said so."""
    before = requested(system)
    for place in ("started:1", "remembered:1"):
        _dies_in_post(system, place, SMALL, **PATIENT)
    return dict.fromkeys(requested(system) - before, SMALL)


def _dies_in_post(system: System, doom: str, upload: Upload, **environment: str) -> None:
    """A service that is killed in the middle of a POST: nobody is answered."""
    command = [DOOMED[0], "-m", "tests.faults.doomed_query"]
    query = system.start("query", "--port", "0", command=command, **(GRACE | environment), CALLSTREAM_DOOM=doom)
    with httpx.Client(base_url=wait_url(query), timeout=60) as client, pytest.raises(httpx.TransportError):
        upload.send(client)
    assert query.wait(PATIENCE_S) == -signal.SIGKILL


class _HangUpError(Exception):
    pass


def _slowly(upload: Upload, chance: random.Random, hangs_up: bool) -> Iterator[bytes]:
    """A form that comes in pieces, over about a second; maybe not to its end."""
    yield b'--x\r\ncontent-disposition: form-data; name="file"; filename="x"\r\n\r\n'
    assert upload.file is not None
    file = content(upload.file)
    stop = chance.randrange(len(file)) if hangs_up else len(file)
    for begin in range(0, stop, 300_000):
        time.sleep(chance.uniform(0.02, 0.2))
        yield file[begin : begin + 300_000]
    if hangs_up:
        raise _HangUpError
    yield b"\r\n--x--\r\n"


class Storm:
    """Posts from several threads while the service dies again and again at one port."""

    def __init__(self, system: System, seed: int) -> None:
        self._system, self._seed, self._port = system, seed, free_port()
        self.accepted: dict[str, Upload] = {}
        self._lock = threading.Lock()
        self.query = self._start()

    def _start(self, **environment: str) -> Process:
        return self._system.start("query", "--port", str(self._port), **(GRACE | environment))

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=60)

    def restart(self, number: signal.Signals = signal.SIGKILL, **environment: str) -> None:
        """Kill it; a new one knows at once what was accepted by the one before."""
        self.query.signal(number)
        self.query.wait(PATIENCE_S)
        known = self.snapshot()
        self.query = self._start(**environment)
        wait_url(self.query)
        with self.client() as client:
            for task_id, upload in known.items():
                assert client.get(f"{upload.path}/{task_id}").status_code == (404 if environment else 200)

    def snapshot(self) -> dict[str, Upload]:
        with self._lock:
            return dict(self.accepted)

    def post(self, number: int) -> None:
        """One upload; who is cut off by a kill does not try again."""
        chance = random.Random(self._seed * 1000 + number)
        kind = number % 6
        upload = (SMALL, LONG_LISTS, MEGABYTES, SHORT_LISTS, MEGABYTES, chance.choice(FROM_FILES))[kind]
        if number == 1:
            upload = LARGE_RESULT
        with self.client() as client:
            answer = self._answer(client, upload, chance, hangs_up=kind == 4 and chance.random() < 0.6)
            if answer is None:
                return
            task_id = accepted(answer)
            with self._lock:
                self.accepted[task_id] = upload
            try:
                assert client.get(f"{upload.path}/{task_id}").status_code == 200
            except httpx.TransportError:
                return  # killed meanwhile; the next one is asked

    def _answer(self, client: httpx.Client, upload: Upload, chance: random.Random, *, hangs_up: bool) -> httpx.Response | None:
        give_up_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_s:
            try:
                if upload is not MEGABYTES:
                    return upload.send(client)
                form = {"content-type": "multipart/form-data; boundary=x"}
                return client.post(upload.path, content=_slowly(upload, chance, hangs_up), headers=form)
            except httpx.ConnectError:
                time.sleep(0.1)  # it is starting
            except (httpx.TransportError, _HangUpError):
                return None
        raise AssertionError("the service did not come back")


@pytest.mark.parametrize("seed", pick([1], [1, 2, 3, 4, 5]))
def test_the_query_service_is_killed_while_tasks_are_started(
    broker_bootstrap: str, tmp_path: Path, calm: Calm, report: Reporter, seed: int
) -> None:
    chance = random.Random(seed)
    settings = settings_for(broker_bootstrap, partitions=2)
    with open_system(settings, tmp_path) as system, Outcome(system) as outcome, Pool(system, 1) as pool:
        folder = Folder.of(system)
        _dies_in_post(system, "kept:1", SMALL)
        assert (len(folder.requests()), requested(system)) == (1, set())
        storm = Storm(system, seed)
        wait_url(storm.query)
        folder.wait_swept()  # nobody needs what was kept and never sent
        kills = pick(3, 20)
        with ThreadPoolExecutor(4) as threads:
            posts = [threads.submit(storm.post, number) for number in range(pick(30, 150))]
            for _ in range(kills):
                time.sleep(chance.uniform(0.2, 1.2))
                storm.restart()
            for post in posts:
                post.result()
        started = requested(system)
        assert storm.accepted
        assert storm.accepted.keys() <= started
        unanswered = {task_id for task_id, error in letters(system).items() if error == "blob.missing"} - storm.accepted.keys()
        wait_final(outcome, started - unanswered)
        buried = letters(system)  # a request that nobody was told of may lose its blob
        assert buried.keys() & storm.accepted.keys() == set()
        assert set(buried.values()) <= {"blob.missing"}
        verdict = judge(outcome, storm.accepted, calm.expected)
        report(seed, f"{kills} SIGKILL of the query service", list(started), verdict, outcome, pool, len(buried))
        verdict.check()
        folder.wait_swept(result_refs(outcome))
        time.sleep(3)
        storm.restart(signal.SIGTERM, CALLSTREAM_TASK_TTL_S="2")
        folder.wait_swept()


def test_requests_that_come_again_contradict_nothing(calm: Calm) -> None:
    """Their blobs were swept: they end in dead letters, and what was said stays."""
    system, outcome = calm.system, calm.outcome
    Folder.of(system).wait_swept(result_refs(outcome))
    before = sum(task.records for task in outcome.tasks.values())
    outcome.reset_groups()
    with Pool(system, 1) as pool:
        wait_final(outcome, calm.tasks)
        assert pool.exits == []
    judge(outcome, calm.tasks, calm.expected).check()
    assert outcome.tasks.keys() == calm.tasks.keys()
    assert sum(task.records for task in outcome.tasks.values()) > before
    with_blob = [task_id for task_id, upload in calm.tasks.items() if upload.has_blob]
    assert letters(system) == dict.fromkeys(with_blob, "blob.missing")
    Folder.of(system).wait_swept(result_refs(outcome))


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
        wait_status(f"{client.base_url}/ready", 200)
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
            wait_status(f"{client.base_url}/ready", 200)
            folder.wait_swept(requests=kept)
            kept |= start(client, [SMALL])
            folder.wait_swept(requests=kept)
            assert requested(system) == kept.keys()
