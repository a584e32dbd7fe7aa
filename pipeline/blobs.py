"""Claim check for results larger than a record: the record carries a reference, a local folder the bytes.

Workers and the query service share the folder. Files are named by their content, so that a repeated result is one file.
"""

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

FOLDER_NAME = "blobs"


class BlobStore:
    """Blobs below `data_dir`."""

    def __init__(self, data_dir: Path) -> None:
        self._root = data_dir / FOLDER_NAME

    def put(self, content: bytes) -> str:
        """Keep the content; give its reference. Raises OSError; a half-written file is never left under a reference."""
        reference = f"sha256-{hashlib.sha256(content).hexdigest()}"
        target = self._root / reference
        if target.exists():
            return reference
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=self._root, prefix=".part-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(target)
        except OSError:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
            raise
        return reference
