"""Silero VAD: the probability of speech in consecutive 32 ms windows, and what the model remembers behind each of them.

The packaged graph takes one window a call, and most of such a call is overhead. Its weights are put into an equal graph
that takes n consecutive windows: the encoder sees them as a batch, the LSTM as a sequence. Its convolutions become products of
matrices, since a window has only four steps of time: the spectrum and the first layer over the steps gathered side by side, the
layers behind it over all of a window at once. The probabilities are the same to 1e-6, and in groups of five cost a tenth.

Source: https://github.com/snakers4/silero-vad (MIT), version 6; the same regrouping is that project's pull request 784.
"""

import itertools
from pathlib import Path
from typing import Final, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from pipeline.models.errors import ModelError
from pipeline.models.graph import GraphBuilder, open_graph

Float32Array = npt.NDArray[np.float32]

WINDOW_SAMPLES: Final = {8000: 256, 16000: 512}
_CONTEXT_SAMPLES: Final = {256: 32, 512: 64}  # of the window before, which the model sees again
HIDDEN: Final = 128
_LSTM_PARTS: Final = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
_STEPS: Final = 4  # of time in a window
_TAPS: Final = 3  # of a convolution of the encoder
_ENCODER_STRIDES: Final = {1: 2, 2: 2, 3: 1}  # by layer, behind the first


class Heard(NamedTuple):
    """What n windows gave: probabilities of speech (n,), the LSTM's output (n, 128), and the state behind the last one."""

    probabilities: Float32Array
    hidden: Float32Array
    state: Float32Array


class SileroVad:
    """The model at both of its rates. Thread-safe: it holds no state, the caller does."""

    def __init__(self, path: Path | str) -> None:
        """Load `silero_vad.onnx`. Raises ModelError when it cannot be read or is another model."""
        try:
            branches = _branches(onnx.load(str(path)))
            self._sessions = {
                window: open_graph(_sequence_model(branches[branch], window))
                for window, branch in ((256, "else_branch"), (512, "then_branch"))
            }
        except Exception as error:  # protobuf, missing weights, onnxruntime: all mean the same
            raise ModelError(f"cannot use {path} as silero VAD model ({error}); fetch the models again") from error

    @staticmethod
    def initial_state(sample_rate_hz: int) -> Float32Array:
        """The state before the first window: LSTM (2 x 128) and the context samples, flat. Raises KeyError for other rates."""
        return np.zeros(2 * HIDDEN + _CONTEXT_SAMPLES[WINDOW_SAMPLES[sample_rate_hz]], np.float32)

    def listen(self, windows: Float32Array, state: Float32Array) -> Heard:
        """Hear consecutive windows.

        Args:
            windows: (n, 512) at 16 kHz or (n, 256) at 8 kHz, consecutive, in [-1, 1]; n may be 0.
            state: what `initial_state` or the call before returned; it is not changed.
        """
        if len(windows) == 0:
            return Heard(np.zeros(0, np.float32), np.zeros((0, HIDDEN), np.float32), state)
        size, context = windows.shape[1], _CONTEXT_SAMPLES[windows.shape[1]]
        framed = np.empty((len(windows), context + size), np.float32)
        framed[0, :context], framed[1:, :context] = state[2 * HIDDEN :], windows[:-1, -context:]
        framed[:, context:] = windows
        feed = {
            "input": framed,
            "h": state[:HIDDEN].reshape(1, 1, HIDDEN),
            "c": state[HIDDEN : 2 * HIDDEN].reshape(1, 1, HIDDEN),
        }
        outputs = self._sessions[size].run(["output", "hidden", "cn"], feed)
        values, hidden, cell = cast(list[Float32Array], outputs)
        return Heard(values, hidden, np.concatenate((hidden[-1], cell.ravel(), windows[-1, -context:])))

    def probabilities(self, windows: Float32Array, state: Float32Array) -> tuple[Float32Array, Float32Array]:
        """As `listen`, but only the probabilities of speech (n,) and the new state."""
        heard = self.listen(windows, state)
        return heard.probabilities, heard.state


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
    """Magnitudes (n, 4, window / 4 + 1): frames of two hops, times the Fourier basis, real parts before imaginary ones."""
    hop, bins = window // 4, window // 4 + 1
    padded = graph.add("Pad", "input", graph.ints(0, 0, 0, _CONTEXT_SAMPLES[window]), mode="reflect")
    hops = graph.add("Reshape", padded, graph.ints(-1, _STEPS + 1, hop))
    frames = graph.add("Concat", *_shifted(graph, hops, 2), axis=2)
    basis = graph.constant("basis", graph.weights["stft.forward_basis_buffer"][:, 0].T)
    stft = graph.add("MatMul", graph.add("Reshape", frames, graph.ints(-1, 2 * hop)), basis)
    real = graph.add("Slice", stft, graph.ints(0), graph.ints(bins), graph.ints(1))
    imaginary = graph.add("Slice", stft, graph.ints(bins), graph.ints(2 * bins), graph.ints(1))
    power = graph.add("Add", graph.add("Mul", real, real), graph.add("Mul", imaginary, imaginary))
    return graph.add("Reshape", graph.add("Sqrt", power), graph.ints(-1, _STEPS, bins))


