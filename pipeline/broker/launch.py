"""Choosing a broker, and running one in the foreground."""

import signal
from collections.abc import Mapping
from pathlib import Path

import click

from pipeline.broker.errors import BrokerError
from pipeline.broker.jars import Progress, fault, jar_folder, no_progress
from pipeline.broker.java import JavaUnavailableError, find_java, find_maven
from pipeline.broker.kafka import EmbeddedBroker
from pipeline.broker.memory import InMemoryBroker

_WATCH_S = 3600.0


def open_broker(
    cache_dir: str | Path,
    *,
    in_memory: bool = False,
    port: int = 0,
    data_dir: str | Path | None = None,
    on_progress: Progress | None = None,
    properties: Mapping[str, str] | None = None,
    topics: Mapping[str, int] | None = None,
) -> EmbeddedBroker | InMemoryBroker:
    """A broker, not started yet: Apache Kafka where Java and Maven are, else the in-memory one, which says so.

    `topics` (partitions by name) is what the in-memory broker creates at its start; Kafka has requests for that.

    Raises:
        BrokerError: a port or a data folder was asked for that only Kafka can give, and Kafka cannot be had.
    """
    why = None if in_memory else _why_no_kafka(Path(cache_dir))
    if not in_memory and why is None:
        return EmbeddedBroker(cache_dir, port=port, data_dir=data_dir, on_progress=on_progress, properties=properties)
    if port or data_dir is not None:
        reason = f": {why}" if why else ""
        raise BrokerError(f"the in-memory broker takes no port and no data folder{reason}")
    if why:
        (on_progress or no_progress)(why)
    return InMemoryBroker(topics=topics, on_progress=on_progress)


def _why_no_kafka(cache_dir: Path) -> str | None:
    try:
        find_java()
        if fault(jar_folder(cache_dir)) is not None:
            find_maven()
    except JavaUnavailableError as error:
        return str(error)
    return None


def run_foreground(
    cache_dir: str | Path, port: int, data_dir: str | Path | None, in_memory: bool, topics: Mapping[str, int] | None = None
) -> int:
    """Run a broker until SIGINT or SIGTERM; returns the exit code.

    Once it is ready `bootstrap.servers=HOST:PORT` is the first line on stdout. Progress and errors go to stderr.
    """
    # Both explicitly: a shell lets what it starts in the background ignore SIGINT.
    previous = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        chosen = open_broker(
            cache_dir, in_memory=in_memory, port=port, data_dir=data_dir, on_progress=_to_stderr, topics=topics
        )
        with chosen as broker:
            click.echo(f"bootstrap.servers={broker.bootstrap}")
            while (code := broker.wait(_WATCH_S)) is None:
                pass
        _to_stderr(f"the broker ended by itself (exit code {code}); start it again, a data folder's kafka.log tells more")
    except KeyboardInterrupt:
        return 0
    except BrokerError as error:
        _to_stderr(str(error))
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 1


def _to_stderr(line: str) -> None:
    click.echo(f"callstream broker: {line}", err=True)
