"""What producers of all kinds may do: any compression that Kafka knows, and transactions that come to nothing."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from pipeline.connection import librdkafka_options
from pipeline.settings import Settings
from tests.broker.test_chain import VAD
from tests.harness import media_headers, sample_audio
from tests.system import PATIENCE_S, System, open_system

pytestmark = pytest.mark.broker

IDLE_S = 5.0
ONE_TASK = '{"technologies": ["voice-activity-detection"]}'


@pytest.fixture
def system(broker_bootstrap: str, topic_prefix: str, tmp_path: Path) -> Iterator[System]:
    """A worker that hears speech, and one partition."""
    settings = Settings(broker=broker_bootstrap, topic_prefix=topic_prefix, partitions=1, idle_timeout_s=IDLE_S)
    with open_system(settings, tmp_path) as opened:
        opened.start("worker", "--agents", "vad")
        yield opened


def producer(system: System, **options: str) -> Producer:
    named: dict[str, Any] = {name.replace("_", "."): value for name, value in options.items()}
    return Producer(librdkafka_options(system.settings) | named)


def send(
    system: System, into: Producer, call_id: str, spans_s: list[tuple[float, float]], *, first: int = 0, ends: bool = True
) -> None:
    """These parts of the bundled call, a chunk each."""
    for sequence, (begin_s, end_s) in enumerate(spans_s, first):
        named = media_headers(sequence, end=ends and sequence == first + len(spans_s) - 1)
        headers: list[tuple[str, str | bytes | None]] = [(str(name), text) for name, text in named.items()]
        if sequence == 0:
            headers.append(("options", ONE_TASK))
        into.produce(system.settings.topic("media"), sample_audio(begin_s, end_s), call_id.encode(), headers=headers)
    assert into.flush(30) == 0


def test_whatever_producers_compress_with_is_read(system: System) -> None:
    codecs = ("none", "gzip", "snappy", "lz4", "zstd")
    for codec in codecs:
        send(system, producer(system, compression_type=codec), codec, [(0, 4), (4, 8)])
    plain, *packed = (system.wait_final(codec, {VAD})[VAD]["result"] for codec in codecs)
    assert plain["channels"][0]["segments"]
    assert packed == [plain] * 4


def test_what_a_transaction_took_back_was_never_sent(system: System) -> None:
    transactional = producer(system, transactional_id=f"{system.settings.topic_prefix}gateway")
    transactional.init_transactions()
    transactional.begin_transaction()
    send(system, transactional, "retried", [(8, 10)], ends=False)
    send(system, transactional, "never", [(0, 4)])
    transactional.abort_transaction()
    transactional.begin_transaction()
    send(system, transactional, "retried", [(0, 4), (4, 8)])
    transactional.commit_transaction()
    send(system, producer(system), "plain", [(0, 4), (4, 8)])
    plain = system.wait_final("plain", {VAD})[VAD]["result"]
    assert system.wait_final("retried", {VAD})[VAD]["result"] == plain
    assert system.transitions("never") == {}


def test_a_call_that_falls_silent_before_a_transaction_that_came_to_nothing_ends(system: System) -> None:
    send(system, producer(system), "silent", [(0, 4)], ends=False)
    transactional = producer(system, transactional_id=f"{system.settings.topic_prefix}gateway")
    transactional.init_transactions()
    transactional.begin_transaction()
    send(system, transactional, "never", [(0, 4), (4, 8)])
    transactional.abort_transaction()
    assert system.wait_final("silent", {VAD})[VAD]["task"]["state"] == "done"
    assert system.transitions("never") == {}


def test_a_call_does_not_end_while_a_transaction_hides_what_it_says(system: System) -> None:
    """Of another producer, which may be dead: Kafka shows nothing that is behind it."""
    call = producer(system)
    send(system, call, "hidden", [(0, 4)], ends=False)
    give_up_s = time.monotonic() + PATIENCE_S
    while not system.transitions("hidden"):
        assert time.monotonic() < give_up_s, system.logs()
        time.sleep(0.1)
    transactional = producer(system, transactional_id=f"{system.settings.topic_prefix}gateway")
    transactional.init_transactions()
    transactional.begin_transaction()
    send(system, transactional, "never", [(0, 4)])
    send(system, call, "hidden", [(4, 8)], first=1)
    time.sleep(2 * IDLE_S)
    assert "a producer's transaction that begins at offset 1 has been open" in system.logs()
    assert system.transitions("hidden")[VAD][-1]["task"]["state"] == "running"
    transactional.abort_transaction()
    result = system.wait_final("hidden", {VAD})[VAD]["result"]
    assert "missing" not in result["channels"][0]
    assert max(segment["end_time"] for segment in result["channels"][0]["segments"]) > 7.0
    assert system.dead_letters(b"hidden") == []
