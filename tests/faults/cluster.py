"""Three Kafka nodes, each broker and controller, as a cluster on the loopback address."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from confluent_kafka import KafkaException

from pipeline.broker import EmbeddedBroker
from pipeline.broker.config import Membership, Node
from pipeline.broker.kafka import new_cluster_id
from pipeline.broker.ports import free_port
from tests.faults.admin import admin_of

NODES = 3


class Cluster:
    """Every topic that asks for it has a copy on each node; a write needs two of them."""

    def __init__(self, cache_dir: Path) -> None:
        ports: list[int] = []
        while len(ports) < 2 * NODES:
            ports.append(free_port(*ports))
        nodes = [Node(number + 1, ports[2 * number], ports[2 * number + 1]) for number in range(NODES)]
        cluster_id = new_cluster_id()
        self.nodes = [EmbeddedBroker(cache_dir, membership=Membership(node, nodes, cluster_id)) for node in nodes]
        self.bootstrap = ",".join(node.bootstrap for node in self.nodes)

    def __enter__(self) -> "Cluster":
        with ThreadPoolExecutor() as pool:  # none answers before two are there
            list(pool.map(EmbeddedBroker.start, self.nodes))
        self.wait_in_sync()
        return self

    def __exit__(self, *_: object) -> None:
        with ThreadPoolExecutor() as pool:
            list(pool.map(EmbeddedBroker.stop, self.nodes))

    def bounce(self, number: int, *, hard: bool) -> None:
        """End a node, in order or by SIGKILL, start it again, and wait until it has caught up."""
        if hard:
            self.nodes[number].kill()
        self.nodes[number].restart()
        self.wait_in_sync()

    def wait_in_sync(self, patience_s: float = 120.0) -> None:
        """Until every copy of every partition is in sync."""
        give_up_s = time.monotonic() + patience_s
        while not self._is_in_sync():
            assert time.monotonic() < give_up_s, "the cluster does not come into sync"
            time.sleep(0.5)

    def _is_in_sync(self) -> bool:
        try:
            found = admin_of(self.bootstrap).list_topics(timeout=10)
        except KafkaException:
            return False
        partitions = [one for topic in found.topics.values() for one in topic.partitions.values()]
        return len(found.brokers) == NODES and all(len(one.isrs) == len(one.replicas) for one in partitions)
