"""Whisper (Radford et al. 2022, https://arxiv.org/abs/2212.04356) cut down to what language identification needs.

From the quantised ONNX graphs as exported for transformers.js: the encoder takes any even number of frames instead of 3000
(30 s), and the decoder makes one step on the start token and gives the logits of the 99 language tokens only.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from pipeline.models.errors import ModelError
from pipeline.models.graph import drop_unused
from pipeline.models.signed_weights import make_signed

START_TOKEN = 50_258
LANGUAGE_TOKENS = range(50_259, 50_358)  # of the multilingual vocabulary; the same for tiny, base and small
_POSITIONS = "embed_positions.weight"
_EMBEDDING = "model.decoder.embed_tokens.weight_merged_0_quantized"
_LANGUAGES = "language_tokens_quantized"


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
    """`encoder_hidden_states` float32 (batch, frames / 2, width) -> `language_logits` float32 (1, 1, 99).

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
    drop_unused(graph)
    converted = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(converted)
    return converted


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
    inputs = [value for value in graph.input if value.name == "encoder_hidden_states"]
    initializers = [*graph.initializer, *branch.initializer]
    return helper.make_graph([*before, *branch.node], "whisper_first_step", inputs, [branch.output[0]], initializers)


def _keep_outputs(graph: onnx.GraphProto, name: str) -> None:
    kept = [value for value in graph.output if value.name == name]
    del graph.output[:]
    graph.output.extend(kept)
