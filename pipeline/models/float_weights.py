"""Quantised weights as floats again: for batches, and for processors that multiply floats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pipeline.models.graph import drop_unused

_WEIGHT, _ZERO_POINT = 1, 3  # inputs of MatMulInteger and ConvInteger (https://onnx.ai/onnx/operators/)
_QUANTISE = "DynamicQuantizeLinear"
_OF_FLOATS = {"MatMulInteger": "MatMul", "ConvInteger": "Conv"}


def make_floats(graph: onnx.GraphProto) -> set[str]:
    """Turn products of dynamically quantised signals with quantised weights into products of floats, with the same weights.

    As onnxruntime's `quantize_dynamic` writes them: DynamicQuantizeLinear, the product of integers, a cast to floats, and the
    scale of the signal times that of the weights. What is not of this form stays as it is: the operators that are left.
    """
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    weights: dict[str, onnx.TensorProto] = {}
    for node in [node for node in graph.node if node.op_type in _OF_FLOATS]:
        scaled = _scaled(node, users)
        if scaled is not None and (made := _of_floats(node, scaled, values, makers)) is not None:
            weights[made[0].name] = made[0]
            scaled.CopyFrom(made[1])
    graph.initializer.extend(weights.values())
    drop_unused(graph)
    return {node.op_type for node in graph.node} & {*_OF_FLOATS, _QUANTISE}


def _scaled(node: onnx.NodeProto, users: Mapping[str, list[onnx.NodeProto]]) -> onnx.NodeProto | None:
    """The node that scales this product, whose output is what the product of floats gives."""
    casts = users.get(node.output[0], [])
    if len(casts) != 1 or casts[0].op_type != "Cast":
        return None
    scaled = users.get(casts[0].output[0], [])
    return scaled[0] if len(scaled) == 1 and scaled[0].op_type == "Mul" else None


def _of_floats(
    node: onnx.NodeProto,
    scaled: onnx.NodeProto,
    values: Mapping[str, npt.NDArray[Any]],
    makers: Mapping[str, onnx.NodeProto],
) -> tuple[onnx.TensorProto, onnx.NodeProto] | None:
    signal = makers.get(node.input[0])
    scale = _scale_of_weights(scaled, values, makers)
    weights = values.get(node.input[_WEIGHT])
    if signal is None or signal.op_type != _QUANTISE or scale is None or weights is None:
        return None
    if not _is_scale_of(scale, weights, node.op_type):
        return None
    zero_point = values.get(node.input[_ZERO_POINT], np.zeros(1)) if len(node.input) > _ZERO_POINT else np.zeros(1)
    floats = (weights.astype(np.float32) - zero_point.astype(np.float32)) * scale
    name = f"{node.input[_WEIGHT]}_floats"
    product = helper.make_node(_OF_FLOATS[node.op_type], [signal.input[0], name], list(scaled.output), name=node.name)
    product.attribute.extend(node.attribute)
    return numpy_helper.from_array(floats.astype(np.float32), name), product


def _scale_of_weights(
    scaled: onnx.NodeProto, values: Mapping[str, npt.NDArray[Any]], makers: Mapping[str, onnx.NodeProto]
) -> npt.NDArray[Any] | None:
    """What the weights are multiplied by; None where it is not known."""
    scales = [makers[name] for name in scaled.input if name in makers and makers[name].op_type == "Mul"]
    known = [values[name] for node in scales for name in node.input if name in values]
    return known[0] if len(known) == 1 else None


def _is_scale_of(scale: npt.NDArray[Any], weights: npt.NDArray[Any], product: str) -> bool:
    """Whether it is one number for all weights, or of a matrix one for each column."""
    return scale.size == 1 or (product == "MatMulInteger" and scale.shape == weights.shape[-1:])
