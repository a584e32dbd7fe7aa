#!/usr/bin/env bash
# Prints the first Python 3.11-3.13 that can make virtual environments; fails with one line when there is none.
# With --without-venv, one that lacks them will do.
set -euo pipefail

modules="sys, ensurepip, venv"
[ "${1:-}" != --without-venv ] || modules="sys"
for name in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
  # Run it: a version manager's shim may stand on PATH for a Python that is not there.
  if path=$("$name" -c "import $modules
assert (3, 11) <= sys.version_info < (3, 14)
print(sys.executable)" 2>/dev/null); then
    echo "$path"
    exit 0
  fi
done
echo "callstream: no Python 3.11-3.13 with venv is found; install one and name it by PYTHON=/path/to/python" >&2
exit 1
