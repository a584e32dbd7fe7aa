"""The in-memory broker's process: librdkafka's mock cluster, whose life is that of the client it belongs to.

Run as a script: `mock_server.py READY_FILE [TOPIC:PARTITIONS …]`. Once it listens it writes its address to READY_FILE.
Source: librdkafka, rdkafka.h and rdkafka_mock.h.
"""

import ctypes
import ctypes.util
import signal
import sys
from pathlib import Path

import confluent_kafka

_PRODUCER = 0  # rd_kafka_type_t
_ERROR_BYTES = 512


def _library() -> ctypes.CDLL:
    """The librdkafka inside confluent-kafka's wheel, else the system's."""
    package = Path(confluent_kafka.__file__).parent
    bundled = [*package.parent.glob("confluent_kafka.libs/librdkafka*"), *package.glob(".dylibs/librdkafka*")]
    name = str(bundled[0]) if bundled else ctypes.util.find_library("rdkafka")
    if name is None:
        raise SystemExit("librdkafka is not found beside confluent-kafka; install confluent-kafka from its wheel")
    library = ctypes.CDLL(name)
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_handle_mock_cluster": (pointer, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_set_controller_id": (None, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
    }
    for function, (result, arguments) in signatures.items():
        getattr(library, function).restype, getattr(library, function).argtypes = result, arguments
    return library


class MockCluster:
    """A mock cluster of one broker on the loopback address; it lives as long as the process."""

    def __init__(self) -> None:
        self._library = _library()
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        configuration = self._library.rd_kafka_conf_new()
        for name, value in ((b"test.mock.num.brokers", b"1"), (b"log_level", b"0")):
            self._library.rd_kafka_conf_set(configuration, name, value, error, _ERROR_BYTES)
        client = self._library.rd_kafka_new(_PRODUCER, configuration, error, _ERROR_BYTES)
        if not client:
            raise SystemExit(f"librdkafka cannot begin its mock cluster: {error.value.decode()}")
        self._cluster = self._library.rd_kafka_handle_mock_cluster(client)
        # Clients wait in vain for a controller otherwise, instead of learning at once that it cannot create topics.
        self._library.rd_kafka_mock_set_controller_id(self._cluster, 1)
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)

    @property
    def bootstrap(self) -> str:
        """The bootstrap servers, `host:port`."""
        address: bytes = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster)
        return address.decode("ascii")

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic, which no request can do here."""
        if code := self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1):
            raise SystemExit(f"the in-memory broker refuses the topic {name} with {partitions} partitions (error {code})")


def main() -> None:
    """Serve until a signal ends the process."""
    ready = Path(sys.argv[1])
    cluster = MockCluster()
    for declaration in sys.argv[2:]:
        name, _, partitions = declaration.rpartition(":")
        cluster.create_topic(name, int(partitions))
    partial = ready.with_suffix(".partial")
    partial.write_text(cluster.bootstrap, encoding="ascii")
    partial.rename(ready)
    signal.sigwait({signal.SIGTERM})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # before librdkafka begins its threads
    main()
