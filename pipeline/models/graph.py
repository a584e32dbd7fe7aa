"""A few lines around onnx.helper for building graphs node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import SessionOptions

OPSET = 17
IR_VERSION = 9  # of opset 17's time, so that older runtimes load it

AnyArray = npt.NDArray[Any]
Attribute = int | float | str | list[int]


class GraphBuilder:
    """Collects nodes and initializers; every method that adds a node returns the name of its output."""

    def __init__(self, weights: Mapping[str, AnyArray]) -> None:
        self.weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}

    def add(self, op: str, *inputs: str, **attributes: Attribute) -> str:
        """A node with one output."""
        name = f"{op}_{len(self._nodes)}_output"
        self.add_many(op, inputs, [name], **attributes)
        return name

    def add_many(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Attribute) -> None:
        """A node with the outputs named; an empty name leaves one out."""
        name = f"{op}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))  # type: ignore[arg-type]

    def constant(self, name: str, value: AnyArray) -> str:
        """An initializer, once for each name."""
        if name not in self._initializers:
            self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def ints(self, *values: int) -> str:
        """A constant of int64 (len(values),)."""
        return self.constant("ints_" + "_".join(map(str, values)), np.array(values, np.int64))

    def weight(self, name: str) -> str:
        """A tensor of the checkpoint as initializer."""
        return self.constant(name, self.weights[name])

    def conv(self, x: str, name: str, **attributes: Attribute) -> str:
        """A convolution by its checkpoint name, with a bias where it has one."""
        inputs = [x, self.weight(f"{name}.weight")]
        if f"{name}.bias" in self.weights:
            inputs.append(self.weight(f"{name}.bias"))
        return self.add("Conv", *inputs, **attributes)

    def batch_norm(self, x: str, name: str) -> str:
        """Batch normalisation by its checkpoint name; without scale and shift where it has none."""
        mean = self.weights[f"{name}.running_mean"]
        scale, shift = f"{name}.weight", f"{name}.bias"
        if scale not in self.weights:
            self.constant(scale, np.ones_like(mean))
            self.constant(shift, np.zeros_like(mean))
        else:
            self.weight(scale)
            self.weight(shift)
        running = (self.weight(f"{name}.running_mean"), self.weight(f"{name}.running_var"))
        return self.add("BatchNormalization", x, scale, shift, *running, epsilon=1e-5)

    def model(self, inputs: Mapping[str, Sequence[int | str]], outputs: Mapping[str, Sequence[int | str]]) -> onnx.ModelProto:
        """The checked float32 model; names in a shape are free dimensions."""
        graph = helper.make_graph(
            self._nodes,
            "callstream",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
            list(self._initializers.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return model


def open_graph(model: onnx.ModelProto) -> InferenceSession:
    """The graph on the CPU, with one thread and without an arena, which would keep memory for every shape that it has met."""
    options = SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    return InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def drop_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers that no output needs; nodes are in topological order."""
    needed = {value.name for value in graph.output}
    nodes = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(reversed(nodes))
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.initializer[:]
    graph.initializer.extend(initializers)
    del graph.value_info[:]
