"""What code that a file brings to run can do in a child: answer, and nothing else. A real process, confined as they are."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.media import system_calls

pytestmark = pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="there is no filter for this machine")

# Runs as a child of the fork server would, and tells on its output what each attempt came to.
CHILD = """
import ctypes, json, os, socket, sys, time
from pipeline.media import child
from pipeline.media.wire import DecodeLimits

victim, file, parent, output = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
child._keep_only(os.open(file, os.O_RDONLY), output)
libc = ctypes.CDLL(None, use_errno=True)
if not child._confine(DecodeLimits(), parent):
    os._exit(9)
os.close(0)  # or the limit of open files would refuse what the filter has to


def raw(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")


attempts = {
    "read": lambda: os.open(victim, os.O_RDONLY),
    "truncate by opening": lambda: os.open(victim, os.O_WRONLY | os.O_TRUNC),
    "truncate": lambda: os.truncate(victim, 0),
    "environment of the parent": lambda: os.open(f"/proc/{parent}/environ", os.O_RDONLY),
    "unlink": lambda: os.unlink(victim),
    "rename": lambda: os.rename(victim, victim + "2"),
    "make": lambda: os.mkdir(victim + "3"),
    "chmod": lambda: os.chmod(victim, 0o777),
    "list": lambda: os.listdir("/"),
    "unix socket": lambda: socket.socket(socket.AF_UNIX),
    "internet socket": lambda: socket.socket(socket.AF_INET),
    "signal": lambda: os.kill(parent, 0),
    "fork": os.fork,
    "exec": lambda: os.execv("/bin/true", ["true"]),
    "memory file": lambda: os.memfd_create("x"),
    "limits": lambda: os.setpriority(os.PRIO_PROCESS, 0, 5),
    "trace": lambda: raw(101 if os.uname().machine == "x86_64" else 117, 16, parent, 0, 0),
    "calls of x32": lambda: raw(0x40000000 + 2, victim.encode(), 0),
}
found = {}
for name, attempt in attempts.items():
    try:
        attempt()
        found[name] = "done"
    except OSError as error:
        found[name] = error.errno
found["can read its file"] = os.pread(3, 4, 0).decode()
found["has memory"] = len(bytearray(50_000_000))
time.sleep(0.01)
os.write(4, json.dumps(found).encode())
os._exit(0)
"""


def test_nothing_is_left_but_to_answer(tmp_path: Path) -> None:
    victim, file = tmp_path / "victim", tmp_path / "file"
    victim.write_text("precious")
    file.write_text("RIFF and so on")
    reading, writing = os.pipe()
    command = [sys.executable, "-c", CHILD, str(victim), str(file), str(os.getpid()), str(writing)]
    with os.fdopen(reading) as answer:
        done = subprocess.run(command, pass_fds=[writing], timeout=60, capture_output=True, check=False)
        os.close(writing)
        found = json.loads(answer.read())
    assert done.returncode == 0, done.stderr
    assert found.pop("can read its file") == "RIFF"
    assert found.pop("has memory") == 50_000_000
    assert set(found.values()) == {1}, found  # EPERM
    assert victim.read_text() == "precious"
    assert {path.name for path in tmp_path.iterdir()} == {"victim", "file"}


def test_a_machine_without_such_filters_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system_calls, "_MACHINES", {})
    assert not system_calls.restrict()
