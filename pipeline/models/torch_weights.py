"""Read the tensors of a PyTorch checkpoint without PyTorch, and without running what a pickle may carry.

Both of `torch.save`'s layouts: a zip archive (`data.pkl` and one file for each storage) and the older stream of pickles with
the storages behind them. Source: https://pytorch.org/docs/stable/notes/serialization.html and `torch/serialization.py`.
"""

from __future__ import annotations

import collections
import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.models.errors import ModelError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_PICKLE_BYTES = 16 << 20  # a state's pickle holds names and shapes only
_MEMO_OPCODES = {"PUT", "BINPUT", "LONG_BINPUT"}

AnyArray = npt.NDArray[Any]

# what unpickling and unpacking raise for a file that is broken or not what it seems
_BROKEN = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, struct.error),
    *(ValueError, TypeError, LookupError, EOFError, AttributeError, OverflowError, MemoryError, RecursionError),
)


class _StorageType(NamedTuple):
    dtype: np.dtype[Any]


class _Storage(NamedTuple):
    key: str
    dtype: np.dtype[Any]
    elements: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _rebuild_tensor(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


_ALLOWED: Mapping[tuple[str, str], object] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch", "FloatStorage"): _StorageType(np.dtype("<f4")),
    ("torch", "LongStorage"): _StorageType(np.dtype("<i8")),
    ("collections", "OrderedDict"): collections.OrderedDict,
}


class RestrictedUnpickler(pickle.Unpickler):
    """Rebuilds tensors and the dictionaries that hold them; every other global raises UnpicklingError."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 (pickle's own signature)
        """Only what a state dictionary is made of."""
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which no weights need") from None

    def persistent_load(self, pid: Any) -> _Storage:  # noqa: ANN401 (pickle's own signature)
        """A reference to a storage: ('storage', type, key, device, elements[, view])."""
        match pid:
            case ("storage", _StorageType(dtype=dtype), str(key), str(), int(elements)):
                return _Storage(key, dtype, elements)
            case ("storage", _StorageType(dtype=dtype), str(key), str(), int(elements), None):
                return _Storage(key, dtype, elements)
        raise pickle.UnpicklingError("a storage reference of an unknown form")


def read_state(path: Path) -> dict[str, AnyArray]:
    """All tensors of a checkpoint by their dotted name. Raises ModelError when it is none, or asks for more than tensors."""
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                return _read_zip(file)
            file.seek(0)
            return _read_legacy(file)
    except _BROKEN as error:
        raise ModelError(f"{path.name} is not a checkpoint of plain tensors: {error}; fetch the model again") from None


def _read_zip(file: IO[bytes]) -> dict[str, AnyArray]:
    with zipfile.ZipFile(file) as archive:
        pickle_name = next((name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")), None)
        if pickle_name is None or archive.getinfo(pickle_name).file_size > _MAX_PICKLE_BYTES:
            raise ValueError("no data.pkl of a sensible size in it")
        root = pickle_name.removesuffix("data.pkl")
        state = _load(io.BytesIO(archive.read(pickle_name)))
        return _tensors(state, lambda storage: archive.read(f"{root}data/{storage.key}"))


def _read_legacy(file: IO[bytes]) -> dict[str, AnyArray]:
    magic, protocol, _system = (_load(file) for _ in range(3))
    if (magic, protocol) != (_LEGACY_MAGIC, _LEGACY_PROTOCOL):
        raise ValueError("unknown magic number")
    state = _load(file)
    keys = _load(file)
    item_sizes = {tensor.storage.key: tensor.storage.dtype.itemsize for _, tensor in _walk(state, "")}
    storages = {}
    for key in keys:
        (elements,) = struct.unpack("<q", file.read(8))
        storages[key] = file.read(elements * item_sizes.get(key, 4))
    return _tensors(state, lambda storage: storages[storage.key])


def _load(file: IO[bytes]) -> Any:  # noqa: ANN401 (whatever was pickled)
    """The file's next pickle, which takes no more memory than what is in it: damaged numbers could ask for gigabytes.

    What says its own length is read here first, and a memo has no more places than there are opcodes (CPython makes room for
    twice the index that is asked for).
    """
    begin = file.tell()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name in _MEMO_OPCODES and not 0 <= int(argument or 0) <= count:
            raise pickle.UnpicklingError(f"a memo of {argument} places behind {count} opcodes")
    file.seek(begin)
    return RestrictedUnpickler(file).load()


def _walk(value: object, prefix: str) -> list[tuple[str, _Tensor]]:
    """Every tensor in nested dictionaries."""
    if isinstance(value, _Tensor):
        return [(prefix, value)]
    if not isinstance(value, dict):
        return []
    found = []
    for key, item in value.items():
        found += _walk(item, f"{prefix}.{key}" if prefix else str(key))
    return found


def _tensors(state: object, read: Callable[[_Storage], bytes]) -> dict[str, AnyArray]:
    found = _walk(state, "")
    if not found:
        raise ValueError("no tensors in it")
    storages: dict[str, AnyArray] = {}
    for _, tensor in found:
        if tensor.storage.key not in storages:
            storages[tensor.storage.key] = np.frombuffer(read(tensor.storage), tensor.storage.dtype)
    return {name: _view(storages[tensor.storage.key], tensor) for name, tensor in found}


def _view(flat: AnyArray, tensor: _Tensor) -> AnyArray:
    """A tensor's elements out of its storage, never from outside of it."""
    if min((tensor.offset, *tensor.shape, *tensor.strides)) < 0 or len(tensor.shape) != len(tensor.strides):
        raise ValueError("a tensor with a negative offset, size or stride")
    last = tensor.offset + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides, strict=True))
    if 0 not in tensor.shape and (last >= flat.size or math.prod(tensor.shape) > flat.size):
        raise ValueError("a tensor beyond its storage")
    byte_strides = [stride * flat.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, byte_strides).copy()
