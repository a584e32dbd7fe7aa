"""Converted models give what the original frameworks give, on real speech and on the stored synthetic voice."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from pipeline.models import convert_whisper
from pipeline.models.errors import ModelError
from pipeline.models.features import KaldiFbank, mel_power, whisper_log_mel
from pipeline.models.gender_encoder import VoiceEncoder, window_starts
from pipeline.models.graph import drop_unused
from pipeline.models.language import LABELS, MASKED_BY_DEFAULT
from pipeline.models.manifest import Manifest
from pipeline.models.models import ModelSet, open_language
from pipeline.models.session import open_session
from pipeline.models.store import model_paths
from pipeline.models.verification import check_conversion, reference_signal, references
from tests.models.conftest import CLIPS, reference, samples_of


@pytest.mark.parametrize("clip", CLIPS)
def test_kaldi_features_equal_the_reference(clip: int) -> None:
    arrays = reference(f"campplus_{clip}")
    np.testing.assert_array_equal(KaldiFbank(80)(samples_of(arrays)), arrays["fbank"])


@pytest.mark.parametrize("clip", CLIPS)
def test_speaker_encoder_equals_pytorch(models: ModelSet, clip: int) -> None:
    """float32 in another order of summation: 1e-4 of values up to 1.7."""
    arrays = reference(f"campplus_{clip}")
    np.testing.assert_allclose(models.speaker.embed(samples_of(arrays)), arrays["embedding"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("clip", CLIPS)
def test_voice_encoder_equals_pytorch(cache_dir: Path, manifest: Manifest, clip: int) -> None:
    arrays = reference(f"ge2e_{clip}")
    samples = samples_of(arrays)
    np.testing.assert_allclose(mel_power(samples, 40, "constant"), arrays["mel"], rtol=1e-4, atol=1e-5)
    assert [start * 160 for start in window_starts(samples.size)] == arrays["slices"][:, 0].tolist()
    encoder = VoiceEncoder(model_paths(cache_dir, manifest.model("ge2e"))[0], level_dbfs=None)
    np.testing.assert_allclose(encoder.embed(samples), arrays["embedding"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", ["tiny", "base"])
@pytest.mark.parametrize("clip", CLIPS)
def test_language_posteriors_equal_the_published_graphs(cache_dir: Path, manifest: Manifest, size: str, clip: int) -> None:
    """With the full 30 s of context what was changed shows in roundings only.

    One column of forty of the encoder's weights is a little smaller, the decoder's attention is of floats, and sums of floats
    differ in the last bit without AVX-512, so that roundings to eight bits turn over (the same weights as floats: 0.16).
    """
    arrays = reference(f"whisper_{size}_{clip}")
    samples = samples_of(arrays)
    log_mel = whisper_log_mel(np.pad(samples, (0, 480_000 - samples.size)), 80)[:, :500]
    np.testing.assert_allclose(log_mel, arrays["logmel_30s"], rtol=0, atol=1e-5)
    model = manifest.model(f"whisper-{size}")
    identifier = open_language(model, model_paths(cache_dir, model))
    posteriors = np.exp(identifier.log_posteriors(samples, context_s=30))
    np.testing.assert_allclose(posteriors, arrays["posterior"], rtol=0, atol=0.1)


@pytest.mark.parametrize("clip", [0, 2])
def test_short_context_names_the_same_language(models: ModelSet, clip: int) -> None:
    arrays = reference(f"whisper_tiny_{clip}")
    short = models.language.log_posteriors(samples_of(arrays))
    assert short.argmax() == arrays["posterior"].argmax()


def test_labels_are_whispers_in_order() -> None:
    arrays = reference("whisper_base_0")
    assert list(LABELS) == [{"jw": "jv"}.get(code, code) for code in arrays["languages"].tolist()]


def test_labels_are_unique_and_hold_the_masked_ones() -> None:
    assert len(set(LABELS)) == len(LABELS) == len(convert_whisper.LANGUAGE_TOKENS) == 99
    assert set(LABELS) > MASKED_BY_DEFAULT


@pytest.mark.parametrize("name", ["silero", "campplus", "ge2e", "whisper-tiny", "whisper-base"])
def test_conversion_equals_the_stored_output(cache_dir: Path, manifest: Manifest, name: str) -> None:
    model = manifest.model(name)
    assert references()[name].sha256 == model.files[0].sha256
    check_conversion(model, model_paths(cache_dir, model))


def test_every_model_has_a_stored_output(manifest: Manifest) -> None:
    assert {model.name: model.files[0].sha256 for model in manifest.models} == {
        name: stored.sha256 for name, stored in references().items()
    }


def test_another_graph_is_noticed(cache_dir: Path, manifest: Manifest, tmp_path: Path) -> None:
    """The stray ReLU behind the last layer, for one."""
    model = manifest.model("campplus")
    graph = onnx.load(str(model_paths(cache_dir, model)[0]))
    last = next(node for node in graph.graph.node if "embedding" in node.output)
    last.op_type = "Relu"
    onnx.save(graph, str(tmp_path / "campplus.onnx"))
    with pytest.raises(ModelError, match="times the tolerance"):
        check_conversion(model, [tmp_path / "campplus.onnx"])


def test_the_reference_signal_is_a_fixed_16_bit_sound() -> None:
    pcm = reference_signal() * 32768
    assert pcm.shape == (48_000,)
    np.testing.assert_array_equal(pcm, np.round(pcm))
    assert 0.3 < np.abs(pcm).max() / 32768 < 1.0


def test_only_the_language_tokens_are_left(cache_dir: Path, manifest: Manifest) -> None:
    _, decoder = model_paths(cache_dir, manifest.model("whisper-tiny"))
    session = open_session(decoder)
    assert [value.name for value in session.get_inputs()] == ["encoder_hidden_states"]
    assert [value.shape for value in session.get_outputs()] == [[1, 1, 99]]


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_the_decoder_needs_no_keys_and_values(cache_dir: Path, manifest: Manifest, size: str) -> None:
    """What was heard is multiplied as it is: by queries, and by shares of attention."""
    model = manifest.model(f"whisper-{size}")
    decoder = onnx.load(str(model_paths(cache_dir, model)[1]))
    attention = [node.name for node in decoder.graph.node if "/encoder_attn/" in node.name]
    assert attention
    assert not [name for name in attention if "/k_proj/" in name or "/v_proj/" in name]
    used_by = {node.op_type for node in decoder.graph.node if {"heard", "encoder_hidden_states"} & set(node.input)}
    assert used_by == {"Gather", "Transpose", "MatMul"}


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), tokens=st.integers(1, 30), heads=st.integers(1, 4))
def test_attention_without_keys_and_values_is_attention(seed: int, tokens: int, heads: int) -> None:
    """A layer with the names of an exported one, against (q K^T) V of its weights as they are meant."""
    generator, width = np.random.default_rng(seed), heads * 64
    weights = {name: generator.integers(0, 256, (width, width)).astype(np.uint8) for name in "kv"}
    bias = generator.standard_normal(width).astype(np.float32)
    arrays: dict[str, np.ndarray] = {"bias": bias}
    for name, weight in weights.items():
        quantised: dict[str, np.ndarray] = {
            "quantized": weight,
            "zero_point": np.array(120, np.uint8),
            "scale": np.array(0.001, np.float32),
        }
        arrays |= {f"{name}_{what}": array for what, array in quantised.items()}
    names = {
        "k_proj/MatMul_quant": ["x", "k_quantized"],
        "v_proj/MatMul_quant": ["x", "v_quantized"],
        "v_proj/Add": ["bias", "v"],
    }
    names |= {"MatMul": ["query", "keys"], "Softmax": ["scores"], "MatMul_1": ["shares", "values"]}
    nodes = [
        helper.make_node("MatMul", inputs, [f"to_{name}"], name=f"0/encoder_attn/{name}") for name, inputs in names.items()
    ]
    inputs = [helper.make_tensor_value_info(name, 1, None) for name in ("query", "encoder_hidden_states")]
    outputs = [helper.make_tensor_value_info("to_MatMul_1", 1, None)]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "layer", inputs, outputs, tensors)
    convert_whisper._hear_with_one_query(graph)
    drop_unused(graph)
    query = generator.standard_normal((heads, 1, 64)).astype(np.float32)
    encoded = generator.standard_normal((1, tokens, width)).astype(np.float32)
    feed = {"query": query, "encoder_hidden_states": encoded}
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    (said,) = (np.asarray(one) for one in ReferenceEvaluator(model).run(None, feed))

    keys, values = (encoded[0] @ ((weights[name].astype(np.float32) - 120) * 0.001) for name in "kv")
    keys, values = (one.reshape(tokens, heads, 64).transpose(1, 0, 2) for one in (keys, values + bias))
    scores = query @ keys.transpose(0, 2, 1)
    shares = np.exp(scores - scores.max(axis=2, keepdims=True))
    meant = shares / shares.sum(axis=2, keepdims=True) @ values
    np.testing.assert_allclose(said, meant, rtol=0, atol=1e-4)


def test_what_is_no_whisper_graph_is_refused(cache_dir: Path, manifest: Manifest) -> None:
    graph = onnx.load(str(model_paths(cache_dir, manifest.model("ge2e"))[0]))
    with pytest.raises(ModelError, match="no Whisper encoder"):
        convert_whisper.convert_encoder(graph)
    with pytest.raises(ModelError, match="no merged Whisper decoder"):
        convert_whisper.convert_decoder(graph)
