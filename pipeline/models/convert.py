"""From a file as packaged to the ONNX graph that runs."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from pipeline.models import convert_campplus, convert_ge2e, convert_whisper
from pipeline.models.errors import ModelError
from pipeline.models.manifest import Conversion
from pipeline.models.store import write_file
from pipeline.models.torch_weights import read_state


def convert_file(source: Path, conversion: Conversion, target: Path) -> None:
    """Write the ONNX file. Raises ModelError when the source is not what the conversion is for, and OSError."""
    if conversion is Conversion.COPY:
        write_file(target, source.read_bytes())
        return
    try:
        model = _converted(source, conversion)
    except (KeyError, ValueError, DecodeError, onnx.checker.ValidationError) as error:
        raise ModelError(f"{source.name} cannot be converted as {conversion}: {error}; correct the manifest") from None
    write_file(target, model.SerializeToString(deterministic=True))


def _converted(source: Path, conversion: Conversion) -> onnx.ModelProto:
    if conversion is Conversion.CAMPPLUS:
        return convert_campplus.convert(read_state(source))
    if conversion is Conversion.GE2E:
        return convert_ge2e.convert(read_state(source))
    if conversion is Conversion.WHISPER_ENCODER:
        return convert_whisper.convert_encoder(onnx.load(str(source)))
    return convert_whisper.convert_decoder(onnx.load(str(source)))
