"""The tests' own two lanes: a file's tests are in one, and all that needs a broker in the same."""

import subprocess
import sys
from collections import defaultdict

from tests.conftest import ROOT, _lane_of

FILES = ["tests/test_ended_calls.py", "tests/test_breaker.py", "tests/test_wanted.py", "tests/test_delivery.py"]


def test_a_file_is_in_one_lane() -> None:
    command = [sys.executable, "-m", "pytest", "-n", "2", "-v", "-p", "no:cacheprovider", *FILES]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300).stdout  # whether they pass is theirs
    lanes = defaultdict(set)
    for line in shown.splitlines():
        if line.startswith("[gw") and "::" in line:
            lanes[line.split()[-1].partition("::")[0]].add(line.partition("]")[0])
    assert {file: len(used) for file, used in lanes.items()} == dict.fromkeys(FILES, 1)
    assert len(set.union(*lanes.values())) == 2


def test_what_needs_a_broker_is_in_one_lane() -> None:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "broker"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=True).stdout
    files = {line.partition("::")[0] for line in shown.splitlines() if "::" in line}
    assert len(files) > 20
    assert {_lane_of(file) for file in files} == {"broker"}
    assert _lane_of(FILES[0]) == FILES[0]
