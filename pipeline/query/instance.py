"""The id of a query service, by which it knows its own blobs. Not in the view, which may be damaged and begin anew."""

import os
import re
import uuid
from pathlib import Path

FILE_NAME = "instance"
_ID = re.compile(r"[0-9a-f]{32}")


def instance_id(folder: Path) -> str:
    """The id of the service whose data folder this is, made when it is first asked for. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE_NAME
    try:
        found = path.read_text("ascii", "replace").strip()
    except FileNotFoundError:
        found = ""
    return found if _ID.fullmatch(found) else _write(path, uuid.uuid4().hex)


def _write(path: Path, made: str) -> str:
    temporary = path.with_suffix(".part")
    with temporary.open("w", encoding="ascii") as file:
        file.write(f"{made}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return made
