"""What it takes to start tasks over HTTP: time from POST to the final GET, and the service's memory with large lists.

The limits in the same run: for a small comparison, a record's way through Kafka and back (an acknowledged send, a fetch); for
1,000 x 1,000, the scores alone (decode, numpy's product, JSON) in this process.

Run: python -m benchmarks.starting
"""

import base64
import json
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import msgspec
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.machine import describe
from pipeline.broker.launch import open_broker
from pipeline.scoring.comparison import compare
from pipeline.scoring.voiceprint import SPEAKER_DIMENSION, VOICE_DIMENSION, encode, from_embeddings
from pipeline.settings import Settings, default_cache_dir
from pipeline.start_tasks import decode_list
from schemas.tasks import Technology
from tests.system import Process, System, open_system, wait_url

API = "/api/technology"
COMPARISON = f"{API}/{Technology.VOICEPRINT_COMPARISON.value}"
GENDER = f"{API}/{Technology.GENDER_IDENTIFICATION.value}"
SMALL_ROUNDS = 200
LARGE_ROUNDS = 5


def voiceprints(count: int, seed: int) -> list[str]:
    """Voiceprints of nobody, as Base64."""
    chance = np.random.default_rng(seed)
    speakers = chance.standard_normal((count, SPEAKER_DIMENSION)).astype(np.float32)
    voices = chance.standard_normal((count, VOICE_DIMENSION)).astype(np.float32)
    return [encode(from_embeddings(*pair, 5.0)) for pair in zip(speakers, voices, strict=True)]


def post_to_done_s(client: httpx.Client, path: str, body: bytes) -> float:
    """One task, from POST to the GET that holds its result."""
    began_s = time.perf_counter()
    location = client.post(path, content=body).raise_for_status().headers["location"]
    while b'"state":"done"' not in client.get(location, params={"wait": 30}).raise_for_status().content[:120]:
        pass
    return time.perf_counter() - began_s


def kafka_round_trip_s(system: System) -> float:
    """One record, from an acknowledged send to its fetch."""
    name = system.settings.topic("requests")
    servers = {"bootstrap.servers": system.settings.broker}
    producer = Producer(servers | {"linger.ms": 0})
    consumer = Consumer(servers | {"group.id": "bench", "fetch.wait.max.ms": 10})
    try:
        places = [TopicPartition(name, 0)]
        end = consumer.get_watermark_offsets(places[0])[1]
        consumer.assign([TopicPartition(name, 0, end)])
        consumer.poll(1.0)
        took = []
        for _ in range(SMALL_ROUNDS):
            began_s = time.perf_counter()
            producer.produce(name, b"{}", uuid.uuid4().bytes, partition=0)
            producer.flush()
            while consumer.poll(1.0) is None:
                pass
            took.append(time.perf_counter() - began_s)
        return statistics.median(took)
    finally:
        consumer.close()


def peak_mb(process: Process) -> float:
    """The most memory that a process has held."""
    [line] = [each for each in Path(f"/proc/{process.pid}/status").read_text().splitlines() if each.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def scores_alone_s(columns: Sequence[str], rows: Sequence[str]) -> float:
    """The computation without any way there and back."""
    began_s = time.perf_counter()
    msgspec.json.encode(compare(decode_list("a", list(columns)), decode_list("b", list(rows))))
    return time.perf_counter() - began_s


def median_ms(measure: Callable[[], float], rounds: int) -> tuple[float, float]:
    """Median and 99th percentile (or the worst of few), after one round to warm up."""
    measure()
    took = sorted(measure() * 1000 for _ in range(rounds))
    return statistics.median(took), took[min(len(took) - 1, int(len(took) * 0.99))]


def small(client: httpx.Client, system: System) -> None:
    """Two voiceprints against two."""
    few = voiceprints(2, 1)
    body = json.dumps({"voiceprints_a": few, "voiceprints_b": few}).encode()
    p50, p99 = median_ms(lambda: post_to_done_s(client, COMPARISON, body), SMALL_ROUNDS)
    limit = kafka_round_trip_s(system) * 1000
    print(f"2 x 2, POST to done: p50 {p50:.1f} ms, p99 {p99:.1f} ms")
    print(f"  a record to Kafka and back: {limit:.1f} ms, {p50 / limit:.1f} times less")


def square(client: httpx.Client, query: Process) -> None:
    """A thousand against a thousand."""
    columns, rows = voiceprints(1000, 1), voiceprints(1000, 2)
    body = json.dumps({"voiceprints_a": columns, "voiceprints_b": rows}).encode()
    p50, worst = median_ms(lambda: post_to_done_s(client, COMPARISON, body), LARGE_ROUNDS)
    limit, _ = median_ms(lambda: scores_alone_s(columns, rows), LARGE_ROUNDS)
    print(f"1,000 x 1,000, POST to done: median {p50:.0f} ms, worst {worst:.0f} ms")
    print(f"  the scores alone: {limit:.0f} ms, {p50 / limit:.1f} times less")
    print(f"  the service's peak memory by then: {peak_mb(query):.0f} MB")


def long(client: httpx.Client, query: Process, worker: Process) -> None:
    """The longest lists, and a body of 70 MB."""
    many = voiceprints(50_000, 3)
    for name, path, lists in (
        ("50,000 x 20", COMPARISON, {"voiceprints_a": many, "voiceprints_b": many[:20]}),
        ("gender of 50,000", GENDER, {"voiceprints": many}),
    ):
        body = json.dumps(lists).encode()
        took_s = post_to_done_s(client, path, body)
        print(f"{name}, {len(body) / 1e6:.0f} MB, POST to done: {took_s:.1f} s")
        print(f"  peak memory of the service {peak_mb(query):.0f} MB, of the worker {peak_mb(worker):.0f} MB")
    padded = [base64.b64encode(bytes(1044)).decode()] * 50_000
    body = json.dumps({"voiceprints_a": padded, "voiceprints_b": ["QQ=="]}).encode()
    client.post(COMPARISON, content=body).raise_for_status()
    print(f"a body of {len(body) / 1e6:.0f} MB: peak memory {peak_mb(query):.0f} MB (limit 300 MB)")


def main() -> None:
    """Print everything."""
    print(describe())
    with open_broker(default_cache_dir()) as broker, tempfile.TemporaryDirectory() as folder:
        settings = Settings(broker=broker.bootstrap, topic_prefix="bench.", partitions=1, language_model="tiny")
        with open_system(settings, Path(folder)) as system:
            worker, query = system.start("worker"), system.start("query", "--port", "0")
            with httpx.Client(base_url=wait_url(query), timeout=120) as client:
                small(client, system)
                square(client, query)
                long(client, query, worker)


if __name__ == "__main__":
    main()
