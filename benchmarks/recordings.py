"""Recordings to measure with, where they are."""

import sys
from pathlib import Path


def listed(name: str) -> Path | None:
    """A list in the folder that the command line names first, by default ../shared/speech beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "speech"
    manifest = (Path(sys.argv[1]) if len(sys.argv) > 1 else default) / name
    if manifest.is_file():
        return manifest
    print(f"no {name} in {manifest.parent}: nothing measured")
    return None
