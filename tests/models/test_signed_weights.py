"""Signed weights: the same products, to the last bit."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.models.signed_weights import make_signed


def product(weights: np.ndarray, zero_point: np.ndarray, *, shared: bool = False) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMulInteger", ["x", "w", "xz", "wz"], ["y"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.INT32, None)]
    if shared:
        nodes.append(helper.make_node("Identity", ["w"], ["copy"]))
        outputs.append(helper.make_tensor_value_info("copy", TensorProto.UINT8, None))
    inputs = [helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in ("x", "xz")]
    graph = helper.make_graph(
        nodes,
        "product",
        inputs,
        outputs,
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(zero_point, "wz")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


def types(model: onnx.ModelProto) -> set[int]:
    return {tensor.data_type for tensor in model.graph.initializer}


@given(st.integers(0, 2**32 - 1), st.integers(0, 255), st.integers(0, 255))
def test_products_stay_the_same(seed: int, of_x: int, of_weights: int) -> None:
    generator = np.random.default_rng(seed)
    weights = generator.integers(0, 256, (5, 7)).astype(np.uint8)
    model = product(weights, np.array(of_weights, np.uint8))
    feed = {"x": generator.integers(0, 256, (3, 5)).astype(np.uint8), "xz": np.array(of_x, np.uint8)}
    (before,) = ReferenceEvaluator(model).run(None, feed)
    make_signed(model.graph)
    assert types(model) == {TensorProto.INT8}
    (after,) = ReferenceEvaluator(model).run(None, feed)
    np.testing.assert_array_equal(after, before)


def test_weights_that_are_used_elsewhere_too_stay_as_they_are() -> None:
    model = product(np.ones((2, 2), np.uint8), np.array(3, np.uint8), shared=True)
    make_signed(model.graph)
    assert types(model) == {TensorProto.UINT8}


def test_two_weights_with_one_zero_point_stay_as_they_are() -> None:
    model = product(np.ones((2, 2), np.uint8), np.array(3, np.uint8))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2), np.uint8), "w2"))
    model.graph.node.append(helper.make_node("MatMulInteger", ["x", "w2", "xz", "wz"], ["y2"]))
    make_signed(model.graph)
    assert types(model) == {TensorProto.UINT8}


def test_signed_weights_stay_as_they_are() -> None:
    model = product(np.ones((2, 2), np.int8), np.array(0, np.int8))
    before = model.SerializeToString()
    make_signed(model.graph)
    assert model.SerializeToString() == before
