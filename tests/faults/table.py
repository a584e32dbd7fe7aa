"""The table of a suite's runs, from its report: `python -m tests.faults.table build/faults.jsonl`."""

import json
import sys
from pathlib import Path

COLUMNS = {
    "run": "test",
    "seed": "seed",
    "faults": "faults",
    "calls": "calls",
    "tasks": "tasks",
    "lost": "lost",
    "conflicting": "conflicting",
    "different": "different",
    "twice on results": "duplicate_results",
    "twice on speech": "duplicate_speech",
    "twice on prints": "duplicate_prints",
    "dead letters": "dead_letters",
    "restarts": "restarts",
    "s": "seconds",
}


def table(lines: list[str]) -> str:
    """Markdown, a row a run."""
    rows = [json.loads(line) for line in lines]
    cells = [[_cell(row, name) for name in COLUMNS.values()] for row in rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in [list(COLUMNS), ["---"] * len(COLUMNS), *cells])


def _cell(row: dict[str, object], name: str) -> str:
    text = str(row.get(name, ""))
    return text.removeprefix("test_").partition("[")[0].replace("_", " ") if name == "test" else text


if __name__ == "__main__":
    report = Path(sys.argv[1])
    sys.stdout.write(table(report.read_text().splitlines() if report.exists() else []) + "\n")
