"""How every model is opened in onnxruntime: one thread each, memory that does not grow with new shapes."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import SessionOptions, get_available_providers

from pipeline.models.batching import Batcher
from pipeline.models.errors import ModelError
from pipeline.models.execution import ALONE, Execution, Provider
from pipeline.models.float_weights import make_floats
from pipeline.models.signed_weights import saturates

FloatArray = npt.NDArray[np.float32]
Rewrite = Callable[[onnx.ModelProto], onnx.ModelProto]


_CUDA_NEEDS = "it needs NVIDIA's driver, CUDA and cuDNN"
_NAMES = {Provider.CPU: "CPUExecutionProvider", Provider.CUDA: "CUDAExecutionProvider"}


def _providers(provider: Provider) -> list[str]:
    """The provider, and the CPU for what it cannot do. Raises ModelError when it is not there."""
    if _NAMES[provider] not in get_available_providers():
        raise ModelError(f"onnxruntime has no {_NAMES[provider]} here: install onnxruntime-gpu in its place ({_CUDA_NEEDS})")
    return list(dict.fromkeys([_NAMES[provider], _NAMES[Provider.CPU]]))


def open_session(path: Path | str, execution: Execution = ALONE, rewrite: Rewrite | None = None) -> InferenceSession:
    """Open a model, as it is or rewritten, with one thread and without the arena.

    Raises ModelError when the file is missing or no model, and when the provider is not there.
    """
    if not Path(path).is_file():
        raise ModelError(f"model file {path} is missing; fetch the models")
    provider = execution.provider
    providers, options = _providers(provider), SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.enable_mem_pattern = False
    options.log_severity_level = 3
    try:
        if not multiplies_signed_bytes() and saturates(onnx.load(str(path))):
            # signed weights are then made unsigned: slower, and nothing is cut off
            options.add_session_config_entry("session.x64quantprecision", "1")
        session = InferenceSession(_model(path, execution, rewrite), options, providers=providers)
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 (onnxruntime's exceptions have no base class of their own)
        raise ModelError(f"model file {path} cannot be opened: {_first_line(error)}; fetch the models again") from None
    session.disable_fallback()  # to another provider in the middle of a call
    if _NAMES[provider] not in session.get_providers():
        raise ModelError(f"{_NAMES[provider]} does not start here ({_CUDA_NEEDS}); or set CALLSTREAM_INFERENCE_PROVIDER=cpu")
    return session


def _model(path: Path | str, execution: Execution, rewrite: Rewrite | None) -> str | bytes:
    """The file as it is, or what is to run in its place."""
    if rewrite is None and not execution.needs_floats:
        return str(path)
    model = onnx.load(str(path))
    if rewrite is not None:
        model = rewrite(model)
    if execution.needs_floats and (left := make_floats(model.graph)) and execution.is_batched:
        operators = ", ".join(sorted(left))
        raise ModelError(
            f"model file {path} cannot run in batches, for it quantises them ({operators}); set CALLSTREAM_INFERENCE_BATCH=1"
        )
    return bytes(model.SerializeToString())


@functools.cache
def multiplies_signed_bytes() -> bool:
    """Whether the processor has VNNI, or is none of x86, where nothing is cut off."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    info = Path("/proc/cpuinfo")
    flags = next((line for line in info.read_text().splitlines() if line.startswith("flags")), "") if info.exists() else ""
    return "vnni" in flags


class Session:
    """A model of one output. Thread-safe, as onnxruntime's sessions are.

    The arena would keep memory for every length of audio that it has met, and parallelism is had across utterances.
    """

    def __init__(
        self,
        path: Path | str,
        inputs: Sequence[str],
        output: str,
        execution: Execution = ALONE,
        rewrite: Rewrite | None = None,
    ) -> None:
        """Open a model, as it is or rewritten; the names are those of what `run` takes and gives.

        Raises ModelError when the file is missing, is no model, or has other inputs or outputs.
        """
        self._session = open_session(path, execution, rewrite)
        self._inputs = [_named(name, self._session.get_inputs(), path) for name in inputs]
        self._output = _named(output, self._session.get_outputs(), path)
        self._batcher = Batcher(self._run, execution.batch, execution.wait_s) if execution.is_batched else None

    def run(self, *inputs: FloatArray) -> FloatArray:
        """Arrays (rows, ...) -> the model's output, a row for each; with what other threads ask for, if it makes batches."""
        return self._run(*inputs) if self._batcher is None else self._batcher.run(*inputs)

    def _run(self, *inputs: FloatArray) -> FloatArray:
        outputs = self._session.run([self._output], dict(zip(self._inputs, inputs, strict=True)))
        return cast(FloatArray, outputs[0])


def _named(name: str, values: Sequence[Any], path: Path | str) -> str:
    names = [str(value.name) for value in values]
    if name not in names:
        raise ModelError(f"model file {path} has no {name!r} but {', '.join(names)}; correct the manifest")
    return name


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
