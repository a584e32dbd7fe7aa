"""A blob store that gives no answer holds up those who ask for its blobs, and nobody else."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import httpx
import pytest

from pipeline.query.app import Service
from pipeline.settings import Settings
from tests.query.arrivals import IDS, PATIENCE_S, arrival, eventually, ingest, path_of, record, running

READERS = 40  # more than asyncio has threads
PROGRAM = """
import sys, threading
from pipeline.blobs import LocalBlobs
from pipeline.query import server
from pipeline.settings import load
def hang(_):
    sys.stderr.write("hangs\\n")  # at once: `print` ends its line in a second step, and another thread writes too
    threading.Event().wait()
LocalBlobs.entries = hang
server.LAST_WORDS_S = 1.0
sys.exit(server.run(load()))
"""


async def test_the_view_goes_on(service: Service, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, gate = threading.Semaphore(0), threading.Event()

    def hang(_: str) -> int:
        asked.release()
        gate.wait(PATIENCE_S)
        raise OSError("no answer")

    monkeypatch.setattr(service.keeper.store, "size_bytes", hang)
    ingest(service, arrival(IDS[0], record(IDS[0], 2, "done", result_ref="results/x")))
    reading = [asyncio.create_task(client.get(path_of(IDS[0]))) for _ in range(READERS)]
    try:
        await eventually(lambda: asked.acquire(blocking=False))
        async with asyncio.timeout(PATIENCE_S / 2):
            await asyncio.sleep(0.1)  # until all threads that there are hang
            assert (await client.get("/ready")).status_code == 503  # Kafka is not there
            await service.view.aside(service.view.apply, [running(IDS[1], 1).change], {})
            assert (await client.get(path_of(IDS[1]))).json()["task"]["state"] == "running"
            assert "callstream_view_tasks 2.0" in (await client.get("/metrics")).text
        assert not any(one.done() for one in reading)
    finally:
        gate.set()
    assert {answer.status_code for answer in await asyncio.gather(*reading)} == {500}


def test_the_program_ends_all_the_same(settings: Settings) -> None:
    variables = {"BROKER": settings.broker, "DATA_DIR": settings.data_dir, "PORT": "0", "GRACE_PERIOD_S": "1"}
    environment = os.environ | {f"CALLSTREAM_{name}": value for name, value in variables.items()}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stderr=subprocess.PIPE, text=True) as program:
        late = threading.Timer(2 * PATIENCE_S, program.kill)  # nobody waits for a line for ever
        late.start()
        try:
            assert program.stderr is not None
            lines = iter(program.stderr.readline, "")
            begun = [next(line for line in lines if line.startswith(("hangs", "listening"))) for _ in range(2)]
            assert len({line.split()[0] for line in begun}) == 2
            program.send_signal(signal.SIGTERM)
            assert program.wait(PATIENCE_S) == 1
            assert [line for line in lines if "did not end within 2 s" in line]
        finally:
            late.cancel()
            program.kill()
