"""What tests of the whole product stand on: the settings of a system reach the processes that it starts."""

from pathlib import Path

import msgspec

from pipeline.settings import Settings, load
from tests.system import System


def test_every_setting_of_a_system_reaches_its_processes(tmp_path: Path) -> None:
    """Also those that have their default, whatever the environment of the tests says; but for the folder of models."""
    settings = Settings(
        broker="127.0.0.1:1", inference_batch=4, idle_timeout_s=0.5, dead_letter_ratio=0.25, kafka_ca_file=__file__, port=0
    )
    outside = {"CALLSTREAM_PARTITIONS": "3", "CALLSTREAM_INFERENCE_BATCH": "1", "CALLSTREAM_CACHE_DIR": "models"}
    found = load(outside | System(settings, tmp_path).environment)
    assert found == msgspec.structs.replace(settings, data_dir=str(tmp_path / "data"), cache_dir="models")
