"""Results too large for a record: `result_ref` names a file, here below a local folder."""

from collections.abc import Callable
from pathlib import Path

from pipeline.blobs import FOLDER_NAME

Resolve = Callable[[str], bytes]


class BlobError(Exception):
    """A result that is kept outside the record cannot be read; the message says which and why."""


def local_resolver(data_dir: Path) -> Resolve:
    """Reads `data_dir/blobs/<reference>`; the reference may not lead out of that folder."""
    root = (data_dir / FOLDER_NAME).resolve()

    def resolve(reference: str) -> bytes:
        try:
            path = (root / reference).resolve()
            if path == root or not path.is_relative_to(root):
                raise BlobError(f"result reference {reference!r} leads out of the blob folder: refused")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise BlobError(f"result reference {reference!r} cannot be read from {root}: {error}") from error

    return resolve
