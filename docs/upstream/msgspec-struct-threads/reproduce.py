"""Do two threads that are the first to decode a Struct type survive it? A child process tries, since it may crash."""

import subprocess
import sys

ROUNDS = 1000
CHILD = f"""
import sys, threading
import msgspec

sys.setswitchinterval(1e-6)
for _ in range({ROUNDS}):
    class Inner(msgspec.Struct):
        number: int
        lists: dict[str, list[int]]

    class Outer(msgspec.Struct):
        inner: list[Inner]

    barrier = threading.Barrier(2)

    def decode():
        barrier.wait()
        msgspec.json.decode(b'{{"inner": [{{"number": 1, "lists": {{"a": [1]}}}}]}}', type=Outer)

    threads = [threading.Thread(target=decode) for _ in range(2)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
"""

code = subprocess.run([sys.executable, "-c", CHILD], check=False).returncode
print(f"{ROUNDS} new types, two threads each: the process ended with {code}" + (" (a signal)" if code < 0 else ""))
print("REPRODUCED" if code < 0 else "not reproduced")
sys.exit(0 if code < 0 else 1)
