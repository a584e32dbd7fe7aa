"""The configuration of a Kafka node: a pure function of its place in the cluster."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

HOST = "127.0.0.1"
# What a node's data folder holds, in which the node runs:
CONFIG_FILE = "server.properties"
LOG_DIR = "log"  # Kafka's own word for the records' folder
LOG_FILE = "kafka.log"
LOG_CONFIG_FILE = "log4j2.properties"
OUTPUT_FILE = "kafka.out"
TMP_DIR = "tmp"

MAX_RECORD_BYTES = 2_097_152  # twice the largest chunk: one that is somewhat too long still reaches the dead letters
_HEAP_MB = 512


@dataclass(frozen=True)
class Listener:
    """One more way into a broker. Its protocol (SSL, SASL_PLAINTEXT, SASL_SSL), of which there is one each, is its name.

    Certificates and mechanisms are properties: `listener.name.<protocol>.…`.
    """

    protocol: str
    port: int
    host: str = "localhost"  # as it is advertised


@dataclass(frozen=True)
class Node:
    """One combined controller and broker. All ports are on the loopback address."""

    node_id: int
    port: int
    controller_port: int
    listeners: Sequence[Listener] = ()


@dataclass(frozen=True)
class Membership:
    """A node's place in a cluster: the nodes of the quorum (itself among them) and the id that all of them share."""

    node: Node
    quorum: Sequence[Node]
    cluster_id: str


def server_properties(node: Node, quorum: Sequence[Node], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The properties of `node` in a cluster of the nodes in `quorum` (itself among them).

    `extra` overrides. Paths are relative to the node's data folder, in which it runs: Kafka splits `log.dirs` at commas, which
    a folder's name may hold. Source: Apache Kafka 4 documentation, broker and KRaft configuration.
    """
    voters = ",".join(f"{one.node_id}@{HOST}:{one.controller_port}" for one in quorum)
    return {
        "process.roles": "broker,controller",
        "node.id": str(node.node_id),
        "controller.quorum.voters": voters,
        "controller.listener.names": "CONTROLLER",
        **_listeners(node),
        "log.dirs": LOG_DIR,
        **_replication(min(3, len(quorum))),
        **_ONE_MACHINE,
        **(extra or {}),
    }


def _listeners(node: Node) -> dict[str, str]:
    local = {"PLAINTEXT": node.port} | {one.protocol: one.port for one in node.listeners} | {"CONTROLLER": node.controller_port}
    advertised = [f"PLAINTEXT://{HOST}:{node.port}"] + [f"{one.protocol}://{one.host}:{one.port}" for one in node.listeners]
    protocols = ["CONTROLLER:PLAINTEXT", "PLAINTEXT:PLAINTEXT"] + [f"{one.protocol}:{one.protocol}" for one in node.listeners]
    return {
        "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in local.items()),
        "advertised.listeners": ",".join(advertised),
        "listener.security.protocol.map": ",".join(protocols),
    }


_ONE_MACHINE = {
    "auto.create.topics.enable": "false",
    "message.max.bytes": str(MAX_RECORD_BYTES),
    "group.initial.rebalance.delay.ms": "0",  # nobody else is about to join
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "4",
    "broker.heartbeat.interval.ms": "500",
    "broker.session.timeout.ms": "3000",  # after a kill the new process is let in only when the old one's session has ended
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "16777216",  # the default takes 128 MB of heap at once
}


def _replication(copies: int) -> dict[str, str]:
    """Internal topics on as many nodes as there are, at most three; all but one must have a record before it counts."""
    in_sync = str(max(1, copies - 1))
    return {
        "default.replication.factor": str(copies),
        "offsets.topic.replication.factor": str(copies),
        "transaction.state.log.replication.factor": str(copies),
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": str(copies),
        "share.coordinator.state.topic.min.isr": in_sync,
    }


def render(properties: Mapping[str, str]) -> str:
    """Properties as java.util.Properties.load reads them: one ASCII line each, everything else escaped."""
    return "".join(f"{key}={''.join(map(_escaped, value))}\n" for key, value in properties.items())


def _escaped(character: str) -> str:
    if " " < character < "\x7f" and character != "\\":
        return character
    return "".join(f"\\u{unit:04x}" for unit in _utf16(character))


def _utf16(character: str) -> list[int]:
    data = character.encode("utf-16-be")
    return [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]


JAVA_FLAGS = (
    f"-Xmx{_HEAP_MB}m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",  # a start in half the time counts for more here than peak throughput
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",  # no file in the system's temporary folder
    "-Xshare:auto",
    "-Djava.awt.headless=true",
    f"-Djava.io.tmpdir={TMP_DIR}",  # compression libraries are unpacked there, and would stay in the system's after a kill
    f"-Dcallstream.log={LOG_FILE}",
    f"-Dlog4j2.configurationFile={LOG_CONFIG_FILE}",
)
