"""The whole product as a user runs it: real Kafka, `callstream worker` and `callstream query` as processes."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import stamina
from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from pipeline.connection import librdkafka_options
from pipeline.settings import PREFIX, Settings

CLI = [sys.executable, "-m", "pipeline.cli"]
PATIENCE_S = 90.0


class Process:
    """A `callstream` command in the background; its stderr goes to a file. `command` runs it in another way."""

    def __init__(self, arguments: list[str], environment: dict[str, str], log: Path, command: Sequence[str] = CLI) -> None:
        self.log = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [*command, *arguments], env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self._popen.pid

    def poll(self) -> int | None:
        return self._popen.poll()

    def wait(self, timeout_s: float) -> int:
        return self._popen.wait(timeout=timeout_s)

    def signal(self, number: signal.Signals) -> None:
        self._popen.send_signal(number)

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()

    def wait_handler(self) -> None:
        """Until SIGTERM is not the end of it any more: before that it has begun nothing that could end in order."""
        give_up_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_s and self.poll() is None:
            status = Path(f"/proc/{self.pid}/status").read_text()
            caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
            if caught >> (signal.SIGTERM - 1) & 1:
                return
            time.sleep(0.1)

    def terminate(self) -> int:
        self._popen.send_signal(signal.SIGTERM)
        return self._popen.wait(timeout=60)

    def close(self) -> None:
        if self._popen.poll() is None:
            self.kill()


class System:
    """Topics under one prefix, and what runs on them."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings = settings
        self.folder = folder
        values = msgspec.structs.asdict(settings) | {"data_dir": folder / "data"}
        # But for the cache: where models and jars are, the environment of the tests says.
        self.environment = {f"{PREFIX}{name.upper()}": str(value) for name, value in values.items() if name != "cache_dir"}
        self._broker = librdkafka_options(settings)
        self._producer = Producer(self._broker | {"message.max.bytes": "4000000", "partitioner": "murmur2_random"})
        self._started: list[Process] = []

    def start(self, *arguments: str, command: Sequence[str] = CLI, **environment: str) -> Process:
        log = self.folder / f"{arguments[0]}-{len(self._started)}.log"
        process = Process(list(arguments), self.environment | environment, log, command)
        self._started.append(process)
        return process

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*CLI, *arguments],
            env=os.environ | self.environment | environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def close(self) -> None:
        for process in self._started:
            process.close()

    def produce(self, topic: str, key: bytes | None, value: bytes | None, headers: dict[Any, str] | None = None) -> None:
        pairs: list[tuple[str, str | bytes | None]] = [(str(name), text.encode()) for name, text in (headers or {}).items()]
        self._producer.produce(self.settings.topic(topic), value, key, headers=pairs)
        assert self._producer.flush(30) == 0

    def read(self, topic: str) -> list[Message]:
        """Everything on a topic, in order of partition and offset."""
        consumer = Consumer(self._broker | {"group.id": "reader", "enable.auto.commit": "false"})
        name = self.settings.topic(topic)
        messages: list[Message] = []
        with contextlib.closing(consumer):
            places = [TopicPartition(name, number, 0) for number in consumer.list_topics(name).topics[name].partitions]
            left = sum(_end(consumer, place) for place in places)
            consumer.assign(places)
            while len(messages) < left:
                message = consumer.poll(10)
                assert message is not None, f"{name} holds {left} records, only {len(messages)} came"
                assert message.error() is None
                messages.append(message)
        return messages

    def transitions(self, call_id: str) -> dict[str, list[dict[str, Any]]]:
        """A call's (or a task's) records by technology."""
        found: dict[str, list[dict[str, Any]]] = {}
        for message in self.read("results"):
            body = json.loads(message.value() or b"")
            if call_id in (body.get("call_id"), body["task"]["task_id"]):
                found.setdefault(body["technology"], []).append(body)
        return found

    def wait_final(self, call_id: str, technologies: set[str]) -> dict[str, dict[str, Any]]:
        """Wait until these tasks are final; their last records."""
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            last = {technology: records[-1] for technology, records in self.transitions(call_id).items()}
            final = {technology for technology, body in last.items() if body["task"]["state"] in ("done", "failed", "rejected")}
            if final >= technologies:
                return last
            assert time.monotonic() < give_up_s, f"call {call_id}: only {final} are final; see {self.folder}\n{self.logs()}"
            time.sleep(0.2)

    def dead_letters(self, key: bytes) -> list[dict[str, str]]:
        """The headers of the dead letters of this key."""
        return [
            {name: bytes(value or b"").decode() for name, value in dict(message.headers() or []).items()}  # type: ignore[arg-type]
            for message in self.read("dead-letters")
            if message.key() == key
        ]

    def wait_dead_letter(self, key: bytes) -> dict[str, str]:
        give_up_s = time.monotonic() + PATIENCE_S
        while not (letters := self.dead_letters(key)):
            assert time.monotonic() < give_up_s, f"no dead letter of {key!r}\n{self.logs()}"
            time.sleep(0.2)
        return letters[0]

    def committed(self, group: str, topic: str) -> dict[int, int]:
        """What a group has committed, by partition; -1001 where nothing is."""
        consumer = Consumer(self._broker | {"group.id": f"{self.settings.topic_prefix}callstream-{group}"})
        name = self.settings.topic(topic)
        with contextlib.closing(consumer):
            places = [TopicPartition(name, number) for number in consumer.list_topics(name).topics[name].partitions]
            return {place.partition: place.offset for place in consumer.committed(places, timeout=10)}

    def logs(self) -> str:
        return "\n".join(f"== {process.log.name}\n{process.log.read_text()[-3000:]}" for process in self._started)


