"""Fetch, list and verify the models: what `callstream models` does.

Each model is downloaded as the package that holds it, checked against its pinned SHA-256, converted to ONNX without PyTorch,
compared with the original's outputs, and only then moved into place.
"""

from __future__ import annotations

import concurrent.futures
import enum
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from pipeline.models.convert import convert_file
from pipeline.models.download import obtain
from pipeline.models.errors import ModelError, ModelUnreachableError
from pipeline.models.manifest import Manifest, Model, load_manifest
from pipeline.models.store import (
    ModelState,
    ModelStatus,
    disk_errors,
    fingerprint,
    install,
    locked,
    model_paths,
    read_stamp,
    sha256_of,
    staging,
    state_of,
)
from pipeline.models.store import status as _status
from pipeline.models.verification import check_conversion

__all__ = [
    "ModelError",
    "ModelState",
    "ModelStatus",
    "ModelUnreachableError",
    "Progress",
    "Stage",
    "fetch",
    "model_paths",
    "status",
    "verify",
]

_PARALLEL = 4  # downloads at once; each is mostly waiting


class Stage(enum.StrEnum):
    """What is being done with a model."""

    WAITING = "waiting for another process"
    DOWNLOADING = "downloading"
    CONVERTING = "converting"
    CHECKING = "checking"
    READY = "ready"


class Progress(msgspec.Struct, frozen=True):
    """A model has come to a stage; `name` is empty while waiting."""

    name: str
    stage: Stage


OnProgress = Callable[[Progress], None]


class Verification(msgspec.Struct, frozen=True):
    """Whether a model's files are untouched and give what the original gives; `message` says what is wrong."""

    name: str
    ok: bool
    message: str = ""


def status(cache_dir: Path | str, manifest: Manifest | None = None) -> list[ModelStatus]:
    """Every model of the manifest and whether it is there."""
    return _status(cache_dir, manifest or load_manifest())


def fetch(
    cache_dir: Path | str,
    names: Sequence[str] | None = None,
    on_progress: OnProgress | None = None,
    *,
    manifest: Manifest | None = None,
    language_size: str = "base",
) -> dict[str, list[Path]]:
    """Make sure that models are in the cache folder; returns the paths of each one's ONNX files.

    Without names those that a worker needs, with the language model of `language_size`. `on_progress` may be called from
    several threads, one call at a time for a model. What is there already is left alone. Raises ModelError, of which
    ModelUnreachableError may pass with time; models that are finished stay, and nothing half-made does.
    """
    manifest = manifest or load_manifest()
    wanted = [manifest.model(name) for name in (manifest.default_names(language_size) if names is None else names)]
    report = on_progress or _ignore
    if _missing(cache_dir, wanted):
        with disk_errors(cache_dir), locked(cache_dir, lambda: report(Progress("", Stage.WAITING))):
            _fetch_all(cache_dir, _missing(cache_dir, wanted), report)
    return {model.name: model_paths(cache_dir, model) for model in wanted}


def verify(cache_dir: Path | str, names: Sequence[str] | None = None, manifest: Manifest | None = None) -> list[Verification]:
    """Check models against their stamps' SHA-256 and against the original's outputs; without names all that are there."""
    manifest = manifest or load_manifest()
    if names is None:
        there = [model for model in manifest.models if state_of(cache_dir, model) is not ModelState.MISSING]
        return [_verified(cache_dir, model) for model in there]
    return [_verified(cache_dir, manifest.model(name)) for name in names]


def _ignore(_: Progress) -> None:
    """Where nobody asks for progress."""


def _missing(cache_dir: Path | str, models: Sequence[Model]) -> list[Model]:
    return [model for model in models if state_of(cache_dir, model) is not ModelState.READY]


def _fetch_all(cache_dir: Path | str, models: Sequence[Model], report: OnProgress) -> None:
    with concurrent.futures.ThreadPoolExecutor(_PARALLEL, "models") as pool:
        futures = [pool.submit(_fetch_one, cache_dir, model, report) for model in models]
        done, _ = concurrent.futures.wait(futures, return_when=concurrent.futures.FIRST_EXCEPTION)
        for future in futures:
            future.cancel()
        for future in done:
            future.result()


def _fetch_one(cache_dir: Path | str, model: Model, report: OnProgress) -> None:
    with staging(cache_dir) as folder:
        report(Progress(model.name, Stage.DOWNLOADING))
        made_from = fingerprint(model)  # before it is read: the user may be replacing it
        sources = obtain(model, folder)
        report(Progress(model.name, Stage.CONVERTING))
        outputs = {file.output: folder / file.output for file in model.files}
        for file, source in zip(model.files, sources, strict=True):
            convert_file(source, file.conversion, outputs[file.output])
        report(Progress(model.name, Stage.CHECKING))
        check_conversion(model, list(outputs.values()))
        install(cache_dir, model, outputs, made_from)
    report(Progress(model.name, Stage.READY))


def _verified(cache_dir: Path | str, model: Model) -> Verification:
    try:
        _verify_one(cache_dir, model)
    except ModelError as error:
        return Verification(model.name, False, str(error))
    return Verification(model.name, True)


def _verify_one(cache_dir: Path | str, model: Model) -> None:
    state = state_of(cache_dir, model)
    stamp = read_stamp(cache_dir, model)
    if state is not ModelState.READY or stamp is None:
        raise ModelError(f"model {model.name!r} is {state}: fetch it")
    paths = model_paths(cache_dir, model)
    for path in paths:
        if sha256_of(path) != stamp.files[path.name].sha256:
            raise ModelError(f"model file {path} has changed since it was fetched: delete it and fetch again")
    check_conversion(model, paths)
