"""Kafka is away for longer than the idle timeout: producers wait for it too, and for a while longer."""

import time
from pathlib import Path

import pytest
from confluent_kafka import Producer

from pipeline.broker import EmbeddedBroker
from pipeline.settings import Settings
from tests.broker.test_chain import VAD
from tests.harness import media_headers, sample_audio
from tests.system import PATIENCE_S, System, open_system

pytestmark = pytest.mark.broker

IDLE_S = 8.0
AWAY_S = 10.0
BACK_OFF_S = 2.0
CALL = b"call"


def wait_said(system: System) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while not system.transitions("call"):
        assert time.monotonic() < give_up_s, system.logs()
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
        system.produce("media", CALL, sample_audio(0, 6), media_headers(0))
        wait_said(system)
        embedded_broker.kill()
        spoken_s = time.time()
        time.sleep(AWAY_S)
        embedded_broker.restart()
        system.read("results")  # it answers
        time.sleep(BACK_OFF_S)
        assert system.transitions("call")[VAD][-1]["task"]["state"] == "running"
        send_late(system, sample_audio(6, 12), spoken_s)
        result = system.wait_final("call", {VAD})[VAD]["result"]
        assert max(segment["end_time"] for channel in result["channels"] for segment in channel["segments"]) > 6.0
        assert system.dead_letters(CALL) == []
        assert worker.terminate() == 0
