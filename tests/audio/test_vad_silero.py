from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnxruntime.capi.onnxruntime_inference_collection import InferenceSession

from pipeline.models.errors import ModelError
from pipeline.models.silero import HIDDEN, WINDOW_SAMPLES, SileroVad

RATES_HZ = [8000, 16000]
WINDOWS = 300


def windows_of(samples: npt.NDArray[np.int16], rate_hz: int) -> npt.NDArray[np.float32]:
    size = WINDOW_SAMPLES[rate_hz]
    return samples[: WINDOWS * size].reshape(-1, size).astype(np.float32) / np.float32(32768)


def packaged_probabilities(path: Path, windows: npt.NDArray[np.float32], rate_hz: int) -> npt.NDArray[np.float32]:
    """As the silero package itself does it: one window a call behind the last samples of the one before."""
    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    context = np.zeros((1, windows.shape[1] // 8), np.float32)
    state, found = np.zeros((2, 1, 128), np.float32), []
    for window in windows:
        audio = np.concatenate((context, window[None]), axis=1)
        value, state = map(np.asarray, session.run(None, {"input": audio, "state": state, "sr": np.array(rate_hz, np.int64)}))
        found.append(value[0, 0])
        context = audio[:, -context.shape[1] :]
    return np.array(found)


def grouped(silero: SileroVad, windows: npt.NDArray[np.float32], rate_hz: int, size: int) -> npt.NDArray[np.float32]:
    state, parts = silero.initial_state(rate_hz), []
    for first in range(0, len(windows), size):
        values, state = silero.probabilities(windows[first : first + size], state)
        parts.append(values)
    return np.concatenate(parts)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_equals_the_packaged_graph(
    silero: SileroVad, silero_path: Path, speech: dict[int, npt.NDArray[np.int16]], rate_hz: int
) -> None:
    windows = windows_of(speech[rate_hz], rate_hz)
    expected = packaged_probabilities(silero_path, windows, rate_hz)
    assert expected.max() > 0.9
    assert expected.min() < 0.1
    np.testing.assert_allclose(grouped(silero, windows, rate_hz, 5), expected, atol=1e-5)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("size", [1, 7, WINDOWS])
def test_grouping_changes_nothing(silero: SileroVad, speech: dict[int, npt.NDArray[np.int16]], rate_hz: int, size: int) -> None:
    windows = windows_of(speech[rate_hz], rate_hz)
    np.testing.assert_allclose(grouped(silero, windows, rate_hz, size), grouped(silero, windows, rate_hz, 5), atol=1e-5)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_the_state_is_what_the_lstm_put_out_last(
    silero: SileroVad, speech: dict[int, npt.NDArray[np.int16]], rate_hz: int
) -> None:
    windows = windows_of(speech[rate_hz], rate_hz)
    heard = silero.listen(windows, silero.initial_state(rate_hz))
    assert heard.hidden.shape == (WINDOWS, HIDDEN)
    np.testing.assert_array_equal(heard.state[:HIDDEN], heard.hidden[-1])
    np.testing.assert_array_equal(heard.state[2 * HIDDEN :], windows[-1, -windows.shape[1] // 8 :])
    first = silero.listen(windows[:7], silero.initial_state(rate_hz))
    np.testing.assert_allclose(first.hidden, heard.hidden[:7], atol=1e-5)


def test_no_windows_leave_the_state(silero: SileroVad) -> None:
    state = silero.initial_state(8000)
    values, after = silero.probabilities(np.zeros((0, 256), np.float32), state)
    assert values.shape == (0,)
    np.testing.assert_array_equal(after, state)


def test_the_callers_state_is_not_changed(silero: SileroVad, speech: dict[int, npt.NDArray[np.int16]]) -> None:
    state = silero.initial_state(8000)
    _, after = silero.probabilities(windows_of(speech[8000], 8000), state)
    assert not state.any()
    assert after.any()
    assert after.dtype == np.float32


def test_threads_share_one_model(silero: SileroVad, speech: dict[int, npt.NDArray[np.int16]]) -> None:
    rates = RATES_HZ * 4
    alone = {rate_hz: grouped(silero, windows_of(speech[rate_hz], rate_hz), rate_hz, 5) for rate_hz in RATES_HZ}
    with ThreadPoolExecutor(4) as pool:
        together = pool.map(lambda rate_hz: grouped(silero, windows_of(speech[rate_hz], rate_hz), rate_hz, 5), rates)
    for rate_hz, values in zip(rates, together, strict=True):
        np.testing.assert_array_equal(values, alone[rate_hz])


def test_other_files_are_refused(tmp_path: Path) -> None:
    garbage, other = tmp_path / "garbage.onnx", tmp_path / "other.onnx"
    garbage.write_bytes(b"this is no model")
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "other", [value], [result])
    onnx.save(onnx.helper.make_model(graph), other)
    for path in (garbage, other, tmp_path / "absent.onnx"):
        with pytest.raises(ModelError, match=r"silero VAD model .*fetch the models") as caught:
            SileroVad(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
