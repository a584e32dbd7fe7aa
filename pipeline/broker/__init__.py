"""The embedded broker for one machine: a real Apache Kafka as a child process, or an in-memory stand-in without Java."""

from pipeline.broker.errors import BrokerError
from pipeline.broker.kafka import EmbeddedBroker
from pipeline.broker.launch import open_broker, run_foreground
from pipeline.broker.memory import InMemoryBroker

__all__ = ["BrokerError", "EmbeddedBroker", "InMemoryBroker", "open_broker", "run_foreground"]
