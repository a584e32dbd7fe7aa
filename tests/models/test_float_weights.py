"""Quantised weights as floats: the product that was meant, and only where the graph has the form that is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.models.errors import ModelError
from pipeline.models.execution import Execution
from pipeline.models.float_weights import make_floats
from pipeline.models.models import ModelSet
from pipeline.models.session import open_session
from pipeline.models.verification import reference_signal

WEIGHTS = np.random.default_rng(0).integers(0, 256, (5, 7)).astype(np.uint8)
SCALES = st.floats(1e-3, 10) | st.lists(st.floats(1e-3, 10), min_size=7, max_size=7)  # of all, or of each column
INTEGERS = {"MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"}


def product(
    zero_point: int = 128, scale: list[list[float]] | list[float] | float = 0.25, *, second_use: bool = False
) -> onnx.ModelProto:
    """`quantize_dynamic`'s nodes for x @ w."""
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("MatMulInteger", ["xq", "w", "xz", "wz"], ["integers"]),
        helper.make_node("Cast", ["integers"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["xs", "ws"], ["scale"]),
        helper.make_node("Mul", ["cast", "scale"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    if second_use:
        outputs.append(helper.make_tensor_value_info("z", TensorProto.INT32, None))
        nodes.append(helper.make_node("Identity", ["integers"], ["z"]))
    arrays: dict[str, np.ndarray] = {"w": WEIGHTS, "wz": np.array(zero_point, np.uint8), "ws": np.array(scale, np.float32)}
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)]
    initializers = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "product", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1), zero_point=st.integers(0, 255), scale=SCALES)
def test_the_product_is_that_of_the_weights_that_were_meant(seed: int, zero_point: int, scale: list[float] | float) -> None:
    model = product(zero_point, scale)
    x = np.random.default_rng(seed).standard_normal((3, 5)).astype(np.float32)
    make_floats(model.graph)
    assert operators(model) == {"MatMul"}
    (after,) = list(ReferenceEvaluator(model).run(None, {"x": x}))
    meant = x.astype(np.float64) @ ((WEIGHTS.astype(np.float64) - zero_point) * np.array(scale, np.float32))
    np.testing.assert_allclose(np.asarray(after), meant, rtol=1e-4, atol=1e-4 * np.abs(meant).max())


@pytest.mark.parametrize("model", [product(scale=[[0.5]] * 3), product(second_use=True)], ids=["scale by row", "second use"])
def test_what_has_another_form_stays_as_it_is(model: onnx.ModelProto) -> None:
    before = model.SerializeToString()
    assert make_floats(model.graph) == {"MatMulInteger", "DynamicQuantizeLinear"}
    assert model.SerializeToString() == before


def test_a_model_that_stays_quantised_runs_in_no_batches(tmp_path: Path) -> None:
    path = tmp_path / "quantised.onnx"
    path.write_bytes(product(scale=[[0.5]] * 3).SerializeToString())
    with pytest.raises(ModelError, match="cannot run in batches, for it quantises them"):
        open_session(path, Execution(batch=2))


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_whisper_has_the_form_that_is_known(cache_dir: Path, models: ModelSet, part: str) -> None:
    model = onnx.load(str(cache_dir / "models" / f"whisper-tiny-{part}.onnx"))
    make_floats(model.graph)
    assert operators(model).isdisjoint(INTEGERS)


def test_floats_hear_what_quantised_weights_hear(cache_dir: Path, models: ModelSet) -> None:
    signal = reference_signal()[:32_000]
    floats = ModelSet.load(cache_dir, "tiny", execution=Execution(batch=2)).language
    assert floats.log_posteriors(signal).argmax() == models.language.log_posteriors(signal).argmax()
