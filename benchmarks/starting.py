"""What it takes to start tasks over HTTP: time from POST to the final GET, and the service's memory with large lists.

The limits in the same run: for a small comparison, a record's way through Kafka and back (an acknowledged send, a fetch); for
a larger one, the scores alone (decode, numpy's product, JSON) in this process. The aim for the largest lists is 3 s.

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
AIM_S = 3.0
AIM_MB = 300.0


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


def report(what: str, ours: float, limit: str, theirs: float, unit: str) -> None:
    """A row of the table."""
    print(f"| {what} | {ours:,.1f} {unit} | {limit} | {theirs:,.1f} {unit} | {ours / theirs:.2f} |", flush=True)


def small(client: httpx.Client, system: System) -> None:
    """Two voiceprints against two."""
    few = voiceprints(2, 1)
    body = json.dumps({"voiceprints_a": few, "voiceprints_b": few}).encode()
    p50, p99 = median_ms(lambda: post_to_done_s(client, COMPARISON, body), SMALL_ROUNDS)
    limit_ms = kafka_round_trip_s(system) * 1000
    for name, figure in (("p50", p50), ("p99", p99)):
        report(f"2 x 2, POST to done, {name}", figure, "a record to Kafka and back", limit_ms, "ms")


def square(client: httpx.Client) -> None:
    """A thousand against a thousand."""
    columns, rows = voiceprints(1000, 1), voiceprints(1000, 2)
    body = json.dumps({"voiceprints_a": columns, "voiceprints_b": rows}).encode()
    p50, worst = median_ms(lambda: post_to_done_s(client, COMPARISON, body), LARGE_ROUNDS)
    limit_ms, _ = median_ms(lambda: scores_alone_s(columns, rows), LARGE_ROUNDS)
    for name, figure in (("median", p50), ("worst", worst)):
        report(f"1,000 x 1,000, POST to done, {name}", figure, "the scores alone", limit_ms, "ms")


def long(client: httpx.Client, query: Process, worker: Process) -> None:
    """The longest lists, and a body of 70 MB."""
    many, idle_mb = voiceprints(50_000, 3), peak_mb(worker)
    body = json.dumps({"voiceprints_a": many, "voiceprints_b": many[:20]}).encode()
    name, took_s = f"50,000 x 20, {len(body) / 1e6:.0f} MB", post_to_done_s(client, COMPARISON, body)
    report(f"{name}, POST to done", took_s, "the scores alone", scores_alone_s(many, many[:20]), "s")
    report(f"{name}, POST to done", took_s, "the aim", AIM_S, "s")
    took_s = post_to_done_s(client, GENDER, json.dumps({"voiceprints": many}).encode())
    report("gender of 50,000, POST to done", took_s, "the aim", AIM_S, "s")
    report("peak memory of the worker", peak_mb(worker), "before these", idle_mb, "MB")
    padded = [base64.b64encode(bytes(1044)).decode()] * 50_000
    body = json.dumps({"voiceprints_a": padded, "voiceprints_b": ["QQ=="]}).encode()
    client.post(COMPARISON, content=body).raise_for_status()
    report(f"peak memory of the service, body of {len(body) / 1e6:.0f} MB", peak_mb(query), "the aim", AIM_MB, "MB")


def main() -> None:
    """Print everything."""
    print(describe() + "\n")
    print("| what | ours | limit or aim | its figure | ours to it |\n|---|---|---|---|---|")
    with open_broker(default_cache_dir()) as broker, tempfile.TemporaryDirectory() as folder:
        settings = Settings(broker=broker.bootstrap, topic_prefix="bench.", partitions=1, language_model="tiny")
        with open_system(settings, Path(folder)) as system:
            worker, query = system.start("worker"), system.start("query", "--port", "0")
            with httpx.Client(base_url=wait_url(query), timeout=120) as client:
                small(client, system)
                square(client)
                long(client, query, worker)


if __name__ == "__main__":
    main()
