"""What was accepted over HTTP is neither lost nor contradicted, whoever dies; and no blob stays behind."""

import contextlib
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from pipeline.broker.ports import free_port
from tests.faults.conftest import Calm, Reporter, pick, settings_for
from tests.faults.outcome import Outcome
from tests.faults.pool import DOOMED, Pool
from tests.faults.uploads import (
    FROM_FILES,
    FROM_LISTS,
    GRACE,
    LARGE_RESULT,
    LONG_LISTS,
    MEGABYTES,
    SHORT_LISTS,
    SMALL,
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
    wait_final,
)
from tests.system import PATIENCE_S, Process, System, open_system, wait_ready, wait_url

pytestmark = pytest.mark.broker

PAUSE_S = 4.5
IDLE_TIMEOUT_S = 2.0
PATIENT = {"CALLSTREAM_BLOB_GRACE_S": "600"}  # longer than a takeover


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
    url = wait_url(query)
    wait_ready(url, wanted=True)  # what comes before that is not swept: the view may not know of it
    with httpx.Client(base_url=url, timeout=60) as client, pytest.raises(httpx.TransportError):
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
