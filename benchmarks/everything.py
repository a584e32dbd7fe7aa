"""Run benchmarks one after the other; keep what they print as Markdown, and their tables as JSON.

    python -m benchmarks.everything [NAME ...]

Into `build/bench.md` and `build/bench.json`: by benchmark, its tables as lists of rows by column. 1 when one failed. Those that
need recordings of speech, `enough`, `calibration` and `vad`, run only when they are named.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.machine import describe

NAMES = (
    "peers",
    "chain",
    "batch",
    "live",
    "scale",
    "startup",
    "memory",
    "query",
    "starting",
    "recovery",
    "guard",
)
OUTPUT = Path("build")
_RULE = re.compile(r"\|(?::?-+:?\|)+$")


def tables(markdown: str) -> Iterator[list[dict[str, str]]]:
    """The tables of a text, each as its rows by column."""
    lines = [line.strip() for line in markdown.splitlines()]
    for at, line in enumerate(lines):
        if at and _RULE.match(line.replace(" ", "")):
            columns = _cells(lines[at - 1])
            rows = []
            for row in lines[at + 1 :]:
                if not row.startswith("|"):
                    break
                rows.append(dict(zip(columns, _cells(row), strict=False)))
            yield rows


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def run(name: str) -> tuple[str, bool]:
    """What a benchmark printed, shown as it comes; whether it ended well."""
    print(f"\n## {name}\n", flush=True)
    said = []
    with subprocess.Popen([sys.executable, "-m", f"benchmarks.{name}"], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            said.append(line)
    return "".join(said), process.returncode == 0


def main() -> int:
    """Run them, and write what they said."""
    OUTPUT.mkdir(exist_ok=True)
    said = {name: run(name) for name in sys.argv[1:] or NAMES}
    text = "\n".join(f"## {name}\n\n{printed}" for name, (printed, _) in said.items())
    (OUTPUT / "bench.md").write_text(text, encoding="utf-8")
    found = {name: {"ended_well": well, "tables": list(tables(printed))} for name, (printed, well) in said.items()}
    (OUTPUT / "bench.json").write_text(json.dumps({"machine": describe(), "benchmarks": found}, indent=1), encoding="utf-8")
    return int(not all(well for _, well in said.values()))


if __name__ == "__main__":
    sys.exit(main())
