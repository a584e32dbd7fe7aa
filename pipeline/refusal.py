"""Why Kafka does not let us in. aiokafka says only that it cannot connect, and would try for ever."""

import ssl
from collections.abc import Mapping
from typing import Any, Protocol

from aiokafka.conn import collect_hosts, create_conn
from aiokafka.errors import (
    BrokerResponseError,
    IllegalSaslStateError,
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from pipeline.connection import aiokafka_options
from pipeline.settings import PREFIX, Settings

_SASL_FAULTS = (SaslAuthenticationFailed, UnsupportedSaslMechanismError, IllegalSaslStateError)
_HUNG_UP = (KafkaConnectionError, EOFError, ConnectionResetError, BrokenPipeError, ssl.SSLEOFError)
_PATIENCE_MS = 10_000


class BrokerRefusedError(KafkaError):
    """A certificate, a user or a password is not accepted: to try again does not help. The message is one line."""

    def __str__(self) -> str:
        return str(self.args[0])


class Client(Protocol):
    """An aiokafka client."""

    async def start(self) -> None:
        """Connect."""


async def start_client(client: Client, settings: Settings) -> None:
    """Start a client. Raises BrokerRefusedError where certificates or passwords are to blame, else what `start` raises."""
    try:
        await client.start()
    except KafkaConnectionError:
        await check_admission(settings)
        raise


async def check_admission(settings: Settings) -> None:
    """Raises BrokerRefusedError when a bootstrap server refuses us (or we it) and none lets us in. No answer is no refusal.

    Raises KafkaConnectionError when one hangs up: the broker may be starting, or speak another protocol.
    """
    options = aiokafka_options(settings)
    faults = []
    for host, port, _ in collect_hosts(options.pop("bootstrap_servers")):
        try:
            await _knock(host, port, options)
        except (KafkaError, OSError, EOFError) as error:
            faults.append(_fault(f"{host}:{port}", error, settings))
        else:
            return
    for kind in (BrokerRefusedError, KafkaConnectionError):
        for fault in faults:
            if isinstance(fault, kind):
                raise fault


async def _knock(host: str, port: int, options: Mapping[str, Any]) -> None:
    connection = await create_conn(host, port, request_timeout_ms=_PATIENCE_MS, **options)
    try:
        await connection.send(MetadataRequest([]))  # a listener with users answers nothing before one has signed in
    finally:
        await connection.close()


def _fault(server: str, error: Exception, settings: Settings) -> KafkaError | None:
    """What to say of a failure; None when it says enough by itself."""
    cause = error.__cause__ or error  # TLS 1.3: the broker's word about our certificate comes with the first answer
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = cause.verify_message.rstrip(".")
        return BrokerRefusedError(f"{server} is not trusted: {why}; look at {PREFIX}BROKER and {PREFIX}KAFKA_CA_FILE")
    if isinstance(cause, _SASL_FAULTS):
        who = f"user {settings.kafka_username!r} by {settings.kafka_mechanism}"
        where = ", ".join(PREFIX + name for name in ("KAFKA_USERNAME", "KAFKA_PASSWORD", "KAFKA_MECHANISM", "KAFKA_SECURITY"))
        return BrokerRefusedError(f"{server} refuses {who}: {_words(cause)}; look at {where}")
    if isinstance(cause, _HUNG_UP):
        return KafkaConnectionError(f"{server} hangs up; it is starting, or {PREFIX}KAFKA_SECURITY is not what it expects")
    if isinstance(cause, ssl.SSLError):
        where = f"{PREFIX}KAFKA_SECURITY and {PREFIX}KAFKA_CERT_FILE"
        return BrokerRefusedError(f"{server} does not agree on TLS: {cause.reason}; look at {where}")
    return None


def _words(error: BrokerResponseError) -> str:
    """The broker's own, where it gave any; aiokafka puts its connection there otherwise."""
    given = error.args[0] if error.args else None
    return " ".join((given if isinstance(given, str) else error.description).split()).rstrip(".")
