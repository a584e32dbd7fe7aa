"""Claim check for what is larger than a record: the record carries a reference, the store the bytes.

Workers and query services share the store: a folder (`LocalBlobs`), or anything that speaks S3 (`pipeline.object_blobs`).
Names are `requests/INSTANCE/TASK` for what a task was started from, with the id of the query service that took it, and
`results/INSTALLATION/TASK-HASH` for what came of it. The release before these names wrote results as `sha256-HASH`.
"""

import contextlib
import errno
import functools
import hashlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, Protocol

from pipeline.settings import Settings
from schemas.requests import BlobRef

FOLDER_NAME = "blobs"
REQUESTS, RESULTS = "requests", "results"
READ_BYTES = 1_048_576

PARTIAL = ".part-"
_PLAIN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(rf"(?:{REQUESTS}|{RESULTS})(?:/{_PLAIN}){{0,2}}/(?:{_PLAIN}|{re.escape(PARTIAL)}\w{{1,32}})", re.ASCII)
_OLD_RESULT = re.compile(r"sha256-[0-9a-f]{64}")


class BlobError(Exception):
    """A blob is not there, or is not what its reference says; the message says which and why. It will not come back."""


class Blob(NamedTuple):
    """One entry of the store."""

    name: str
    size_bytes: int
    modified_s: float  # Unix time


class BlobStore(Protocol):
    """Bytes under a name, each written once. Every method may block, and raises OSError when the store does not answer."""

    def prepare(self) -> None:
        """Make the store what readers can tell from one that is not there."""

    installation: str  # whose results are kept in it by those who use this object

    def put(self, name: str, content: bytes) -> None:
        """Keep the content; nothing half-written is ever found under the name."""

    def put_file(self, name: str, path: Path) -> None:
        """Keep the content of a file in the scratch folder; the file is gone afterwards."""

    def size_bytes(self, name: str) -> int:
        """How long the blob is. Raises BlobError when it is not there."""

    def entry(self, name: str) -> Blob:
        """What `entries` says of it, but for fractions of a second. Raises BlobError when it is not there."""

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
    if not (_NAME.fullmatch(name) or is_old_result(name)):
        raise BlobError(f"blob name {name[:200]!r} leads out of the store: refused")
    return name


def is_old_result(name: str) -> bool:
    """Whether the previous release named it: by its content, so that it may be the result of several tasks."""
    return _OLD_RESULT.fullmatch(name) is not None


def result_name(installation: str, task_id: str, content: bytes) -> str:
    """Where a task's result is kept; the same result has the same name."""
    return f"{RESULTS}/{installation}/{task_id}-{hashlib.sha256(content).hexdigest()[:32]}"


def installation_of(settings: Settings) -> str:
    """A name for those who share topics, as a folder of the store: a topic prefix alone may begin with a dot."""
    return f"topics-{settings.topic_prefix}" if settings.topic_prefix else "topics"


def _scratch_path(settings: Settings) -> Path:
    return Path(settings.data_dir) / "scratch"


def scratch_folder(settings: Settings) -> Path:
    """Where files are made before they are blobs, and where remote blobs are read; made if it is not there."""
    folder = _scratch_path(settings)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@functools.lru_cache(maxsize=16)
def open_blobs(settings: Settings) -> BlobStore:
    """The store of the settings, which is not touched by that. Raises OSError when its address cannot be one."""
    if "://" in settings.blob_store:
        from pipeline.object_blobs import ObjectBlobs  # most need no object store

        return ObjectBlobs(settings.blob_store, _scratch_path(settings), installation_of(settings))
    return LocalBlobs(Path(settings.blob_store or Path(settings.data_dir) / FOLDER_NAME), installation_of(settings))


def read_checked(store: BlobStore, reference: BlobRef) -> bytes:
    """The content that a reference names. Raises BlobError when it is missing or another."""
    content = b"".join(store.chunks(reference.name))
    if hashlib.sha256(content).hexdigest() != reference.sha256:
        raise BlobError(f"blob {reference.name} has {len(content)} bytes that are not those that were put there")
    return content


@contextlib.contextmanager
def checked_file(store: BlobStore, reference: BlobRef) -> Iterator[Path]:
    """The content that a reference names, as a file to read. Raises BlobError when it is missing or another, OSError."""
    with store.local(reference.name) as path:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != reference.sha256:
            raise BlobError(f"blob {reference.name} is not what was put there")
        yield path


class LocalBlobs:
    """Blobs as files below a folder."""

    def __init__(self, root: Path, installation: str = "topics") -> None:
        self._root, self.installation = root, installation
        self._was_there = False

    def prepare(self) -> None:
        """Make the folders, so that a name that was never kept is not waited for."""
        (self._root / REQUESTS).mkdir(parents=True, exist_ok=True)
        self._was_there = True

    def put(self, name: str, content: bytes) -> None:
        """Write, sync, rename."""
        self._copy(io.BytesIO(content), self._target(name))

    def put_file(self, name: str, path: Path) -> None:
        """Rename when the scratch folder is in the same file system, and mounted with it; else copy."""
        target = self._target(name)
        try:
            self._adopt(path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            with path.open("rb") as file:
                self._copy(file, target)
            path.unlink()

    def _copy(self, source: IO[bytes], target: Path) -> None:
        temporary = target.parent / f"{PARTIAL}{uuid.uuid4().hex}"
        try:
            with temporary.open("xb") as file:  # readable as the umask says: workers may run as another user
                shutil.copyfileobj(source, file, READ_BYTES)
            self._adopt(temporary, target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise

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
        self._was_there = self._was_there or not is_old_result(name)  # those lie beside the folders that are looked for
        return path

    def size_bytes(self, name: str) -> int:
        """How long the file is."""
        return self._found(name).stat().st_size

    def entry(self, name: str) -> Blob:
        """The file's size and time."""
        found = self._found(name).stat()
        return Blob(name, found.st_size, found.st_mtime)

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
        if self._was_there:
            self._check_there()
        for folder, _, names in os.walk(self._root, onerror=_unless_deleted):  # pathlib passes over what it may not list
            for path in (Path(folder, name) for name in names):
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                    found = path.lstat()
                    yield Blob(str(path.relative_to(self._root)), found.st_size, found.st_mtime)


def _unless_deleted(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
