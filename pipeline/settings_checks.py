"""What is wrong with settings that each would do by themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.settings import Settings

MAX_PORT = 65_535
_HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?")


def fault_of(settings: Settings) -> str | None:
    """The first fault, behind the name of its variable (without the prefix); None where there is none."""
    return _broker_fault(settings) or _host_fault(settings) or _kafka_fault(settings) or _unreadable_file(settings)


def _broker_fault(settings: Settings) -> str | None:
    ports = [address.rpartition(":")[2] for address in settings.broker.split(",")]
    bad = next((port for port in ports if not 0 < int(port) <= MAX_PORT), None)
    return None if bad is None else f"BROKER={settings.broker!r}: {bad} is no port"


def _host_fault(settings: Settings) -> str | None:
    """What Python refuses to look up, each time anew (RFC 3490): two dots behind each other, a label of 64 characters."""
    hosts = [("BROKER", address.rpartition(":")[0]) for address in settings.broker.split(",")]
    for name, host in [*hosts, ("HOST", settings.host), ("WORKER_HOST", settings.worker_host)]:
        try:
            host.encode("idna")
        except UnicodeError:
            return f"{name}: {host!r} is no host"
    names = [name.strip() for name in settings.host_names.split(",")]
    bad = next((name for name in names if name and not _HOST_NAME.fullmatch(name)), None)
    return None if bad is None else f"HOST_NAMES: {bad!r} is no name of a host: no scheme, port or *, and in ASCII (xn--…)"


def _kafka_fault(settings: Settings) -> str | None:
    """What does not go together in the settings of the connection to Kafka."""
    if settings.kafka_password and settings.kafka_password_file:
        return "KAFKA_PASSWORD: CALLSTREAM_KAFKA_PASSWORD_FILE is set too; give one of them"
    if settings.kafka_cert_file and not settings.kafka_key_file:
        return "KAFKA_KEY_FILE: missing, the certificate of CALLSTREAM_KAFKA_CERT_FILE needs its key"
    if settings.kafka_key_file and not settings.kafka_cert_file:
        return "KAFKA_CERT_FILE: missing, the key of CALLSTREAM_KAFKA_KEY_FILE needs its certificate"
    if not settings.kafka_security.startswith("SASL_"):
        return None
    if not settings.kafka_username:
        return f"KAFKA_USERNAME: missing, {settings.kafka_security} needs a user"
    if not (settings.kafka_password or settings.kafka_password_file):
        return f"KAFKA_PASSWORD: missing, {settings.kafka_security} needs it or CALLSTREAM_KAFKA_PASSWORD_FILE"
    return None


def _unreadable_file(settings: Settings) -> str | None:
    for name in ("kafka_password_file", "kafka_ca_file", "kafka_cert_file", "kafka_key_file"):
        path = getattr(settings, name)
        try:
            if path:
                Path(path).open("rb").close()
        except OSError as error:
            return f"{name.upper()}={path!r}: {error.strerror}"
    return None
