"""The bytes of one example of each record: a change of the wire format fails here, and must be meant.

golden/NAME.json is the JSON and a line feed; golden/NAME.msgpack is MessagePack in hexadecimal.
"""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.schemas.records import JSON_RECORDS, MSGPACK_RECORDS, Golden
from tests.schemas.strategies import IN_PROCESS, all_structs

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", JSON_RECORDS)
def test_json(name: str) -> None:
    golden = JSON_RECORDS[name]
    kept = (GOLDEN / f"{name}.json").read_bytes()
    assert msgspec.json.encode(golden.value) + b"\n" == kept
    assert msgspec.json.decode(kept, type=golden.kind) == golden.value


@pytest.mark.parametrize("name", MSGPACK_RECORDS)
def test_msgpack(name: str) -> None:
    golden = MSGPACK_RECORDS[name]
    kept = bytes.fromhex((GOLDEN / f"{name}.msgpack").read_text(encoding="ascii"))
    assert msgspec.msgpack.encode(golden.value) == kept
    assert msgspec.msgpack.decode(kept, type=golden.kind) == golden.value


def test_every_file_is_checked() -> None:
    names = [f"{name}.json" for name in JSON_RECORDS] + [f"{name}.msgpack" for name in MSGPACK_RECORDS]
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(names)


def _names_in(value: Any) -> set[str]:
    if isinstance(value, msgspec.Struct):
        parts = [getattr(value, name) for name in value.__struct_fields__]
        return {type(value).__name__}.union(*map(_names_in, parts))
    if isinstance(value, list):
        return set[str]().union(*map(_names_in, value))
    return set()


def test_every_struct_has_an_example() -> None:
    records: list[Golden] = [*JSON_RECORDS.values(), *MSGPACK_RECORDS.values()]
    shown = set[str]().union(*(_names_in(golden.value) for golden in records))
    assert shown == {kind.__name__ for kind in all_structs() if kind not in IN_PROCESS}
