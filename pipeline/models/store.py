"""The folder of converted models: what is there, and how files get into it whole or not at all.

Beside a model's ONNX files lies a stamp, written last: a model without a fitting stamp is not there.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import msgspec

from pipeline.models.errors import ModelError
from pipeline.models.manifest import Manifest, Model, SourceKind

_STAGING_PREFIX = ".staging-"
_CHUNK_BYTES = 1 << 20


class ModelState(enum.StrEnum):
    """Whether a model can be used."""

    READY = "ready"
    MISSING = "missing"
    CHANGED = "changed"  # files are there, but not those of this manifest


class ModelStatus(msgspec.Struct, frozen=True):
    """One line of `callstream models list`."""

    name: str
    role: str
    source: str
    licence: str
    state: ModelState
    size_bytes: int


class FileStamp(msgspec.Struct, frozen=True):
    """What a converted file looked like when it was put there."""

    size_bytes: int
    sha256: str


class Stamp(msgspec.Struct, frozen=True):
    """What a model's files were made from."""

    fingerprint: str
    files: dict[str, FileStamp]


# Made here, once: msgspec 0.22 crashes when two threads are the first to read a type.
_STAMPS = msgspec.json.Decoder(Stamp)


def models_dir(cache_dir: Path | str) -> Path:
    """The folder of the converted models."""
    return Path(cache_dir) / "models"


def model_paths(cache_dir: Path | str, model: Model) -> list[Path]:
    """Where a model's ONNX files are, in the manifest's order."""
    return [models_dir(cache_dir) / file.output for file in model.files]


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError as error:  # nobody may look into the folder
        raise ModelError(f"{path}: {error.strerror}; check CALLSTREAM_CACHE_DIR") from None


def status(cache_dir: Path | str, manifest: Manifest) -> list[ModelStatus]:
    """Every model of the manifest and its state; looks at sizes and stamps only. Raises ModelError when nobody may look."""
    rows = []
    for model in manifest.models:
        size = sum(path.stat().st_size for path in model_paths(cache_dir, model) if _is_there(path))
        state = state_of(cache_dir, model)
        rows.append(ModelStatus(model.name, model.role.value, model.source.label, model.licence, state, size))
    return rows


def state_of(cache_dir: Path | str, model: Model) -> ModelState:
    """Whether a model's files are there and are those that were put there, by stamp and size.

    Raises ModelError when nobody may look.
    """
    paths = model_paths(cache_dir, model)
    if not all(_is_there(path) for path in paths):
        return ModelState.MISSING
    stamp = read_stamp(cache_dir, model)
    if stamp is None or stamp.fingerprint != fingerprint(model):
        return ModelState.CHANGED
    sizes = {name: file.size_bytes for name, file in stamp.files.items()}
    return ModelState.READY if sizes == {path.name: path.stat().st_size for path in paths} else ModelState.CHANGED


def fingerprint(model: Model) -> str:
    """Changes when other files would be made: with the manifest's entry, and with the user's own file."""
    if model.source.kind is not SourceKind.FILE:
        return model.fingerprint
    try:
        stat = Path(model.source.path).stat()
    except OSError:
        return model.fingerprint  # what was copied from it stays good without it
    return f"{model.fingerprint}-{stat.st_size}-{stat.st_mtime_ns}"


def read_stamp(cache_dir: Path | str, model: Model) -> Stamp | None:
    """A model's stamp; None when there is none that can be read."""
    try:
        return _STAMPS.decode(_stamp_path(cache_dir, model).read_bytes())
    except (OSError, msgspec.MsgspecError):
        return None


def install(cache_dir: Path | str, model: Model, files: Mapping[str, Path], made_from: str) -> None:
    """Move finished files (by output name) into place, and then stamp them with the fingerprint of what they were made from."""
    stamp = Stamp(made_from, {name: FileStamp(path.stat().st_size, sha256_of(path)) for name, path in files.items()})
    stamp_path = _stamp_path(cache_dir, model)
    stamp_path.unlink(missing_ok=True)
    for name, path in files.items():
        path.replace(models_dir(cache_dir) / name)
    stamp_file = next(iter(files.values())).parent / stamp_path.name
    write_file(stamp_file, msgspec.json.format(msgspec.json.encode(stamp)))
    stamp_file.replace(stamp_path)


def _stamp_path(cache_dir: Path | str, model: Model) -> Path:
    return models_dir(cache_dir) / f"{model.name}.json"


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that it is on the disk before it is moved into place."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sha256_of(path: Path) -> str:
    """A file's SHA-256, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_hashed(source: BinaryIO, target: Path) -> str:
    """Copy a stream to a file; returns its SHA-256, hexadecimal."""
    digest = hashlib.sha256()
    with target.open("wb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
    return digest.hexdigest()


@contextlib.contextmanager
def locked(cache_dir: Path | str, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the folder against other processes and threads; calls `on_wait` once when someone else holds it."""
    folder = models_dir(cache_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            on_wait()
            fcntl.flock(file, fcntl.LOCK_EX)
        # whoever made these is gone, or it would hold the lock
        for orphan in folder.glob(f"{_STAGING_PREFIX}*"):
            shutil.rmtree(orphan, ignore_errors=True)
        yield


@contextlib.contextmanager
def staging(cache_dir: Path | str) -> Iterator[Path]:
    """A folder on the same file system for what is not finished; removed at the end, whatever happens."""
    with tempfile.TemporaryDirectory(prefix=_STAGING_PREFIX, dir=models_dir(cache_dir), ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@contextlib.contextmanager
def disk_errors(cache_dir: Path | str) -> Iterator[None]:
    """Turn what the file system refuses into one clear line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        advice = "free space or set another CALLSTREAM_CACHE_DIR"
        raise ModelError(f"models cannot be stored in {models_dir(cache_dir)}: {reason}; {advice}") from None
