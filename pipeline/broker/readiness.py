"""Asking a broker whether it is there."""

from collections.abc import Callable

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

_TRY_S = 0.5
_QUIET = {
    "log_level": "0",  # a refused connection is what we expect at first
    "reconnect.backoff.ms": "20",
    "reconnect.backoff.max.ms": "100",
    "allow.auto.create.topics": "false",
}


def answers(bootstrap: str, still_waiting: Callable[[], bool]) -> bool:
    """Whether a metadata request gets an answer that names a broker, as long as `still_waiting` says to go on."""
    client = AdminClient({"bootstrap.servers": bootstrap, **_QUIET})
    while still_waiting():
        try:
            if client.list_topics(timeout=_TRY_S).brokers:
                return True
        except KafkaException:  # not yet: it refuses connections, or the controller has not let the broker in
            continue
    return False
