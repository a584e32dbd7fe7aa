"""A Kafka with a listener of each kind, its certificates and its users, made at run time."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # no __all__
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from pipeline.broker import EmbeddedBroker
from pipeline.broker.config import Listener, Membership, Node
from pipeline.broker.kafka import new_cluster_id
from pipeline.broker.ports import free_port
from pipeline.settings import Settings

USER, PASSWORD = "ann=a,b", 'p"a=s,s w\\ord ☎'
PLAIN_USER, PLAIN_PASSWORD = "bob", "builder's"
KINDS = ("SSL", "SASL_PLAINTEXT", "SASL_SSL")
_AUTHORITY = ("basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign", "subjectKeyIdentifier=hash")
_LEAF = ("basicConstraints=CA:FALSE", "subjectKeyIdentifier=hash", "authorityKeyIdentifier=keyid")
_MODULES = "org.apache.kafka.common.security"


class Authority:
    """A certificate authority in a folder; certificates are `<name>.pem` there, their keys `<name>.key`."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.folder = folder
        (folder / "openssl.cnf").write_text("[req]\ndistinguished_name = name\n[name]\n")
        self._make("authority", *_AUTHORITY)

    @property
    def certificate(self) -> Path:
        return self.folder / "authority.pem"

    def issue(self, name: str, *extensions: str) -> tuple[Path, Path]:
        """A certificate and its key."""
        self._make(name, *_LEAF, *extensions, signed=True)
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _make(self, name: str, *extensions: str, signed: bool = False) -> None:
        command = ["openssl", "req", "-config", "openssl.cnf", "-x509", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        command += [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
        ]
        command += ["-CA", "authority.pem", "-CAkey", "authority.key"] if signed else []
        command += [word for extension in extensions for word in ("-addext", extension)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr


@dataclass(frozen=True)
class Secured:
    """What a client needs to know."""

    plain: Settings  # the listener without anything
    authority: Authority
    ports: dict[str, int]

    def settings(self, kind: str, host: str = "localhost", **changed: str) -> Settings:
        """How to connect through the listener of this kind."""
        values = {"broker": f"{host}:{self.ports[kind]}", "kafka_security": kind}
        if kind.endswith("SSL"):
            values["kafka_ca_file"] = str(self.authority.certificate)
        if kind.startswith("SASL_"):
            values |= {"kafka_username": USER, "kafka_password": PASSWORD}
        return msgspec.structs.replace(self.plain, **(values | changed))


@contextlib.contextmanager
def open_secured(cache_dir: Path, folder: Path) -> Iterator[Secured]:
    authority = Authority(folder / "certificates")
    ports: list[int] = []
    while len(ports) < 2 + len(KINDS):
        ports.append(free_port(*ports))
    listeners = [Listener(kind, port) for kind, port in zip(KINDS, ports[2:], strict=True)]
    node = Node(1, ports[0], ports[1], listeners)
    membership = Membership(node, [node], new_cluster_id())
    with EmbeddedBroker(cache_dir, membership=membership, properties=_properties(authority)) as broker:
        _add_user(broker.bootstrap)
        plain = Settings(broker=broker.bootstrap, partitions=1, language_model="tiny")
        yield Secured(plain, authority, dict(zip(KINDS, ports[2:], strict=True)))


def _properties(authority: Authority) -> dict[str, str]:
    certificate, key = authority.issue("broker", "subjectAltName=DNS:localhost")
    store = authority.folder / "broker-store.pem"
    store.write_text(key.read_text() + certificate.read_text())
    plain = f'{_MODULES}.plain.PlainLoginModule required user_{PLAIN_USER}="{PLAIN_PASSWORD}";'
    found = {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority.certificate),
        "listener.name.ssl.ssl.client.auth": "required",
        "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
    }
    for kind in ("sasl_plaintext", "sasl_ssl"):
        found[f"listener.name.{kind}.plain.sasl.jaas.config"] = plain
        for mechanism in ("scram-sha-256", "scram-sha-512"):
            found[f"listener.name.{kind}.{mechanism}.sasl.jaas.config"] = f"{_MODULES}.scram.ScramLoginModule required;"
    return found


def _add_user(bootstrap: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
        how = ScramCredentialInfo(mechanism, 4096)
        change = UserScramCredentialUpsertion(USER, how, PASSWORD.encode())
        admin.alter_user_scram_credentials([change])[USER].result(timeout=60)
