"""The embedded broker: started, stopped, killed, orphaned; and what it says when it cannot start."""
# mypy: allow-untyped-calls

import concurrent.futures
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from confluent_kafka.admin import AdminClient
from hypothesis import given
from hypothesis import strategies as st

from pipeline.broker import BrokerError, EmbeddedBroker, InMemoryBroker, jars, open_broker
from pipeline.broker.config import Node, render, server_properties
from pipeline.broker.java import JavaUnavailableError, find_java
from pipeline.broker.ports import free_port
from tests.broker_fixture import cache_dir

pytestmark = pytest.mark.broker

_PATIENCE_S = 60.0  # how long a broken build may hang, not how long anything takes


async def _create(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, 1, 1)])
    finally:
        await admin.close()


async def _produce(bootstrap: str, topic: str, value: bytes) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        await producer.send_and_wait(topic, value)


async def _consume_one(bootstrap: str, topic: str, group: str | None = None) -> bytes | None:
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, group_id=group, auto_offset_reset="earliest", enable_auto_commit=False
    )
    async with consumer:
        record = await consumer.getone()
        if group:
            await consumer.commit()
        return record.value


async def _committed(bootstrap: str, topic: str, partitions: int, group: str) -> int:
    """Records that the group has committed, over all partitions."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    async with consumer:
        places = [TopicPartition(topic, number) for number in range(partitions)]
        consumer.assign(places)
        return sum([await consumer.committed(place) or 0 for place in places])


def _cluster_id(bootstrap: str) -> str:
    return str(AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=_PATIENCE_S).cluster_id)


def _wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.05)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _processes_in(folder: Path) -> list[int]:
    """Processes that run in `folder` or below it."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if path.readlink().is_relative_to(folder):
                found.append(int(path.parent.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


async def test_two_brokers_at_once_are_two_clusters() -> None:
    brokers = [EmbeddedBroker(cache_dir()) for _ in range(2)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(EmbeddedBroker.start, brokers))
    try:
        first, second = (broker.bootstrap for broker in brokers)
        assert first != second
        assert _cluster_id(first) != _cluster_id(second)
        await _create(first, "only-here")
        await _produce(first, "only-here", b"one")
        assert await _consume_one(first, "only-here", group="group") == b"one"
        assert "only-here" not in AdminClient({"bootstrap.servers": second}).list_topics(timeout=_PATIENCE_S).topics
    finally:
        for broker in brokers:
            broker.stop()


async def test_a_named_folder_survives_and_has_one_owner(tmp_path: Path) -> None:
    folder = tmp_path / "data, with ünusual = name"
    with EmbeddedBroker(cache_dir(), data_dir=folder) as broker:
        await _create(broker.bootstrap, "kept")
        await _produce(broker.bootstrap, "kept", b"before")
        with pytest.raises(BrokerError, match="in use by another broker") as caught:
            EmbeddedBroker(cache_dir(), data_dir=folder).start()
        assert "\n" not in str(caught.value)
    with EmbeddedBroker(cache_dir(), data_dir=folder) as broker:
        assert await _consume_one(broker.bootstrap, "kept") == b"before"


async def test_kill_and_restart_keep_port_and_data(embedded_broker: EmbeddedBroker, topic_prefix: str) -> None:
    bootstrap, pid = embedded_broker.bootstrap, embedded_broker.pid
    assert pid is not None
    await _create(bootstrap, topic_prefix + "kept")
    await _produce(bootstrap, topic_prefix + "kept", b"acknowledged")
    embedded_broker.kill()
    assert not _is_alive(pid)
    assert embedded_broker.wait(0) == -signal.SIGKILL
    embedded_broker.restart()
    assert embedded_broker.bootstrap == bootstrap
    assert await _consume_one(bootstrap, topic_prefix + "kept") == b"acknowledged"


def test_stop_leaves_nothing() -> None:
    with EmbeddedBroker(cache_dir()) as broker:
        folder, pid = broker.data_dir, broker.pid
        assert pid is not None
        assert folder.exists()
    assert not folder.exists()
    assert not _is_alive(pid)
    broker.stop()  # a second time changes nothing


_OPEN_AND_SLEEP = """
import os, sys, time
from pipeline.broker import open_broker
broker = open_broker(sys.argv[1], in_memory="memory" in sys.argv[2])
broker.start()
if "fork" not in sys.argv[2] or os.fork():
    print(broker.pid, flush=True)
time.sleep(3600)
"""


def _start_parent(kind: str, temporary: Path) -> tuple[subprocess.Popen[str], int, int]:
    """A process that owns a broker, and the ids of the broker's process and of its guard."""
    environment = {**os.environ, "TMPDIR": str(temporary)}
    argv = [sys.executable, "-c", _OPEN_AND_SLEEP, str(cache_dir()), kind]
    parent = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    return parent, pid, _parent_of(pid)


@pytest.mark.parametrize("kind", ["kafka", "memory"])
def test_killing_the_parent_leaves_nothing(kind: str, tmp_path: Path) -> None:
    parent, pid, guard = _start_parent(kind, tmp_path)
    with parent:
        assert pid in _processes_in(tmp_path)
        parent.kill()
    _wait_until(lambda: not _is_alive(guard), "the guard ends")
    assert not _is_alive(pid)
    assert list(tmp_path.iterdir()) == []
    assert _processes_in(tmp_path) == []


def test_a_child_of_the_parent_does_not_keep_the_broker_alive(tmp_path: Path) -> None:
    parent, pid, guard = _start_parent("fork memory", tmp_path)
    with parent:
        heir = next(other for other in _children_of(parent.pid) if other != guard)
        parent.kill()
    try:
        _wait_until(lambda: not _is_alive(guard), "the guard ends though its pipe is open")
        assert not _is_alive(pid)
    finally:
        os.kill(heir, signal.SIGKILL)


@pytest.mark.parametrize("kind", ["kafka", "memory"])
def test_killing_the_guard_kills_the_broker(kind: str, tmp_path: Path) -> None:
    parent, pid, guard = _start_parent(kind, tmp_path)
    with parent:
        os.kill(guard, signal.SIGKILL)
        _wait_until(lambda: not _is_alive(pid), "the broker ends with its guard")
        parent.kill()


def test_a_used_port_is_refused_and_a_free_one_taken(embedded_broker: EmbeddedBroker) -> None:
    used = int(embedded_broker.bootstrap.partition(":")[2])
    with pytest.raises(BrokerError, match=f"port {used} .*in use"):
        EmbeddedBroker(cache_dir(), port=used).start()
    free = free_port()
    with EmbeddedBroker(cache_dir(), port=free) as broker:
        assert broker.bootstrap == f"127.0.0.1:{free}"


def test_a_port_that_is_lost_in_a_race_is_replaced(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as rival:
        lost = rival.getsockname()[1]
        offered = iter([lost])
        monkeypatch.setattr("pipeline.broker.kafka.free_port", lambda *taken: next(offered, 0) or free_port(*taken))
        with EmbeddedBroker(cache_dir(), data_dir=tmp_path) as broker:
            assert broker.bootstrap != f"127.0.0.1:{lost}"
            assert _cluster_id(broker.bootstrap)
    assert next(offered, None) is None


def test_a_failed_start_quotes_the_broker(tmp_path: Path) -> None:
    broker = EmbeddedBroker(cache_dir(), data_dir=tmp_path, properties={"num.io.threads": "many"})
    with pytest.raises(BrokerError, match=r"num\.io\.threads") as caught:
        broker.start()
    assert "\n" not in str(caught.value)
    assert _processes_in(tmp_path) == []


def test_without_java_there_is_one_line_and_the_in_memory_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with pytest.raises(JavaUnavailableError, match="java is not found; install Java 17"):
        EmbeddedBroker(tmp_path / "cache").start()
    assert list(tmp_path.iterdir()) == []
    said: list[str] = []
    with open_broker(tmp_path / "cache", on_progress=said.append) as broker:
        assert isinstance(broker, InMemoryBroker)
    assert "java is not found" in said[0]
    assert "for trying out" in said[1]
    with pytest.raises(BrokerError, match="no data folder: java is not found"):
        open_broker(tmp_path / "cache", data_dir=tmp_path / "data")


@pytest.mark.parametrize(("version", "major"), [("1.8.0_402", 8), ("11.0.2", 11), ("16", 16)])
def test_an_old_java_is_refused(version: str, major: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(JavaUnavailableError, match=f"is Java {major}, too old"):
        find_java()


def test_a_jar_with_another_sum_is_refused_and_nothing_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(Path(jars.__file__).parent / "pom.xml", tmp_path)
    lines = [f"{digest}  {name}" for name, digest in jars.expected_sums().items()]
    altered = f"{hashlib.sha256(b'another').hexdigest()}  {lines[-1].split()[1]}"
    (tmp_path / "SHA256SUMS").write_text("\n".join([*lines[:-1], altered]))
    monkeypatch.setattr(jars, "_HERE", tmp_path)
    cache = tmp_path / "cache"
    with pytest.raises(BrokerError, match=r"SHA-256 .*nothing was kept") as caught:
        jars.ensure_jars(cache)
    assert "\n" not in str(caught.value)
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


def test_two_at_once_fetch_once_and_damage_is_repaired(tmp_path: Path) -> None:
    said: list[str] = []
    with concurrent.futures.ThreadPoolExecutor() as pool:
        folders = list(pool.map(lambda _: jars.ensure_jars(tmp_path, said.append), range(2)))
    assert folders == [jars.jar_folder(tmp_path)] * 2
    assert jars.fault(folders[0]) is None
    assert len([line for line in said if line.endswith("MB)")]) == 1
    victim = next(folders[0].glob("kafka-clients-*.jar"))
    victim.write_bytes(victim.read_bytes()[:-1])
    assert jars.fault(folders[0]) is not None
    jars.ensure_jars(tmp_path)
    assert jars.fault(folders[0]) is None


def test_without_network_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tmp_path / ".m2" / "settings.xml"
    settings.parent.mkdir()
    settings.write_text("<settings><offline>true</offline></settings>")
    monkeypatch.setenv("MAVEN_OPTS", f"-Duser.home={tmp_path}")
    with pytest.raises(BrokerError, match="cannot be fetched: Maven has no network") as caught:
        jars.ensure_jars(tmp_path / "cache")
    assert "\n" not in str(caught.value)
    assert [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"] == []


def test_the_recorded_jars_are_those_of_the_declared_version() -> None:
    names = jars.expected_sums().keys()
    assert f"kafka_2.13-{jars.KAFKA_VERSION}.jar" in names
    pom = (Path(jars.__file__).parent / "pom.xml").read_text()
    assert f"<version>{jars.KAFKA_VERSION}</version>" in pom


_FOREGROUND = """
import sys
from pipeline.broker import run_foreground
sys.exit(run_foreground(sys.argv[1], 0, None, sys.argv[2] == "memory"))
"""


@pytest.mark.parametrize("kind", ["kafka", "memory"])
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_foreground_says_where_it_is_and_ends_in_order(kind: str, ending: signal.Signals, tmp_path: Path) -> None:
    # As a script starts it in the background: with SIGINT ignored.
    argv = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-c", _FOREGROUND, str(cache_dir()), kind]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        name, _, bootstrap = process.stdout.readline().strip().partition("=")
        assert name == "bootstrap.servers"
        _cluster_id(bootstrap)  # raises when nothing answers
        process.send_signal(ending)
        try:
            rest, _ = process.communicate(timeout=_PATIENCE_S)
        finally:
            process.kill()
    assert (process.returncode, rest) == (0, "")
    assert list(tmp_path.iterdir()) == []


async def test_in_memory_serves_one_worker() -> None:
    said: list[str] = []
    with InMemoryBroker(topics={"media": 3}, on_progress=said.append) as broker:
        assert "in-memory" in said[0]
        assert len(AdminClient({"bootstrap.servers": broker.bootstrap}).list_topics("media").topics["media"].partitions) == 3
        await _produce(broker.bootstrap, "media", b"first")
        assert await _consume_one(broker.bootstrap, "media", group="worker") == b"first"
        assert await _committed(broker.bootstrap, "media", 3, "worker") == 1


def test_three_nodes_make_one_quorum() -> None:
    quorum = [Node(1, 1001, 2001), Node(2, 1002, 2002), Node(3, 1003, 2003)]
    found = [server_properties(node, quorum, {"num.partitions": "7"}) for node in quorum]
    assert {one["controller.quorum.voters"] for one in found} == {"1@127.0.0.1:2001,2@127.0.0.1:2002,3@127.0.0.1:2003"}
    assert [one["node.id"] for one in found] == ["1", "2", "3"]
    assert {one["offsets.topic.replication.factor"] for one in found} == {"3"}
    assert {one["num.partitions"] for one in found} == {"7"}
    assert all("0.0.0.0" not in value for one in found for value in one.values())


@given(value=st.text(st.characters(exclude_categories=["Cs"])))
def test_properties_are_one_line_each_and_read_back(value: str) -> None:
    text = render({"name": value, "next": "1"})
    first, second, rest = text.split("\n")
    assert (second, rest) == ("next=1", "")
    assert text.isascii()
    units = first.removeprefix("name=").encode("ascii").decode("unicode_escape")  # \uXXXX as Java has it, in UTF-16
    assert units.encode("utf-16-le", "surrogatepass").decode("utf-16-le") == value
