"""How each Kafka client is told to connect: where to, TLS, user and password, from the settings.

Files are read once, at the start: one that is being replaced must not be half read later. Names of the options:
https://aiokafka.readthedocs.io/en/stable/api.html, librdkafka's CONFIGURATION.md, and `faust.auth`.
"""

import functools
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.settings import PREFIX, Settings, SettingsError

if TYPE_CHECKING:
    from faust.types.auth import CredentialsT

READ_COMMITTED = "read_committed"


def check(settings: Settings) -> None:
    """Read every file that a connection needs. Raises SettingsError with one line that names the variable."""
    aiokafka_options(settings)


def uses_tls(settings: Settings) -> bool:
    """Whether connections are encrypted."""
    return settings.kafka_security.endswith("SSL")


def uses_sasl(settings: Settings) -> bool:
    """Whether a user signs in."""
    return settings.kafka_security.startswith("SASL_")


def aiokafka_options(settings: Settings) -> dict[str, Any]:
    """What every aiokafka client is made with."""
    options: dict[str, Any] = {"bootstrap_servers": settings.broker, "security_protocol": settings.kafka_security}
    if uses_tls(settings):
        options["ssl_context"] = _tls_context(settings)
    if uses_sasl(settings):
        options["sasl_mechanism"] = settings.kafka_mechanism
        options["sasl_plain_username"] = settings.kafka_username
        options["sasl_plain_password"] = _password(settings)
    return options


def aiokafka_reader_options(settings: Settings) -> dict[str, Any]:
    """What every consumer of aiokafka's is made with, but for an agent's. What a producer took back nobody has sent."""
    return aiokafka_options(settings) | {"enable_auto_commit": False, "isolation_level": READ_COMMITTED}


def librdkafka_options(settings: Settings) -> dict[str, str | int | float | bool]:
    """What every client of confluent-kafka is made with."""
    options: dict[str, str | int | float | bool] = {
        "bootstrap.servers": settings.broker,
        "security.protocol": settings.kafka_security,
        "log_level": 0,
    }
    if uses_tls(settings):
        options["ssl.endpoint.identification.algorithm"] = "https"  # the host's name is checked
        files = {"ca": settings.kafka_ca_file, "certificate": settings.kafka_cert_file, "key": settings.kafka_key_file}
        options |= {f"ssl.{what}.location": path for what, path in files.items() if path}
    if uses_sasl(settings):
        options["sasl.mechanism"] = settings.kafka_mechanism
        options["sasl.username"] = settings.kafka_username
        options["sasl.password"] = _password(settings)
    return options


def faust_credentials(settings: Settings) -> "CredentialsT | None":
    """The `broker_credentials` of a Faust app."""
    import faust  # takes half a second, and the command line imports this module

    context = _tls_context(settings) if uses_tls(settings) else None
    if uses_sasl(settings):
        return faust.SASLCredentials(
            username=settings.kafka_username,
            password=_password(settings),
            mechanism=settings.kafka_mechanism,
            ssl_context=context,
        )
    return None if context is None else faust.SSLCredentials(context)


@functools.cache
def _tls_context(settings: Settings) -> ssl.SSLContext:
    """Certificates are verified and host names checked: what `create_default_context` is for."""
    try:
        context = ssl.create_default_context(cafile=settings.kafka_ca_file or None)
    except OSError as error:  # ssl.SSLError is one
        raise _file_fault("kafka_ca_file", settings.kafka_ca_file, error) from None
    if settings.kafka_cert_file:
        try:
            # An empty passphrase, or OpenSSL would ask for one at the terminal.
            context.load_cert_chain(settings.kafka_cert_file, settings.kafka_key_file, password="")
        except OSError as error:
            raise _file_fault("kafka_cert_file", settings.kafka_cert_file, error) from None
    return context


@functools.cache
def _password(settings: Settings) -> str:
    if not settings.kafka_password_file:
        return settings.kafka_password
    try:
        text = Path(settings.kafka_password_file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise _file_fault("kafka_password_file", settings.kafka_password_file, error) from None
    if not text:
        raise _file_fault("kafka_password_file", settings.kafka_password_file, ValueError("the file is empty"))
    return text


def _file_fault(name: str, path: str, error: Exception) -> SettingsError:
    # A decoding error's own text quotes bytes of the file.
    reason = "not UTF-8" if isinstance(error, UnicodeDecodeError) else getattr(error, "strerror", None) or str(error)
    return SettingsError(f"{PREFIX}{name.upper()}={path!r}: {reason}")
