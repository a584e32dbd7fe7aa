"""HTTPS, with a certificate made for the occasion."""

import logging
import shutil
import ssl
import subprocess
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx
import pytest

from pipeline.query.server import Access, run, serving
from pipeline.query.tls import TlsError, tls_context
from pipeline.settings import Settings
from tests.query.conftest import replaced

PATIENCE_S = 15.0  # half of what asyncio waits for the client's last word

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")


class Pair(NamedTuple):
    cert: Path
    key: Path

    def put_into(self, settings: Settings) -> Settings:
        return replaced(settings, tls_cert_file=str(self.cert), tls_key_file=str(self.key))


def make(folder: Path, name: str, *options: str) -> Pair:
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", *(options or ["-nodes"])]
    subprocess.run([*command, "-out", pair.cert, "-keyout", pair.key], check=True, capture_output=True)
    return pair


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return make(tmp_path, "query")


def trusting(pair: Pair) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pair.cert))


async def test_https(settings: Settings, pair: Pair) -> None:
    async with serving(pair.put_into(settings)) as (url, _):
        assert urlsplit(url).scheme == "https"
        async with httpx.AsyncClient(verify=trusting(pair)) as client:
            assert (await client.get(f"{url}/health")).json() == {"status": "up"}
        async with httpx.AsyncClient() as stranger:
            with pytest.raises(httpx.ConnectError, match="certificate verify failed"):
                await stranger.get(f"{url}/health")
            with pytest.raises(httpx.TransportError):
                await stranger.get(f"{url.replace('https', 'http')}/health")


async def test_only_tls_1_2_and_later(settings: Settings, pair: Pair) -> None:
    async with serving(pair.put_into(settings)) as (url, _):
        for version, is_taken in (
            (ssl.TLSVersion.TLSv1_1, False),
            (ssl.TLSVersion.TLSv1_2, True),
            (ssl.TLSVersion.TLSv1_3, True),
        ):
            context = trusting(pair)
            context.set_ciphers("ALL:@SECLEVEL=0")  # so that it is the service that refuses
            context.minimum_version = context.maximum_version = version
            async with httpx.AsyncClient(verify=context) as client:
                if is_taken:
                    assert (await client.get(f"{url}/health")).status_code == 200
                else:
                    with pytest.raises(httpx.ConnectError):
                        await client.get(f"{url}/health")


@pytest.mark.parametrize("missing", ["tls_cert_file", "tls_key_file"])
def test_one_without_the_other_is_one_clear_line(
    settings: Settings, pair: Pair, missing: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(replaced(pair.put_into(settings), **{missing: ""})) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert f"CALLSTREAM_{missing.upper()}" in line


def test_files_that_cannot_be_used(settings: Settings, pair: Pair, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    other, locked = make(tmp_path, "other"), make(tmp_path, "locked", "-passout", "pass:secret")
    (tmp_path / "empty").write_text("")
    wrong = {
        Pair(tmp_path / "nowhere", pair.key): "cannot be read",
        Pair(pair.cert, tmp_path): "cannot be read",
        Pair(tmp_path / "empty", pair.key): "(PEM)",
        Pair(pair.key, pair.cert): "(PEM)",
        Pair(pair.cert, other.key): "(PEM)",
        locked: "passphrase",
    }
    for bad, reason in wrong.items():
        assert run(bad.put_into(settings)) == 2
        [line] = capfd.readouterr().err.splitlines()
        assert reason in line


def test_no_tls_unless_it_is_asked_for(settings: Settings) -> None:
    assert tls_context(settings) is None


async def test_a_new_certificate_is_read_while_it_runs(
    settings: Settings, pair: Pair, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = make(tmp_path, "fresh")
    with_tls = pair.put_into(settings)
    access = Access(with_tls)
    async with serving(with_tls, access) as (url, _):
        pair.cert.write_bytes(fresh.cert.read_bytes())
        access.reload()  # the key is still the old one
        assert "stays as it was" in caplog.text
        pair.key.write_bytes(fresh.key.read_bytes())
        access.reload()
        assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1
        async with httpx.AsyncClient(verify=trusting(fresh)) as client:
            assert (await client.get(f"{url}/health")).status_code == 200


async def test_an_idle_client_does_not_hold_up_the_end(settings: Settings, pair: Pair) -> None:
    async with httpx.AsyncClient(verify=trusting(pair)) as client:
        async with serving(pair.put_into(settings)) as (url, _):
            assert (await client.get(f"{url}/health")).status_code == 200
            began_s = time.monotonic()
        assert time.monotonic() - began_s < PATIENCE_S


def test_a_key_without_its_certificate_does_not_load(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(TlsError):
        tls_context(Pair(tmp_path / "a", tmp_path / "b").put_into(settings))