def _shifted(graph: GraphBuilder, x: str, count: int) -> list[str]:
    """Of (n, 3 + count, d) the steps 0 to 3, 1 to 4, ..."""
    return [graph.add("Slice", x, graph.ints(i), graph.ints(i + _STEPS), graph.ints(1)) for i in range(count)]


def _first_layer(graph: GraphBuilder, spectrum: str) -> str:
    """The encoder's first convolution, over all four steps: (n, 4, bins) to (n, 4 x 128)."""
    weight, bias = (graph.weights[f"encoder.0.reparam_conv.{part}"] for part in ("weight", "bias"))
    padded = graph.add("Pad", spectrum, graph.ints(0, 1, 0, 0, 1, 0))
    taps = graph.add("Concat", *_shifted(graph, padded, _TAPS), axis=2)
    flat = graph.add("Reshape", taps, graph.ints(-1, _TAPS * weight.shape[1]))
    kernel = graph.constant("kernel_0", weight.transpose(2, 1, 0).reshape(-1, weight.shape[0]))
    active = graph.add("Relu", graph.add("Gemm", flat, kernel, graph.constant("bias_0", bias)))
    return graph.add("Reshape", active, graph.ints(-1, _STEPS * weight.shape[0]))


def _layer(graph: GraphBuilder, x: str, number: int, steps: int, stride: int) -> tuple[str, int]:
    """Another convolution of the encoder as one matrix from all of its steps to all that come out."""
    weight, bias = (graph.weights[f"encoder.{number}.reparam_conv.{part}"] for part in ("weight", "bias"))
    after = (steps - 1) // stride + 1
    matrix = np.zeros((steps, weight.shape[1], after, weight.shape[0]), np.float32)
    for step, tap in itertools.product(range(after), range(_TAPS)):
        before = step * stride + tap - 1
        if 0 <= before < steps:
            matrix[before, :, step] += weight[:, :, tap].T
    kernel = graph.constant(f"kernel_{number}", matrix.reshape(steps * weight.shape[1], -1))
    product = graph.add("Gemm", x, kernel, graph.constant(f"bias_{number}", np.tile(bias, after)))
    return graph.add("Relu", product), after


def _lstm(graph: GraphBuilder, features: str) -> str:
    """The LSTM over the windows: (n, 128) to (n, 128)."""
    weights = {part: _lstm_gates(graph.weights[f"decoder.rnn.{part}"]) for part in _LSTM_PARTS}
    w = graph.constant("lstm_w", weights["weight_ih"][None])
    r = graph.constant("lstm_r", weights["weight_hh"][None])
    b = graph.constant("lstm_b", np.concatenate((weights["bias_ih"], weights["bias_hh"]))[None])
    steps = graph.add("Unsqueeze", features, graph.ints(1))
    graph.add_many("LSTM", [steps, w, r, b, "", "h", "c"], ["y", "", "cn"], hidden_size=HIDDEN)
    graph.add_many("Reshape", ["y", graph.ints(-1, HIDDEN)], ["hidden"])
    return "hidden"


def _sequence_model(weights: dict[str, Float32Array], window: int) -> onnx.ModelProto:
    """The graph that takes n consecutive windows, each behind its context."""
    graph = GraphBuilder(weights)
    x, steps = _first_layer(graph, _spectrum(graph, window)), _STEPS
    for number, stride in _ENCODER_STRIDES.items():
        x, steps = _layer(graph, x, number, steps, stride)
    active = graph.add("Relu", _lstm(graph, x))
    last = graph.constant("last", weights["decoder.decoder.2.weight"].reshape(HIDDEN, 1))
    logits = graph.add("Gemm", active, last, graph.weight("decoder.decoder.2.bias"))
    graph.add_many("Sigmoid", [graph.add("Reshape", logits, graph.ints(-1))], ["output"])
    lstm: list[int | str] = [1, 1, HIDDEN]
    inputs: dict[str, list[int | str]] = {"input": ["n", window + _CONTEXT_SAMPLES[window]], "h": lstm, "c": lstm}
    return graph.model(inputs, {"output": ["n"], "hidden": ["n", HIDDEN], "cn": lstm})
