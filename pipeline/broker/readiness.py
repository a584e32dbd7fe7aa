"""Asking a broker whether it is there."""

import time
from collections.abc import Callable

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

_TRY_S = 0.5
_PAUSE_S = 0.05
_QUIET = {
    "log_level": "0",  # a refused connection is what we expect at first
    "reconnect.backoff.ms": "20",
    "reconnect.backoff.max.ms": "100",
    "allow.auto.create.topics": "false",
}


def answers(bootstrap: str, still_waiting: Callable[[], bool], cluster_id: str | None = None) -> bool:
    """Whether a metadata request gets an answer that names a broker, as long as `still_waiting` says to go on.

    With `cluster_id` only that cluster's answer counts: another broker may have taken the port.
    """
    client = AdminClient({"bootstrap.servers": bootstrap, **_QUIET})
    while still_waiting():
        try:
            found = client.list_topics(timeout=_TRY_S)
            if found.brokers and cluster_id in (None, found.cluster_id):
                return True
            time.sleep(_PAUSE_S)
        except KafkaException:  # not yet: it refuses connections, or the controller has not let the broker in
            continue
    return False
