"""msgspec 0.22 crashes when two threads are the first to read a type: every type that threads read is prepared at import."""

import subprocess
import sys

SCRIPT = """
import sys, threading
sys.setswitchinterval(1e-6)
from pipeline.models.manifest import load_manifest
from pipeline.models.verification import references
from pipeline.scoring.calibration import built_in_comparison, built_in_gender
from pipeline.scoring.profile import load_profile
barrier = threading.Barrier(4)

def read():
    barrier.wait()
    load_manifest(), references.__wrapped__(), built_in_gender.__wrapped__(), built_in_comparison.__wrapped__()
    load_profile.__wrapped__("")

threads = [threading.Thread(target=read) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_threads_may_be_the_first_to_read_manifest_references_and_weights() -> None:
    for _ in range(6):
        assert subprocess.run([sys.executable, "-c", SCRIPT], check=False).returncode == 0