@stamina.retry(on=KafkaException, attempts=None, timeout=30.0)
def _end(consumer: Consumer, place: TopicPartition) -> int:
    """Where a partition ends; the broker may still be making it."""
    return int(consumer.get_watermark_offsets(place)[1])


def http(method: str, url: str, body: object = None) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of an answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, dict(response.headers), json.loads(response.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), json.loads(error.read() or b"null")


def wait_answer(url: str, technology: str, task_id: str) -> Any:
    """What a query service says of a task once it is final there: its view follows `results`, others may know it sooner."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        status, _, body = http("GET", f"{url}/api/technology/{technology}/{task_id}")
        if status == 200 and body["task"]["state"] in ("done", "failed", "rejected"):
            return body
        assert time.monotonic() < give_up_s, f"{task_id}: {status} {body}"
        time.sleep(0.05)


def wait_url(process: Process) -> str:
    """Where a query service listens, from its own word."""
    give_up_s = time.monotonic() + PATIENCE_S
    while True:
        for line in process.log.read_text().splitlines():
            if line.startswith("listening on "):
                return line.removeprefix("listening on ")
        assert time.monotonic() < give_up_s, process.log.read_text()
        time.sleep(0.1)


def is_ready(url: str) -> bool:
    """Whether the worker or the query service there says so."""
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=5) as answer:
            return bool(json.loads(answer.read())["ready"])
    except OSError as error:  # 503, or not up yet; another status is neither
        assert getattr(error, "code", 503) == 503  # noqa: PT017 - an error is one of the answers here
        return False


def wait_ready(url: str, wanted: bool) -> None:
    give_up_s = time.monotonic() + PATIENCE_S
    while is_ready(url) is not wanted:
        assert time.monotonic() < give_up_s, f"{url}/ready did not turn {wanted}"
        time.sleep(0.02)


@contextlib.contextmanager
def open_system(settings: Settings, folder: Path) -> Iterator[System]:
    """Creates the topics; ends what was started."""
    folder.mkdir(parents=True, exist_ok=True)
    system = System(settings, folder)
    created = system.run("topics")
    assert created.returncode == 0, created.stderr
    try:
        yield system
    finally:
        system.close()
