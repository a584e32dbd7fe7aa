"""Whisper (Radford et al. 2022, https://arxiv.org/abs/2212.04356) cut down to what language identification needs.

From the quantised ONNX graphs as exported for transformers.js: the encoder takes any even number of frames instead of 3000
(30 s), and the decoder makes one step on the start token and gives the logits of the 99 language tokens only.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from pipeline.models.errors import ModelError
from pipeline.models.graph import drop_unused
from pipeline.models.signed_weights import make_fit, make_signed

FloatArray = npt.NDArray[np.float32]

START_TOKEN = 50_258
LANGUAGE_TOKENS = range(50_259, 50_358)  # of the multilingual vocabulary; the same for tiny, base and small
_POSITIONS = "embed_positions.weight"
_EMBEDDING = "model.decoder.embed_tokens.weight_merged_0_quantized"
_LANGUAGES = "language_tokens_quantized"
_ENCODED = "encoder_hidden_states"
_ATTENTION = "/encoder_attn/Softmax"
_HEAD_WIDTH = 64  # of every size of Whisper


def convert_encoder(model: onnx.ModelProto) -> onnx.ModelProto:
    """`input_features` float32 (batch, 80, frames) -> `last_hidden_state` float32 (batch, frames / 2, width).

    The position embedding becomes its first frames / 2 rows. Raises ModelError for another kind of graph.
    """
    graph = model.graph
    add = next((node for node in graph.node if _POSITIONS in node.input), None)
    if add is None or add.op_type != "Add":
        raise ModelError("this is no Whisper encoder: it adds no position embedding; check the manifest")
    signal = next(name for name in add.input if name != _POSITIONS)
    index = list(graph.node).index(add)
    for offset, node in enumerate(_first_positions(graph, signal)):
        graph.node.insert(index + offset, node)
    add.input[:] = [signal, "positions_used"]
    _keep_outputs(graph, "last_hidden_state")
    drop_unused(graph)
    make_signed(graph)
    make_fit(graph)
    onnx.checker.check_model(model)
    return model


def _first_positions(graph: onnx.GraphProto, signal: str) -> list[onnx.NodeProto]:
    """Nodes that give the position embedding of as many frames as `signal` (batch, frames, width) has."""
    for name, value in (("positions_0", 0), ("positions_1", 1), ("positions_2", 2)):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.int64), name))
    return [
        helper.make_node("Shape", [signal], ["positions_shape"]),
        helper.make_node("Slice", ["positions_shape", "positions_1", "positions_2"], ["positions_end"]),
        helper.make_node("Slice", [_POSITIONS, "positions_0", "positions_end", "positions_0"], ["positions_used"]),
    ]


def convert_decoder(model: onnx.ModelProto) -> onnx.ModelProto:
    """`encoder_hidden_states` float32 (1, frames / 2, width) -> `language_logits` float32 (1, 1, 99).

    Raises ModelError for another kind of graph.
    """
    graph = _without_cache(model.graph)
    embedding = next((tensor for tensor in graph.initializer if tensor.name == _EMBEDDING), None)
    if embedding is None:
        raise ModelError("this is no Whisper decoder: it has no quantised token embedding; check the manifest")
    rows = numpy_helper.to_array(embedding)
    embedding.CopyFrom(numpy_helper.from_array(rows[[START_TOKEN]], _EMBEDDING))
    graph.initializer.append(numpy_helper.from_array(rows[list(LANGUAGE_TOKENS)], _LANGUAGES))
    graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1), np.int64), "input_ids"))  # the one row that is left
    _rewire_logits(graph)
    _hear_with_one_query(graph)
    drop_unused(graph)
    converted = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(converted)
    return converted


def _hear_with_one_query(graph: onnx.GraphProto) -> None:
    """Attention to the encoder's tokens without their keys and values, which cost most of the step.

    There is one query, so (q K^T) V = ((q Wk^T) H^T) H Wv, with a product of a matrix and a vector in place of a product of
    matrices on either side. The weights are floats here: what is multiplied is a vector, and is quantised no more.
    """
    attentions = [node.name.removesuffix("Softmax") for node in graph.node if node.name.endswith(_ATTENTION)]
    graph.initializer.append(numpy_helper.from_array(np.array(0), "heard_first"))
    nodes = [
        helper.make_node("Gather", [_ENCODED, "heard_first"], ["heard"], axis=0),
        helper.make_node("Transpose", ["heard"], ["heard_turned"], perm=[1, 0]),
    ]
    for offset, node in enumerate(nodes):
        graph.node.insert(offset, node)
    for layer, attention in enumerate(attentions):
        _replace(graph, attention, f"heard_{layer}")


def _replace(graph: onnx.GraphProto, attention: str, name: str) -> None:
    """Put new nodes in the place of a layer's scores and of its sum of values."""
    nodes = {node.name.removeprefix(attention): node for node in graph.node if node.name.startswith(attention)}
    scores, values = nodes["MatMul"], nodes["MatMul_1"]
    keys, values_of = (_floats(graph, nodes[f"{which}_proj/MatMul_quant"].input[1]) for which in "kv")
    (bias,) = [numpy_helper.to_array(one) for one in graph.initializer if one.name in nodes["v_proj/Add"].input]
    width, heads = len(keys), len(keys) // _HEAD_WIDTH
    constants = {
        "keys": keys.reshape(width, heads, _HEAD_WIDTH).transpose(1, 2, 0),
        "values": values_of.reshape(width, heads, _HEAD_WIDTH).transpose(1, 0, 2),
        "bias": bias.reshape(heads, 1, _HEAD_WIDTH),
        "flat": np.array([heads, width]),
        "each": np.array([heads, 1, width]),
    }
    for which, array in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), f"{name}_{which}"))
    index = list(graph.node).index(values)
    for offset, node in enumerate(_attention(name, scores.input[0], values.output[0])):
        graph.node.insert(index + offset, node)
    graph.node.remove(values)


