"""API keys in files and variables, and the commands that make and list them."""

import logging
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline.query.keys import Keyring, KeysError, digest_of, is_name, new_key
from pipeline.query.owners import Caller
from pipeline.query.server import run
from pipeline.settings import Settings
from tests.query.conftest import replaced
from tests.query.keyrings import digest, keys_toml

CLI = [sys.executable, "-m", "pipeline.cli"]


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    file = tmp_path / "keys.toml"
    file.write_text(keys_toml("one", "two"))
    return file


@pytest.fixture
def settings(settings: Settings, keys_file: Path) -> Settings:
    return replaced(settings, api_keys_file=str(keys_file))


GOOD = digest("one")
BAD_FILES = {
    "": "tables",
    "[other]\nx = 1": "tables",
    "keys = 3": "tables",
    "[keys]": "tables",
    f'[keys.one]\nsha256 = "{GOOD}"\n[more]': "tables",
    "[keys.one": "no TOML",
    f'[keys.one]\nsha256 = "{GOOD}"\n[keys.one]\nsha256 = "{GOOD}"': "no TOML",
    "[keys.one]": "[keys.one]",
    '[keys.one]\nsha256 = "cs_one"': "[keys.one]",
    f'[keys.one]\nsha256 = "{GOOD}\\n"': "[keys.one]",
    f'[keys.one]\nsha256 = "{GOOD}"\nrate_limt = 1': "rate_limt",
    f'[keys.one]\nsha256 = "{GOOD}"\nrate_limit = -1': "rate_limit",
    f'[keys.one]\nsha256 = "{GOOD}"\ncalls = "no"': "calls",
    f'[keys.One]\nsha256 = "{GOOD}"': "'One'",
    f'[keys."one\\n"]\nsha256 = "{GOOD}"': "name",
    f'[keys.one]\nsha256 = "{GOOD}"\n[keys.two]\nsha256 = "{GOOD.upper()}"': "another",
}


@pytest.mark.parametrize("content", BAD_FILES)
def test_a_bad_file_is_one_clear_line(
    settings: Settings, keys_file: Path, content: str, capfd: pytest.CaptureFixture[str]
) -> None:
    keys_file.write_text(content)
    assert run(settings) == 2
    [line] = capfd.readouterr().err.splitlines()
    assert BAD_FILES[content] in line
    assert "cs_one" not in line


def test_a_file_that_is_missing_or_no_text(settings: Settings, keys_file: Path, tmp_path: Path) -> None:
    keys_file.write_bytes(b"\xff")
    with pytest.raises(KeysError, match="no TOML"):
        Keyring(settings)
    with pytest.raises(KeysError, match="cannot be read"):
        Keyring(replaced(settings, api_keys_file=str(tmp_path)))


def test_keys_without_a_file(settings: Settings) -> None:
    both = f" one:{digest('one')}, two:{digest('two').upper()}"
    ring = Keyring(replaced(settings, api_keys_file="", api_keys=both))
    assert ring.find(b"cs_one") == Caller("one", sees_calls=True)
    assert ring.find(b"cs_two") == Caller("two", sees_calls=True)
    assert ring.find(b"") is None
    for wrong in ("cs_one", "one:cs_one", "one", f"one:{GOOD},", f"One:{GOOD}", f":{GOOD}"):
        with pytest.raises(KeysError) as fault:
            Keyring(replaced(settings, api_keys_file="", api_keys=wrong))
        assert "cs_one" not in str(fault.value)
    with pytest.raises(KeysError, match="two API keys one"):
        Keyring(replaced(settings, api_keys=f"one:{digest('two')}"))


def test_a_bad_file_changes_nothing_later(settings: Settings, keys_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    ring = Keyring(settings)
    keys_file.write_text("[keys.one")
    ring.reload()
    assert ring.find(b"cs_two") is not None
    [record] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert "stay as they were" in record.getMessage()
    keys_file.write_text(keys_toml("one", one="rate_limit = 7\nconcurrency = 8\nopen_tasks = 9"))
    ring.reload()
    assert ring.find(b"cs_two") is None
    assert ring.find(b"cs_one") == Caller("one", sees_calls=True, rate_limit=7, concurrency=8)
    assert (ring.open_tasks_of("one"), ring.open_tasks_of("two"), ring.open_tasks_of(None)) == (9, 0, 0)


@pytest.mark.parametrize("content", ["", "[keys]"])
def test_an_emptied_file_takes_all_keys_away(settings: Settings, keys_file: Path, content: str) -> None:
    ring = Keyring(settings)
    keys_file.write_text(content)
    ring.reload()
    assert ring.find(b"cs_one") is None
    assert not ring.is_empty  # or everybody could come in without one


@pytest.mark.parametrize("name", ["a", "0", "crm-2", "a.b_c-d", "x" * 64])
def test_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "-a", ".a", "A", "a b", "a\n", "é", "x" * 65])
def test_no_names(name: str) -> None:
    assert not is_name(name)


def cli(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *arguments], env=os.environ | environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("name", ["crm", "crm.2"])
def test_the_command_makes_a_key(name: str, settings: Settings, keys_file: Path) -> None:
    made = cli("keys", "new", name)
    assert made.returncode == 0
    [key] = re.findall(r"cs_\S{43}", made.stderr)
    assert key not in made.stdout
    assert tomllib.loads(made.stdout) == {"keys": {name: {"sha256": digest_of(key.encode())}}}
    keys_file.write_text(made.stdout)
    assert Keyring(settings).find(key.encode()) == Caller(name, sees_calls=True)


def test_the_command_refuses_a_bad_name() -> None:
    assert cli("keys", "new", "Crm").returncode == 2


def test_the_command_lists_keys(keys_file: Path) -> None:
    keys_file.write_text(keys_toml("one", "two", one="rate_limit = 5", two="calls = false"))
    listed = cli("keys", "list", CALLSTREAM_API_KEYS_FILE=str(keys_file))
    assert listed.stdout.splitlines() == ["one  rate_limit=5  calls=true", "two  calls=false"]
    keys_file.write_text("[keys.")
    bad = cli("keys", "list", CALLSTREAM_API_KEYS_FILE=str(keys_file))
    assert (bad.returncode, len(bad.stderr.splitlines())) == (2, 1)
    assert cli("keys", "list").stdout == ""


def test_keys_are_random() -> None:
    assert len({new_key() for _ in range(100)}) == 100
