"""GE2E voice encoder (Wan et al. 2018, https://arxiv.org/abs/1710.10467; Resemblyzer's weights) from its checkpoint to ONNX."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx

from pipeline.models.graph import AnyArray, GraphBuilder

BINS = 40
_HIDDEN = 256
_LAYERS = 3
_PREFIX = "model_state."


def convert(state: Mapping[str, AnyArray]) -> onnx.ModelProto:
    """The graph: `features` float32 (batch, frames, 40) -> `embedding` float32 (batch, 256), of unit length.

    Raises KeyError when the checkpoint lacks a layer.
    """
    g = GraphBuilder({name.removeprefix(_PREFIX): value for name, value in state.items()})
    x = g.add("Transpose", "features", perm=[1, 0, 2])
    for layer in range(_LAYERS):
        sequence, hidden = f"sequence_{layer}", f"hidden_{layer}"
        g.add_many("LSTM", [x, *_lstm_weights(g, layer)], [sequence, hidden], hidden_size=_HIDDEN)
        x = g.add("Squeeze", sequence, g.ints(1))
    last = g.add("Squeeze", f"hidden_{_LAYERS - 1}", g.ints(0))
    raw = g.add("Relu", g.add("Gemm", last, g.weight("linear.weight"), g.weight("linear.bias"), transB=1))
    norm = g.add("ReduceL2", raw, axes=[1], keepdims=1)
    tiny = g.constant("tiny", np.array(1e-12, np.float32))
    g.add_many("Div", [raw, g.add("Max", norm, tiny)], ["embedding"])
    return g.model({"features": ["batch", "frames", BINS]}, {"embedding": ["batch", 256]})


def _lstm_weights(g: GraphBuilder, layer: int) -> list[str]:
    """W, R and B as ONNX wants them: one direction, gates in the order i o f c (PyTorch's is i f c o)."""

    def gates(name: str) -> AnyArray:
        i, f, c, o = np.split(g.weights[name], 4)
        return np.concatenate([i, o, f, c])[np.newaxis]

    bias = np.concatenate([gates(f"lstm.bias_ih_l{layer}"), gates(f"lstm.bias_hh_l{layer}")], axis=1)
    return [
        g.constant(f"lstm_{layer}_w", gates(f"lstm.weight_ih_l{layer}")),
        g.constant(f"lstm_{layer}_r", gates(f"lstm.weight_hh_l{layer}")),
        g.constant(f"lstm_{layer}_b", bias),
    ]
