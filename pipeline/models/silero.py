"""Silero VAD: the probability of speech in consecutive 32 ms windows.

The packaged graph takes one window a call, and most of such a call is overhead. Its weights are put into an equal graph
that takes n consecutive windows: the encoder sees them as a batch, the LSTM as a sequence. The probabilities are the same bits
however the windows are grouped, and cost half as much in groups of five.

Source: https://github.com/snakers4/silero-vad (MIT), version 6; the same regrouping is that project's pull request 784.
"""

from pathlib import Path
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import SessionOptions

from pipeline.models.errors import ModelError
from pipeline.models.graph import GraphBuilder

Float32Array = npt.NDArray[np.float32]

WINDOW_S: Final = 0.032
WINDOW_SAMPLES: Final = {8000: 256, 16000: 512}
_CONTEXT_SAMPLES: Final = {256: 32, 512: 64}  # of the window before, which the model sees again
_HIDDEN: Final = 128
_LSTM_PARTS: Final = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_ENCODER_STRIDES: Final = (1, 2, 2, 1)


class SileroVad:
    """The model at both of its rates. Thread-safe: it holds no state, the caller does."""

    def __init__(self, path: Path | str) -> None:
        """Load `silero_vad.onnx`. Raises ModelError when it cannot be read or is another model."""
        try:
            branches = _branches(onnx.load(str(path)))
            self._sessions = {256: _session(branches["else_branch"], 256), 512: _session(branches["then_branch"], 512)}
        except Exception as error:  # protobuf, missing weights, onnxruntime: all mean the same
            raise ModelError(f"cannot use {path} as silero VAD model ({error}); fetch the models again") from error

    @staticmethod
    def initial_state(sample_rate_hz: int) -> Float32Array:
        """The state before the first window: LSTM (2 x 128) and the context samples, flat. Raises KeyError for other rates."""
        return np.zeros(2 * _HIDDEN + _CONTEXT_SAMPLES[WINDOW_SAMPLES[sample_rate_hz]], np.float32)

    def probabilities(self, windows: Float32Array, state: Float32Array) -> tuple[Float32Array, Float32Array]:
        """Probability of speech of each window, and the state after the last one.

        Args:
            windows: (n, 512) at 16 kHz or (n, 256) at 8 kHz, consecutive, in [-1, 1]; n may be 0.
            state: what `initial_state` or the call before returned; it is not changed.

        Returns:
            (n,) probabilities, and the new state.
        """
        if len(windows) == 0:
            return np.zeros(0, np.float32), state
        context = _CONTEXT_SAMPLES[windows.shape[1]]
        samples = np.concatenate((state[2 * _HIDDEN :], windows.ravel()))
        framed = np.lib.stride_tricks.sliding_window_view(samples, context + windows.shape[1])[:: windows.shape[1]]
        feed = {
            "input": np.ascontiguousarray(framed),
            "h": state[:_HIDDEN].reshape(1, 1, _HIDDEN),
            "c": state[_HIDDEN : 2 * _HIDDEN].reshape(1, 1, _HIDDEN),
        }
        outputs = self._sessions[windows.shape[1]].run(["output", "hn", "cn"], feed)
        values, hidden, cell = cast(list[Float32Array], outputs)
        return values, np.concatenate((hidden.ravel(), cell.ravel(), samples[-context:]))


def _branches(model: onnx.ModelProto) -> dict[str, dict[str, Float32Array]]:
    """The weights by name, for 16 kHz (`then_branch`) and 8 kHz (`else_branch`)."""
    choice = next(node for node in model.graph.node if node.op_type == "If")
    return {attribute.name: _weights(attribute.g) for attribute in choice.attribute}


def _weights(graph: onnx.GraphProto) -> dict[str, Float32Array]:
    constants = {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    named = {name.split("__")[-1]: tensor for name, tensor in constants.items()}
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in named.items()
        if name.startswith(("stft.", "encoder.", "decoder."))
    }


def _lstm_gates(weight: Float32Array) -> Float32Array:
    """Torch orders the gates i f g o, ONNX i o f c (https://onnx.ai/onnx/operators/onnx__LSTM.html)."""
    i, f, g, o = np.split(weight, 4)
    return np.concatenate((i, o, f, g))


def _spectrum(graph: GraphBuilder, window: int) -> str:
    """Magnitude spectrum (n, window / 4 + 1, 4): the Fourier basis as a convolution, real parts before imaginary ones."""
    bins = window // 4 + 1
    axis = graph.ints(1)
    padded = graph.add("Pad", "input", graph.ints(0, 0, 0, _CONTEXT_SAMPLES[window]), mode="reflect")
    mono = graph.add("Unsqueeze", padded, axis)
    stft = graph.add("Conv", mono, graph.weight("stft.forward_basis_buffer"), strides=[window // 4])
    real = graph.add("Slice", stft, graph.ints(0), graph.ints(bins), axis)
    imaginary = graph.add("Slice", stft, graph.ints(bins), graph.ints(2 * bins), axis)
    return graph.add("Sqrt", graph.add("Add", graph.add("Mul", real, real), graph.add("Mul", imaginary, imaginary)))


def _lstm(graph: GraphBuilder, steps: str) -> str:
    """The LSTM over the windows: (n, 1, 128) to (n, 1, 128)."""
    weights = {part: _lstm_gates(graph.weights[f"decoder.rnn.{part}"]) for part in _LSTM_PARTS}
    w = graph.constant("lstm_w", weights["weight_ih"][None])
    r = graph.constant("lstm_r", weights["weight_hh"][None])
    b = graph.constant("lstm_b", np.concatenate((weights["bias_ih"], weights["bias_hh"]))[None])
    graph.add_many("LSTM", [steps, w, r, b, "", "h", "c"], ["y", "hn", "cn"], hidden_size=_HIDDEN)
    return graph.add("Squeeze", "y", graph.ints(1))


def _sequence_model(weights: dict[str, Float32Array], window: int) -> onnx.ModelProto:
    """The graph that takes n consecutive windows, each behind its context."""
    graph = GraphBuilder(weights)
    x = _spectrum(graph, window)
    for layer, stride in enumerate(_ENCODER_STRIDES):
        convolved = graph.conv(x, f"encoder.{layer}.reparam_conv", strides=[stride], pads=[1, 1])
        x = graph.add("Relu", convolved)
    features = _lstm(graph, graph.add("Transpose", x, perm=[0, 2, 1]))
    active = graph.add("Relu", graph.add("Transpose", features, perm=[0, 2, 1]))
    logits = graph.add("Reshape", graph.conv(active, "decoder.decoder.2"), graph.ints(-1))
    graph.add_many("Sigmoid", [logits], ["output"])
    lstm: list[int | str] = [1, 1, _HIDDEN]
    inputs: dict[str, list[int | str]] = {"input": ["n", window + _CONTEXT_SAMPLES[window]], "h": lstm, "c": lstm}
    return graph.model(inputs, {"output": ["n"], "hn": lstm, "cn": lstm})


def _session(weights: dict[str, Float32Array], window: int) -> InferenceSession:
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    model = _sequence_model(weights, window).SerializeToString()
    return InferenceSession(model, options, providers=["CPUExecutionProvider"])
