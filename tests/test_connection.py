"""The settings of the connection to Kafka: what goes together, and what each client is told."""

from pathlib import Path

import pytest

from pipeline.connection import aiokafka_options, check, faust_credentials, librdkafka_options
from pipeline.settings import Settings, SettingsError, load

SECRET = "swordfish"
SASL = {"KAFKA_SECURITY": "SASL_SSL", "KAFKA_USERNAME": "ann"}


def loaded(**given: str) -> Settings:
    return load({f"CALLSTREAM_{name}": value for name, value in given.items()})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"KAFKA_SECURITY": "TLS"}, "KAFKA_SECURITY"),
        ({"KAFKA_MECHANISM": "GSSAPI"}, "KAFKA_MECHANISM"),
        ({"KAFKA_SECURITY": "SASL_SSL", "KAFKA_PASSWORD": SECRET}, "KAFKA_USERNAME"),
        (SASL, "KAFKA_PASSWORD"),
        ({**SASL, "KAFKA_PASSWORD": SECRET, "KAFKA_PASSWORD_FILE": __file__}, "KAFKA_PASSWORD"),
        ({**SASL, "KAFKA_PASSWORD_FILE": "/no/such"}, "KAFKA_PASSWORD_FILE"),
        ({"KAFKA_SECURITY": "SSL", "KAFKA_CA_FILE": "/no/such"}, "KAFKA_CA_FILE"),
        ({"KAFKA_SECURITY": "SSL", "KAFKA_CA_FILE": "/"}, "KAFKA_CA_FILE"),
        ({"KAFKA_SECURITY": "SSL", "KAFKA_CA_FILE": __file__}, "KAFKA_CA_FILE"),
        ({"KAFKA_SECURITY": "SSL", "KAFKA_CERT_FILE": __file__}, "KAFKA_KEY_FILE"),
        ({"KAFKA_SECURITY": "SSL", "KAFKA_KEY_FILE": __file__}, "KAFKA_CERT_FILE"),
        ({"KAFKA_SECURITY": "SSL", "KAFKA_CERT_FILE": __file__, "KAFKA_KEY_FILE": __file__}, "KAFKA_CERT_FILE"),
    ],
)
def test_what_does_not_go_together_is_one_line_that_names_the_variable(given: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check(loaded(**given))
    assert str(caught.value).startswith(f"CALLSTREAM_{named}")
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_a_password_file_that_holds_no_password_is_refused_at_the_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "password").write_bytes(content)
    with pytest.raises(SettingsError, match="CALLSTREAM_KAFKA_PASSWORD_FILE"):
        check(loaded(**SASL, KAFKA_PASSWORD_FILE=str(tmp_path / "password")))


def test_a_password_is_never_shown_and_reaches_every_client() -> None:
    settings = loaded(**SASL, KAFKA_PASSWORD=SECRET)
    assert SECRET not in repr(settings)
    assert "kafka_username='ann'" in repr(settings)
    assert "kafka_password=''" in repr(Settings())
    assert ("kafka_password", "***") in settings.__rich_repr__()
    assert SECRET not in repr(settings.__rich_repr__())
    assert SECRET not in repr(faust_credentials(settings))
    assert aiokafka_options(settings)["sasl_plain_password"] == SECRET
    assert librdkafka_options(settings)["sasl.password"] == SECRET


def test_certificates_are_verified_and_host_names_checked() -> None:
    settings = loaded(KAFKA_SECURITY="SSL")
    assert aiokafka_options(settings)["ssl_context"].check_hostname
    assert librdkafka_options(settings)["ssl.endpoint.identification.algorithm"] == "https"


def test_without_settings_nothing_is_asked_of_a_connection() -> None:
    assert aiokafka_options(Settings()) == {"bootstrap_servers": "localhost:9092", "security_protocol": "PLAINTEXT"}
    assert faust_credentials(Settings()) is None
