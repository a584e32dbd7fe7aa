"""Quantised weights as signed numbers, which processors multiply faster, and such that no sum of two products is cut off."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

_WEIGHT, _ZERO_POINT = 1, 3  # inputs of MatMulInteger (https://onnx.ai/onnx/operators/onnx__MatMulInteger.html)
# AVX2's instruction (VPMADDUBSW) adds two neighbours' products of an unsigned and a signed byte in 16 bits: 128 * 255 < 2 ** 15
_MOST = 128
_STEP, _STEPS = 1.02, 120  # a column is made smaller until it fits, at most by a factor of 10


def make_signed(graph: onnx.GraphProto) -> None:
    """Turn the uint8 weights of MatMulInteger and their zero points into int8, both less 128: their difference is the same.

    Instructions for products of unsigned and signed bytes then apply. Of whisper's encoders that halves the time on processors
    with VNNI. ConvInteger is left as it is, for there it takes longer.
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.UINT8}
    uses = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        if node.op_type == "MatMulInteger" and len(node.input) > _ZERO_POINT:
            pair = [node.input[place] for place in (_WEIGHT, _ZERO_POINT)]
            if all(name in tensors and uses[name] == 1 for name in pair):
                for name in pair:
                    _less_128(tensors[name])


def make_fit(graph: onnx.GraphProto) -> None:
    """Make columns of signed weights smaller where two neighbours' products could be cut off, and their scales larger.

    Of whisper-base's encoder that is one column of forty, of small's and tiny's one of 24 and 18; all others keep every bit.
    Processors without VNNI then multiply signed bytes too, with the same sums as those that have it. What has not the form
    that onnxruntime's `quantize_dynamic` writes, with one scale that is used once, or does not fit at a tenth either, stays as
    it is (`saturates` tells).
    """
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    uses = Counter(name for node in graph.node for name in node.input)
    for node in graph.node:
        if node.op_type != "MatMulInteger" or len(node.input) <= _ZERO_POINT:
            continue
        weight, zero_point = (tensors.get(node.input[place]) for place in (_WEIGHT, _ZERO_POINT))
        scale = tensors.get(f"{node.input[_WEIGHT].removesuffix('_quantized')}_scale")
        if weight is None or zero_point is None or scale is None or weight.data_type != onnx.TensorProto.INT8:
            continue
        sizes = [numpy_helper.to_array(one).size for one in (zero_point, scale)]
        if uses[scale.name] == uses[weight.name] == 1 and sizes == [1, 1] and len(weight.dims) == 2:
            _fit(weight, numpy_helper.to_array(zero_point).item(), scale)


def saturates(model: onnx.ModelProto) -> bool:
    """Whether sums of two products in 16 bits could be cut off: signed weights that do not fit, or whose use is not known."""
    return bool(model.functions) or _may_saturate(model.graph)


def _may_saturate(graph: onnx.GraphProto) -> bool:
    multiplied = {node.input[_WEIGHT] for node in graph.node if node.op_type == "MatMulInteger"}
    signed = [tensor for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    if multiplied - {tensor.name for tensor in graph.initializer}:
        return True
    if any(np.prod(one.dims) > 1 and not (one.name in multiplied and _fits(one)) for one in signed):
        return True
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    if any(one.HasField("t") and one.t.data_type == onnx.TensorProto.INT8 for one in attributes):
        return True
    return any(_may_saturate(inner) for one in attributes for inner in [*one.graphs, *([one.g] if one.HasField("g") else [])])


def _fits(weight: onnx.TensorProto) -> bool:
    array = numpy_helper.to_array(weight)
    return array.ndim == 2 and not _is_over(array).any()


def _is_over(weights: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.bool_]:
    """(rows, columns) of bytes -> of each column whether two neighbours in it are too much together.

    What they are multiplied with is 0 to 255: two of unlike signs are never too much.
    """
    sums = np.add(weights[:-1:2], weights[1::2], dtype=np.int16)  # the last of an odd number has no neighbour
    return np.asarray((np.abs(sums) > _MOST).any(axis=0))


def _fit(weight: onnx.TensorProto, zero_point: int, scale: onnx.TensorProto) -> None:
    before = numpy_helper.to_array(weight).astype(np.int16)
    fitting, factors = before.copy(), np.ones(before.shape[1])
    for _ in range(_STEPS):
        if not (over := np.flatnonzero(_is_over(fitting))).size:
            break
        factors[over] *= _STEP
        fitting[:, over] = np.round((before[:, over] - zero_point) / factors[over]).astype(np.int16) + zero_point
    if factors.max() > 1 and not _is_over(fitting).any():
        weight.CopyFrom(numpy_helper.from_array(fitting.astype(np.int8), weight.name))
        scales = (numpy_helper.to_array(scale) * factors).astype(np.float32)
        scale.CopyFrom(numpy_helper.from_array(scales, scale.name))


def _less_128(tensor: onnx.TensorProto) -> None:
    signed = (numpy_helper.to_array(tensor).astype(np.int16) - 128).astype(np.int8)
    tensor.CopyFrom(numpy_helper.from_array(signed, tensor.name))
