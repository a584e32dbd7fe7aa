"""Signed weights: the same products, to the last bit, also where two neighbours' are added in 16 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession
from onnxruntime.capi.onnxruntime_pybind11_state import SessionOptions

from pipeline.models.graph import IR_VERSION
from pipeline.models.manifest import Manifest
from pipeline.models.session import open_session
from pipeline.models.signed_weights import make_fit, make_signed, saturates
from pipeline.models.store import model_paths


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


def scaled(weights: np.ndarray, zero_point: int, scale: float = 0.5) -> onnx.ModelProto:
    """`quantize_dynamic`'s product, with its names."""
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w_quantized", "xz", "w_zero_point"], ["integers"]),
        helper.make_node("Cast", ["integers"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["floats", "w_scale"], ["y"]),
    ]
    arrays = {
        "w_quantized": weights,
        "w_zero_point": np.array(zero_point, weights.dtype),
        "w_scale": np.array(scale, np.float32),
    }
    inputs = [helper.make_tensor_value_info(name, TensorProto.UINT8, None) for name in ("x", "xz")]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return helper.make_model(helper.make_graph(nodes, "scaled", inputs, outputs, initializers))


def arrays_of(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer}


def worst_sums(weights: np.ndarray) -> np.ndarray:
    """(columns,): the largest that two neighbours' products with bytes add up to, in either direction."""
    pairs = np.pad(weights, ((0, len(weights) % 2), (0, 0))).reshape(-1, 2, weights.shape[1]) * 255
    return np.asarray(np.maximum(np.maximum(pairs, 0).sum(1), -np.minimum(pairs, 0).sum(1)).max(0))


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(-128, 127), st.floats(0, 1))
def test_no_two_neighbours_are_cut_off(seed: int, rows: int, zero_point: int, share: float) -> None:
    generator = np.random.default_rng(seed)
    reach = np.where(generator.random(7) < share, 128, 40)
    weights = generator.integers(-reach, reach, (rows, 7)).astype(np.int8)
    model = scaled(weights, zero_point)
    before = arrays_of(model)
    make_fit(model.graph)
    after = arrays_of(model)
    assert saturates(model) == bool((worst_sums(after["w_quantized"]) >= 2**15).any())
    kept = worst_sums(before["w_quantized"]) < 2**15
    scales = np.broadcast_to(after["w_scale"], 7)
    np.testing.assert_array_equal(after["w_quantized"][:, kept], before["w_quantized"][:, kept])
    np.testing.assert_array_equal(scales[kept], 0.5)
    meant = (before["w_quantized"] - zero_point) * 0.5
    np.testing.assert_allclose((after["w_quantized"] - zero_point) * scales, meant, rtol=0, atol=scales.max() * 0.51)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(-55, 55))
def test_weights_as_models_have_them_are_made_to_fit(seed: int, rows: int, zero_point: int) -> None:
    """Those of the shipped encoders have zero points between -53 and 32."""
    weights = np.random.default_rng(seed).integers(-128, 128, (rows, 7)).astype(np.int8)
    model = scaled(weights, zero_point)
    make_fit(model.graph)
    assert not saturates(model)


def test_what_cannot_be_made_to_fit_stays_as_it_is() -> None:
    for weights, zero_point in ((np.full((4, 4), 127, np.int8), 127), (np.full((2, 4, 4), 127, np.int8), 0)):
        model = scaled(weights, zero_point)
        before = model.SerializeToString()
        make_fit(model.graph)
        assert model.SerializeToString() == before
        assert saturates(model)


def of_graph(*nodes: onnx.NodeProto, **arrays: np.ndarray) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return helper.make_model(helper.make_graph(nodes, "graph", [], [], tensors))


LARGE = np.full((4, 4), 127, np.int8)
BRANCH = product(LARGE, np.array(0, np.int8)).graph


@pytest.mark.parametrize(
    "model",
    [
        product(LARGE, np.array(0, np.int8)),
        of_graph(helper.make_node("QLinearMatMul", ["x", "xs", "xz", "w", "ws", "wz", "ys", "yz"], ["y"]), w=LARGE),
        of_graph(helper.make_node("ConvInteger", ["x", "w"], ["y"]), w=np.ones((1, 1, 2), np.int8)),
        of_graph(helper.make_node("If", ["c"], ["y"], then_branch=BRANCH, else_branch=BRANCH)),
        of_graph(helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(LARGE))),
        of_graph(helper.make_node("MatMulInteger", ["x", "made_at_run_time"], ["y"])),
    ],
    ids=["large", "another operator", "convolution", "in a branch", "constant", "made at run time"],
)
def test_what_is_not_known_may_saturate(model: onnx.ModelProto) -> None:
    assert saturates(model)


def test_unsigned_weights_and_small_ones_do_not_saturate() -> None:
    assert not saturates(product(np.full((4, 4), 255, np.uint8), np.array(3, np.uint8)))
    assert not saturates(product(np.full((4, 4), 64, np.int8), np.array(3, np.int8)))
    assert not saturates(of_graph(helper.make_node("MatMul", ["x", "w"], ["y"]), w=np.ones((4, 4), np.float32)))


def test_a_model_that_does_not_fit_is_multiplied_exactly_all_the_same(tmp_path: Path) -> None:
    """On a processor without VNNI it would be cut off at 2 * 32767 if it were multiplied as it is."""
    model = product(np.full((4, 4), 127, np.int8), np.array(0, np.int8))
    model.ir_version = IR_VERSION
    path = tmp_path / "large.onnx"
    path.write_bytes(model.SerializeToString())
    feed = {"x": np.full((1, 4), 255, np.uint8), "xz": np.array(0, np.uint8)}
    (said,) = open_session(path).run(None, feed)
    np.testing.assert_array_equal(said, np.full((1, 4), 4 * 127 * 255))


def test_the_encoder_multiplies_signed_bytes_to_the_same_bits(cache_dir: Path, manifest: Manifest) -> None:
    """As with the slower products that cut nothing off."""
    encoder, _ = model_paths(cache_dir, manifest.model("whisper-base"))
    exact = SessionOptions()
    exact.intra_op_num_threads = 1
    exact.add_session_config_entry("session.x64quantprecision", "1")
    fast = SessionOptions()
    fast.intra_op_num_threads = 1
    sessions = [InferenceSession(str(encoder), options, providers=["CPUExecutionProvider"]) for options in (exact, fast)]
    assert not saturates(onnx.load(str(encoder)))
    for seed in range(3):
        features = np.random.default_rng(seed).standard_normal((1, 80, 200 + 40 * seed)).astype(np.float32) * 10**seed
        slow, signed = (session.run(None, {"input_features": features})[0] for session in sessions)
        np.testing.assert_array_equal(signed, slow)
