"""Checkpoints are read without running anything that they carry."""

import contextlib
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.models.errors import ModelError
from pipeline.models.torch_weights import RestrictedUnpickler, read_state


class _Global:
    """Pickles as a call of any global, as an attacker would write it."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _zip(path: Path, data_pkl: bytes, storages: dict[str, bytes] | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data_pkl)
        for key, data in (storages or {}).items():
            archive.writestr(f"archive/data/{key}", data)
    return path


def _tensor(offset: int, shape: tuple[int, ...], strides: tuple[int, ...], elements: int = 6) -> bytes:
    """A state of one tensor 'w' over storage '0', as torch.save writes it (protocol 2)."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def numbers(*values: int) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values)

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + numbers(elements)[1:] + b"tQ"
    arguments = b"(" + storage + numbers(offset)[1:] + numbers(*shape) + b"t" + numbers(*strides) + b"t" + b"\x89"
    arguments += b"ccollections\nOrderedDict\n)R" + b"t"
    return b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


STORAGE = {"0": np.arange(6, dtype="<f4").tobytes()}


@pytest.mark.parametrize(
    "state",
    [b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", b"\x80\x02" + b"}X\x01\x00\x00\x00a" * 5000 + b"}" + b"s" * 5000 + b"."],
)
def test_dictionaries_without_end_are_refused(tmp_path: Path, state: bytes) -> None:
    """One that holds itself, and five thousand in each other."""
    pickle.loads(state)
    with pytest.raises(ModelError):
        read_state(_zip(tmp_path / "w.pt", state))


def test_a_tensor_is_a_view_of_its_storage(tmp_path: Path) -> None:
    state = read_state(_zip(tmp_path / "w.pt", _tensor(1, (2, 2), (1, 2)), STORAGE))
    np.testing.assert_array_equal(state["w"], [[1, 3], [2, 4]])


def test_the_older_layout_is_read_too(tmp_path: Path) -> None:
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    # in this layout a storage's reference has a sixth item
    state = _tensor(0, (6,), (1,)).replace(b"tQ", b"NtQ")
    (tmp_path / "w.pt").write_bytes(b"".join([*head, state, pickle.dumps(["0"], 2), struct.pack("<q", 6), STORAGE["0"]]))
    np.testing.assert_array_equal(read_state(tmp_path / "w.pt")["w"], np.arange(6))


@pytest.mark.parametrize("call", [(os.system, "touch HERE"), (eval, "open('HERE', 'w')"), (os.mkdir, "HERE"), (print, "HERE")])
@pytest.mark.parametrize("layout", ["zip", "older"])
def test_a_malicious_pickle_is_refused_and_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: tuple[Any, ...], layout: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps({"w": _Global(*call)}, 2)
    path = tmp_path / "evil.pt"
    if layout == "zip":
        _zip(path, data)
    else:
        path.write_bytes(data)
    with pytest.raises(ModelError, match="which no weights need"):
        read_state(path)
    assert [file.name for file in tmp_path.iterdir()] == ["evil.pt"]


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [
        (0, (7,), (1,)),
        (5, (2,), (1,)),
        (0, (2, 2), (5, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (7, (1,), (0,)),
    ],
)
def test_no_tensor_reaches_beyond_its_storage(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
) -> None:
    with pytest.raises(ModelError, match="not a checkpoint"):
        read_state(_zip(tmp_path / "w.pt", _tensor(offset, shape, strides), STORAGE))


@pytest.mark.parametrize("name", ["builtins.eval", "torch.load", "collections.deque", "numpy.core.multiarray._reconstruct"])
def test_only_what_tensors_need_may_be_named(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    with pytest.raises(pickle.UnpicklingError, match="which no weights need"):
        RestrictedUnpickler(io.BytesIO()).find_class(module, attribute)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_rubbish_is_refused_in_one_way(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "rubbish.pt").write_bytes(data)
    with pytest.raises(ModelError):
        read_state(tmp_path / "rubbish.pt")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 150), value=st.integers(0, 255))
def test_a_damaged_state_is_read_or_refused(tmp_path: Path, position: int, value: int) -> None:
    data = bytearray(_tensor(0, (2, 3), (3, 1)))
    data[position % len(data)] = value
    try:
        state = read_state(_zip(tmp_path / "w.pt", bytes(data), STORAGE))
    except ModelError:
        return
    assert all(isinstance(tensor, np.ndarray) for tensor in state.values())


@pytest.mark.parametrize(
    ("position", "value"), [(4, 29), (4, 51), (4, 63), (45, 10), (45, 22), (56, 77), (153, 114)], ids=lambda one: str(one)
)
def test_a_damaged_state_takes_no_more_memory_than_a_whole_one(tmp_path: Path, position: int, value: int) -> None:
    """Each of these once asked for gigabytes: an index of the memo, or a length, that damage has made huge."""
    data = bytearray(_tensor(0, (2, 3), (3, 1)))
    data[position] = value
    path = _zip(tmp_path / "w.pt", bytes(data), STORAGE)
    tracemalloc.start()
    try:
        with contextlib.suppress(ModelError):
            read_state(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_tensor_is_not_larger_than_its_storage(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="beyond its storage"):
        read_state(_zip(tmp_path / "w.pt", _tensor(0, (10**9, 3), (0, 1)), STORAGE))
