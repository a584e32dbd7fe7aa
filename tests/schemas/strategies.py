"""Hypothesis strategies for every Struct of schemas/, built from its type hints."""

import enum
import importlib
import pkgutil
import types
import typing
from typing import Any

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

import schemas
from schemas.http import ANSWERS
from schemas.media import MediaChunk

IN_PROCESS = (MediaChunk,)  # never written to a topic or an answer
_MAX_SIZE = 3
_MAX_INT = 2**53  # what every JSON reader holds exactly

_SCALARS: dict[Any, SearchStrategy[Any]] = {
    str: st.text(max_size=8),
    bool: st.booleans(),
    int: st.integers(-_MAX_INT, _MAX_INT),
    float: st.floats(allow_nan=False, allow_infinity=False),
    bytes: st.binary(max_size=16),
    type(None): st.none(),
    msgspec.UnsetType: st.just(msgspec.UNSET),
}


def all_structs() -> list[type[msgspec.Struct]]:
    """Every Struct that a module of schemas/ defines, in alphabetical order."""
    names = [f"schemas.{module.name}" for module in pkgutil.iter_modules(schemas.__path__)]
    found = {
        kind
        for name in names
        for kind in vars(importlib.import_module(name)).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind.__module__ == name
    }
    return sorted(found, key=lambda kind: kind.__name__)


def _results() -> SearchStrategy[msgspec.Raw]:
    """`result` and `partial`: any technology's result, as JSON."""
    answers = [answer for group in ANSWERS.values() for answer in group]
    hints = [typing.get_type_hints(answer)["result"] for answer in answers]
    kinds = [kind for hint in hints for kind in typing.get_args(hint) if kind is not msgspec.UnsetType]
    return st.one_of([of(kind) for kind in kinds]).map(lambda result: msgspec.Raw(msgspec.json.encode(result)))


def of(hint: Any) -> SearchStrategy[Any]:
    """Values of a type. Raises TypeError for one that no schema used so far."""
    if hint in _SCALARS:
        return _SCALARS[hint]
    if hint is msgspec.Raw:
        return _results()
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return st.sampled_from(hint)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        fields = {name: of(field) for name, field in typing.get_type_hints(hint, include_extras=True).items()}
        return st.builds(hint, **fields)
    return _of_generic(hint)


def _of_generic(hint: Any) -> SearchStrategy[Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _bounded(arguments[0], next(one for one in arguments if isinstance(one, msgspec.Meta)))
    if origin in (typing.Union, types.UnionType):
        return st.one_of([of(argument) for argument in arguments])
    if origin is list:
        return st.lists(of(arguments[0]), max_size=_MAX_SIZE)
    if origin is tuple:
        return st.tuples(*(of(argument) for argument in arguments))
    if origin is dict:
        return st.dictionaries(of(arguments[0]), of(arguments[1]), max_size=_MAX_SIZE)
    raise TypeError(f"no strategy for {hint}; add one to tests/schemas/strategies.py")


def _bounded(hint: Any, bounds: msgspec.Meta) -> SearchStrategy[Any]:
    """Values of a type within msgspec's bounds."""
    least, most = bounds.min_length or 0, bounds.max_length
    if hint is str:
        return st.text(min_size=least, max_size=most)
    if typing.get_origin(hint) is list:
        return st.lists(of(typing.get_args(hint)[0]), min_size=least, max_size=min(_MAX_SIZE, most or _MAX_SIZE))
    low, high = (over if bound is None else bound for bound, over in ((bounds.ge, bounds.gt), (bounds.le, bounds.lt)))
    if hint is float:
        open_low, open_high = bounds.gt is not None, bounds.lt is not None
        return st.floats(low, high, allow_nan=False, allow_infinity=False, exclude_min=open_low, exclude_max=open_high)
    if hint is int and bounds.gt is None and bounds.lt is None:
        return st.integers(low, high)  # type: ignore[arg-type]
    raise TypeError(f"no strategy for {hint} within {bounds}; add one to tests/schemas/strategies.py")
