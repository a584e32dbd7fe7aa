"""Kafka is away for longer than the idle timeout: producers wait for it too, and for a while longer."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)

from pipeline.broker import EmbeddedBroker
from pipeline.sample import sample_path
from pipeline.settings import Settings
from tests.broker.test_chain import VAD
from tests.harness import media_headers, sample_audio
from tests.system import PATIENCE_S, Process, System, open_system

pytestmark = pytest.mark.broker

IDLE_S = 8.0
BACK_OFF_S = 2.0
CALL = b"call"
PATIENT = '{"technologies": ["voice-activity-detection"], "is_file": true}'  # how soon a client comes back is not asked here
ONE_TASK = '{"technologies": ["voice-activity-detection"]}'


def wait_said(system: System, call_id: str) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not system.transitions(call_id):
        assert time.monotonic() < give_up_s, system.logs()
        time.sleep(0.1)


def wait_logged(process: Process, *texts: str) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not all(text in process.log.read_text() for text in texts):
        assert time.monotonic() < give_up_s, process.log.read_text()
        time.sleep(0.1)


def send_late(system: System, audio: bytes, spoken_s: float) -> None:
    """The end of the call, stamped when it was given to a producer that then waited for Kafka."""
    producer = Producer({"bootstrap.servers": system.settings.broker})
    headers: list[tuple[str, str | bytes | None]] = [(str(name), text) for name, text in media_headers(1, end=True).items()]
    producer.produce(system.settings.topic("media"), audio, CALL, headers=headers, timestamp=int(spoken_s * 1000))
    assert producer.flush(30) == 0


def test_a_call_outlives_an_outage_that_is_longer_than_its_idle_timeout(
    embedded_broker: EmbeddedBroker, topic_prefix: str, tmp_path: Path
) -> None:
    settings = Settings(
        broker=embedded_broker.bootstrap,
        topic_prefix=topic_prefix,
        partitions=1,
        idle_timeout_s=IDLE_S,
        session_timeout_s=6.0,
    )
    with open_system(settings, tmp_path) as system:
        worker = system.start("worker", "--agents", "vad")
        watch = system.start("watch", "--json")
        send = system.start("send", "--realtime", "--call-id", "slow", "--options", PATIENT, str(sample_path()))
        soundfile.write(tmp_path / "long.wav", np.zeros(3600 * 8000, np.int16), 8000)
        wait_said(system, "slow")
        bulk = system.start("send", "--chunk-ms", "10", "--call-id", "long", "--options", PATIENT, str(tmp_path / "long.wav"))
        bulk.wait_handler()
        system.produce("media", CALL, sample_audio(0, 6), media_headers(0))
        wait_said(system, "call")
        wait_said(system, "long")
        embedded_broker.kill()
        spoken_s = time.time()
        wait_logged(bulk, "no answer for 10 s, waiting")
        assert bulk.terminate() == 1  # it does not wait for Kafka then
        assert "Traceback" not in bulk.log.read_text()
        assert time.time() - spoken_s > IDLE_S
        embedded_broker.restart()
        system.read("results")  # it answers
        time.sleep(BACK_OFF_S)
        assert system.transitions("call")[VAD][-1]["task"]["state"] == "running"
        send_late(system, sample_audio(6, 12), spoken_s)
        result = system.wait_final("call", {VAD})[VAD]["result"]
        assert max(segment["end_time"] for channel in result["channels"] for segment in channel["segments"]) > 6.0
        assert system.dead_letters(CALL) == []
        for process, away, back in (
            (watch, "does not answer, waiting", "answers again"),
            (send, "no answer for 10 s, waiting", "answers again"),
            (worker, "no heartbeat was answered for 6 s", "heartbeats are answered again"),
        ):
            wait_logged(process, away, back)
        assert send.terminate() == 1
        failed = system.wait_final("slow", {VAD})[VAD]
        assert (failed["task"]["state"], "the sender was stopped" in str(failed["error"])) == ("failed", True)
        assert "Traceback" not in send.log.read_text()
        assert worker.terminate() == 0


def test_a_file_that_breaks_off_is_not_known_by_half(broker_bootstrap: str, topic_prefix: str, tmp_path: Path) -> None:
    whole = sample_path().read_bytes()
    middle = len(whole) // 2
    (tmp_path / "broken.flac").write_bytes(whole[:middle] + bytes(20_000) + whole[middle + 20_000 :])
    shutil.copy(sample_path(), tmp_path / os.fsdecode(b"Gespr\xe4ch.flac"))
    settings = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, partitions=1)
    with open_system(settings, tmp_path) as system:
        system.start("worker", "--agents", "vad")
        done = system.run("send", "--call-id", "broken", "--options", ONE_TASK, str(tmp_path / "broken.flac"))
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
        assert "call broken, of which a part was sent, fails" in done.stderr
        assert system.wait_final("broken", {VAD})[VAD]["task"]["state"] == "failed"
        named = system.run("send", "--json", "--options", ONE_TASK, str(tmp_path / os.fsdecode(b"Gespr\xe4ch.flac")))
        assert named.returncode == 0, named.stderr
        call = json.loads(named.stdout)
        assert call["call_id"].startswith("Gespr\ufffdch-")
        assert system.wait_final(call["call_id"], {VAD})[VAD]["task"]["state"] == "done"


@pytest.mark.parametrize("chunk_ms", ["500", "2000"], ids=["before the end is sent", "with all of it sent"])
def test_a_call_that_kafka_refuses_fails(broker_bootstrap: str, topic_prefix: str, tmp_path: Path, chunk_ms: str) -> None:
    settings = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, partitions=1)
    with open_system(settings, tmp_path) as system:
        small = ConfigEntry("max.message.bytes", "4000", incremental_operation=AlterConfigOpType.SET)
        media = ConfigResource(ConfigResource.Type.TOPIC, settings.topic("media"), incremental_configs=[small])
        admin = AdminClient({"bootstrap.servers": settings.broker})
        [changed] = admin.incremental_alter_configs([media]).values()
        changed.result()
        system.start("worker", "--agents", "vad")
        done = system.run("send", "--call-id", "big", "--chunk-ms", chunk_ms, "--options", ONE_TASK, str(sample_path()))
        assert done.returncode == 1
        assert [line for line in done.stderr.splitlines() if line.endswith("call big, of which a part was sent, fails")]
        assert "Traceback" not in done.stderr
        assert system.wait_final("big", {VAD})[VAD]["task"]["state"] == "failed"


def test_a_model_that_cannot_be_opened_is_told_in_one_line(broker_bootstrap: str, topic_prefix: str, tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():  # type: ignore[attr-defined]
        pytest.skip("models can be opened on this machine's GPU")
    settings = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, partitions=1)
    with open_system(settings, tmp_path) as system:
        worker = system.start("worker", "--agents", "extraction", CALLSTREAM_INFERENCE_PROVIDER="cuda")
        assert worker.wait(PATIENCE_S) == 1
        assert "callstream: onnxruntime has no CUDAExecutionProvider here" in worker.log.read_text()
        assert "Traceback" not in worker.log.read_text()
