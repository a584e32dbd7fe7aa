"""Claim check for what is larger than a record: the record carries a reference, the store the bytes.

Workers and query services share the store: a folder (`LocalBlobs`), or anything that speaks S3 (`pipeline.object_blobs`).
Names are `requests/…` for what a task was started from and `results/…` for what came of it.
"""

import contextlib
import errno
import functools
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from pipeline.settings import Settings
from schemas.requests import BlobRef

FOLDER_NAME = "blobs"
REQUESTS, RESULTS = "requests", "results"
READ_BYTES = 1_048_576

_PARTIAL = ".part-"
_PLAIN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(rf"(?:{REQUESTS}|{RESULTS})(?:/{_PLAIN}){{0,2}}/(?:{_PLAIN}|{re.escape(_PARTIAL)}\w{{1,32}})", re.ASCII)


class BlobError(Exception):
    """A blob is not there, or is not what its reference says; the message says which and why. It will not come back."""


class Blob(NamedTuple):
    """One entry of the store."""

    name: str
    size_bytes: int
    modified_s: float  # Unix time


class BlobStore(Protocol):
    """Bytes under a name, each written once. Every method may block, and raises OSError when the store does not answer."""

    def put(self, name: str, content: bytes) -> None:
        """Keep the content; nothing half-written is ever found under the name."""

    def put_file(self, name: str, path: Path) -> None:
        """Keep the content of a file in the scratch folder; the file is gone afterwards."""

    def size_bytes(self, name: str) -> int:
        """How long the blob is. Raises BlobError when it is not there."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """The content, piece by piece. Raises BlobError when it is not there."""

    def local(self, name: str) -> contextlib.AbstractContextManager[Path]:
        """The content as a file to read, as long as the context lasts. Raises BlobError when it is not there."""

    def delete(self, name: str) -> None:
        """Forget the blob, if it is there."""

    def entries(self) -> Iterator[Blob]:
        """Everything in the store."""


def checked(name: str) -> str:
    """A name that leads nowhere else. Raises BlobError."""
    if not _NAME.fullmatch(name):
        raise BlobError(f"blob name {name[:200]!r} leads out of the store: refused")
    return name


def result_name(task_id: str, content: bytes) -> str:
    """Where a task's result is kept; the same result has the same name."""
    return f"{RESULTS}/{task_id}-{hashlib.sha256(content).hexdigest()[:32]}"


def scratch_folder(settings: Settings) -> Path:
    """Where files are made before they are blobs, and where remote blobs are read; made if it is not there."""
    folder = Path(settings.data_dir) / "scratch"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.lru_cache(maxsize=16)
def open_blobs(settings: Settings) -> BlobStore:
    """The store of the settings. Raises OSError when its address cannot be one."""
    if "://" in settings.blob_store:
        from pipeline.object_blobs import ObjectBlobs  # most need no object store

        return ObjectBlobs(settings.blob_store, scratch_folder(settings))
    return LocalBlobs(Path(settings.blob_store or Path(settings.data_dir) / FOLDER_NAME))


def read_checked(store: BlobStore, reference: BlobRef) -> bytes:
    """The content that a reference names. Raises BlobError when it is missing or another."""
    content = b"".join(store.chunks(reference.name))
    if hashlib.sha256(content).hexdigest() != reference.sha256:
        raise BlobError(f"blob {reference.name} has {len(content)} bytes that are not those that were put there")
    return content


class LocalBlobs:
    """Blobs as files below a folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._was_there = False

    def put(self, name: str, content: bytes) -> None:
        """Write, sync, rename."""
        target = self._target(name)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=_PARTIAL)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            self._adopt(Path(temporary), target)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise

    def put_file(self, name: str, path: Path) -> None:
        """Rename when the scratch folder is on the same disk, else copy."""
        target = self._target(name)
        if os.stat(path).st_dev != os.stat(target.parent).st_dev:  # noqa: PTH116
            self.put(name, path.read_bytes())
            path.unlink()
            return
        self._adopt(path, target)

    def _adopt(self, path: Path, target: Path) -> None:
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(target)
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _target(self, name: str) -> Path:
        target = self._root / checked(name)
        if self._was_there:
            self._check_there()
        target.parent.mkdir(parents=True, exist_ok=True)
        self._was_there = True
        return target

    def _check_there(self) -> None:
        """A folder that is not mounted holds nothing: that says nothing of its blobs. Raises OSError."""
        if not any((self._root / kind).is_dir() for kind in (REQUESTS, RESULTS)):
            raise FileNotFoundError(errno.ENOENT, "there is no blob store (is it mounted?)", str(self._root))

    def _found(self, name: str) -> Path:
        path = self._root / checked(name)
        if path.is_symlink() or not path.is_file():
            self._check_there()
            raise BlobError(f"blob {name} is not in {self._root}")
        return path

    def size_bytes(self, name: str) -> int:
        """How long the file is."""
        return self._found(name).stat().st_size

    def chunks(self, name: str) -> Iterator[bytes]:
        """Read the file."""
        with self._found(name).open("rb") as file:
            while piece := file.read(READ_BYTES):
                yield piece

    @contextlib.contextmanager
    def local(self, name: str) -> Iterator[Path]:
        """The file itself."""
        yield self._found(name)

    def delete(self, name: str) -> None:
        """Remove the file; folders stay."""
        (self._root / checked(name)).unlink(missing_ok=True)

    def entries(self) -> Iterator[Blob]:
        """Every file; half-written ones too, under a name that no reference has."""
        for path in self._root.rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                found = path.lstat()
                if not path.is_dir():
                    yield Blob(str(path.relative_to(self._root)), found.st_size, found.st_mtime)
