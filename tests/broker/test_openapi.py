"""The OpenAPI document is true: schemathesis (https://schemathesis.readthedocs.io) tries what it says on the running system."""

import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from pipeline.settings import Settings
from tests.system import open_system, wait_url

pytestmark = pytest.mark.broker

EXAMPLES = 30  # of each operation, besides those that its document asks for
PATIENCE_S = 600


def test_schemathesis_finds_nothing(broker_bootstrap: str, tmp_path: Path) -> None:
    settings = Settings(broker=broker_bootstrap, topic_prefix=f"o{uuid.uuid4().hex[:10]}.", partitions=2, language_model="tiny")
    with open_system(settings, tmp_path) as system:
        system.start("worker")
        url = wait_url(system.start("query", "--port", "0"))
        program = str(Path(sys.executable).with_name("schemathesis"))
        options = ["--checks", "all", "--max-examples", str(EXAMPLES), "--seed", "1", "--workers", "1", "--no-color"]
        ran = subprocess.run(
            [program, "run", f"{url}/schema", *options, "--generation-database", "none", "--suppress-health-check", "all"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
        for phase in ("Coverage", "Fuzzing", "Stateful"):
            assert f"\u2705 {phase}" in ran.stdout, ran.stdout[-3000:]
