"""What becomes of requests with lists when a fault of ours meets them."""

import json
import uuid
from pathlib import Path

from agents.gender import stages
from tests.harness import Bench, bench_settings


async def test_a_fault_before_anything_was_said_fails_the_task_in_three_steps(tmp_path: Path) -> None:
    settings = bench_settings(tmp_path, blob_store="nothing://")  # no store: a fault as soon as it is opened
    task_id = str(uuid.uuid4())
    reference = {"name": f"requests/x/{task_id}", "sha256": "0" * 64, "size_bytes": 1}
    request = {"technology": "gender-identification-voiceprints", "lists": reference}
    async with Bench(settings, *stages(settings)) as bench:
        await bench.produce("requests", task_id.encode(), json.dumps(request).encode())
    records = bench.transitions()[task_id, "gender-identification-voiceprints"]
    assert [record["revision"] for record in records] == [0, 1, 2]
    assert [record["task"]["state"] for record in records] == ["pending", "running", "failed"]
    assert bench.dead_letters() == ["internal"]
