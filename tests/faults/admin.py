"""librdkafka's admin client, for brokers that go away."""

import ctypes
import functools

from confluent_kafka.admin import AdminClient


@functools.cache
def admin_of(bootstrap: str) -> AdminClient:
    """The admin client of these brokers, one for the whole process, and never destroyed.

    librdkafka waits for ever when it destroys one of which a request has not come back from a broker that has gone, and the
    garbage collector may do that in the middle of any other test.
    """
    client = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(client))  # also not at the end of the process
    return client