def _attention(name: str, query: str, output: str) -> list[onnx.NodeProto]:
    """From the query (heads, 1, 64) to the sum of values (heads, 1, 64)."""
    return [
        helper.make_node("MatMul", [query, f"{name}_keys"], [f"{name}_asked_each"]),
        helper.make_node("Reshape", [f"{name}_asked_each", f"{name}_flat"], [f"{name}_asked"]),
        helper.make_node("MatMul", [f"{name}_asked", "heard_turned"], [f"{name}_scores"]),
        helper.make_node("Softmax", [f"{name}_scores"], [f"{name}_shares"], axis=1),
        helper.make_node("MatMul", [f"{name}_shares", "heard"], [f"{name}_taken"]),
        helper.make_node("Reshape", [f"{name}_taken", f"{name}_each"], [f"{name}_taken_each"]),
        helper.make_node("MatMul", [f"{name}_taken_each", f"{name}_values"], [f"{name}_sum"]),
        helper.make_node("Add", [f"{name}_sum", f"{name}_bias"], [output]),
    ]


def _floats(graph: onnx.GraphProto, quantised: str) -> FloatArray:
    """A quantised matrix as floats, by the names that `quantize_dynamic` gives."""
    stem = quantised.removesuffix("_quantized")
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name.startswith(stem)}
    whole, zero_point, scale = (tensors[f"{stem}_{what}"].astype(np.float32) for what in ("quantized", "zero_point", "scale"))
    floats: FloatArray = (whole - zero_point) * scale
    return floats


def _rewire_logits(graph: onnx.GraphProto) -> None:
    """Multiply with the language tokens' rows instead of the whole embedding."""
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] == _EMBEDDING:
            node.input[0] = _LANGUAGES
        node.output[:] = ["language_logits" if name == "logits" else name for name in node.output]
    shape = [1, 1, len(LANGUAGE_TOKENS)]
    graph.output[0].CopyFrom(helper.make_tensor_value_info("language_logits", onnx.TensorProto.FLOAT, shape))


def _without_cache(graph: onnx.GraphProto) -> onnx.GraphProto:
    """The merged decoder's branch for the first token, as a graph of its own."""
    choice = next((node for node in graph.node if node.op_type == "If"), None)
    if choice is None:
        raise ModelError("this is no merged Whisper decoder: it has no branch for the first token; check the manifest")
    branch = next(attribute.g for attribute in choice.attribute if attribute.name == "else_branch")
    before = [node for node in graph.node if node.op_type != "If"]
    inputs = [value for value in graph.input if value.name == _ENCODED]
    initializers = [*graph.initializer, *branch.initializer]
    return helper.make_graph([*before, *branch.node], "whisper_first_step", inputs, [branch.output[0]], initializers)


def _keep_outputs(graph: onnx.GraphProto, name: str) -> None:
    kept = [value for value in graph.output if value.name == name]
    del graph.output[:]
    graph.output.extend(kept)
