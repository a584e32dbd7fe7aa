"""TLS of the query service."""

import ssl

from pipeline.settings import Settings

CERT_VARIABLE, KEY_VARIABLE = "CALLSTREAM_TLS_CERT_FILE", "CALLSTREAM_TLS_KEY_FILE"


class TlsError(Exception):
    """The certificate cannot be used; the message is one line."""


def _no_password() -> str:
    raise TlsError(f"{KEY_VARIABLE}: the key has a passphrase, and nobody is there to type it")


def _check_pair(settings: Settings) -> None:
    if settings.tls_key_file and not settings.tls_cert_file:
        raise TlsError(f"{KEY_VARIABLE} needs {CERT_VARIABLE} beside it")
    if settings.tls_cert_file and not settings.tls_key_file:
        raise TlsError(f"{CERT_VARIABLE} needs {KEY_VARIABLE} beside it")


def _check_readable(variable: str, path: str) -> None:
    try:
        with open(path, "rb"):  # noqa: PTH123  # as ssl opens it
            pass
    except OSError as error:
        raise TlsError(f"{variable}={path!r} cannot be read: {error.strerror}") from None


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What to serve TLS with, None to serve without. Raises TlsError."""
    _check_pair(settings)
    if not settings.tls_cert_file:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, settings)
    return context


def load_certificate(context: ssl.SSLContext, settings: Settings) -> None:
    """Reads the certificate and its key into `context`, for new connections. Raises TlsError."""
    _check_readable(CERT_VARIABLE, settings.tls_cert_file)
    _check_readable(KEY_VARIABLE, settings.tls_key_file)
    try:
        context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file, _no_password)
    except (ssl.SSLError, ValueError) as error:
        pair = f"{CERT_VARIABLE}={settings.tls_cert_file!r} and {KEY_VARIABLE}={settings.tls_key_file!r}"
        raise TlsError(f"{pair} are no certificate and its key (PEM): {error}") from None
