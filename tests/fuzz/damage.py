"""Text and records that nobody would write: JSON, MessagePack and bytes, damaged in ways that can be repeated."""

import copy
import json
import random
from collections.abc import Callable, Iterator, MutableMapping, MutableSequence
from typing import Any

import msgspec

Container = MutableMapping[Any, Any] | MutableSequence[Any]
Place = tuple[Container, Any]  # a node's parent, and its key there

HUGE = 10**400
NUMBERS = (
    0,
    -1,
    1,
    2,
    7,
    255,
    65_536,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**31),
    -(2**63),
)
FLOATS = (0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf"))
WORDS = (
    "",
    " ",
    "a",
    "null",
    "0",
    "AAAA",
    "\x00",
    "\x7f",
    "é",
    "\u2028",
    "😀",
    "..",
    "../../etc/passwd",
    "/",
    "%00",
    "x" * 129,
    "x" * 5000,
)
# what no object of Python's is written as
JSON_TEXTS = (
    b"NaN",
    b"-Infinity",
    b"1e999",
    b"-0",
    b"01",
    b"1.",
    b"0x1",
    str(HUGE).encode(),
    b"0." + b"1" * 3000,
    b'"\\ud800"',
    b'"\\udc00\\ud800"',
    b'"\\u0041\\u0041\\u0041\\u0041"',
    b'"\\x41"',
    b'"\\u00"',
    b'"\\',
    b'"\xff\xfe"',
    b'"\xed\xa0\x80"',  # a surrogate in UTF-8
    b'"\xc0\x80"',
    b'"\x00"',
    b"'a'",
    b"undefined",
    b"[" * 3000 + b"]" * 3000,
    b"[" * 3000,
    b'{"a":' * 1200 + b"1" + b"}" * 1200,
    b'{"a":1,"a":2,"a":[]}',
    b"[" + b'"AAAA",' * 3000 + b'"AAAA"]',
    b"[" + b"0," * 3000 + b"0]",
    b"",
    b",",
    b"// a comment\n1",
    b"\xef\xbb\xbf1",
)
MSGPACK_BOMBS = (
    b"\x91" * 3000,
    b"\x91" * 200_000,
    b"\x81\xa1a" * 3000 + b"\xc0",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff\xa4kind",
    b"\xdb\xff\xff\xff\xffx",
    b"\xc6\xff\xff\xff\xffx",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xc1",
    b"\xd6\xff\xff\xff\xff\xff",
    b"",
)
JSON_BOMBS = (
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"[" * 100_000 + b"]" * 100_000,
    b'{"result":' + b"[" * 2000 + b"]" * 2000 + b"}",
)


def chance_of(seed: int, case: int) -> random.Random:
    """The chance of one case: the same every time, whatever cases were before it."""
    return random.Random(seed * 1_000_003 + case)


def _places(node: Any, found: list[Place]) -> list[Place]:
    inner: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(node, dict):
        inner = iter(node.items())
    elif isinstance(node, list):
        inner = iter(enumerate(node))
    for key, value in inner:
        found.append((node, key))
        _places(value, found)
    return found


def odd_value(chance: random.Random, depth: int = 0) -> Any:
    """Anything, of any type."""
    kind = chance.randrange(8 if depth < 3 else 5)
    if kind < 2:
        return chance.choice(NUMBERS)
    if kind < 5:
        return chance.choice([chance.choice(FLOATS), None, True, False, chance.choice(WORDS), chance.choice(WORDS)])
    values = [odd_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    return values if kind < 7 else {chance.choice(WORDS): value for value in values}


def _change(chance: random.Random, parent: Any, key: Any) -> None:
    """Another value, another type, a nesting more or less, gone, or there twice."""
    value = parent[key]
    match chance.randrange(9):
        case 0 | 1:
            parent[key] = odd_value(chance)
        case 2:
            parent[key] = chance.choice([[value], {"value": value}, [[[value]]], [value] * chance.choice([2, 9, 300])])
        case 3:
            parent[key] = (
                str(value) if not isinstance(value, str) else chance.choice([[*value[:50]], len(value), value.encode()])
            )
        case 4:
            del parent[key]
        case 5 if isinstance(value, (int, float)) and not isinstance(value, bool):
            parent[key] = chance.choice([-value, value * 1000, value + 1, value - 1, float(value), *NUMBERS])
        case 6 if isinstance(value, str) and value:
            at = chance.randrange(len(value))
            parent[key] = chance.choice([value[:at], value[at:], value + value[:at], value[:at] + value[at + 1 :]])
        case 7 if isinstance(parent, dict):
            parent[chance.choice([*WORDS, str(key).upper(), f"{key} "])] = parent.pop(key)
        case _:
            parent[key] = chance.choice(WORDS) if isinstance(value, str) else odd_value(chance)


def changed_tree(chance: random.Random, tree: Any) -> Any:
    """A copy that is changed in one to three places."""
    root = [copy.deepcopy(tree)]
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        places = _places(root, [])
        if places:
            _change(chance, *(places[chance.randrange(len(places))] if chance.random() < 0.95 else places[0]))
    return root[0] if root else None


def _as_json(tree: Any) -> bytes:
    return json.dumps(tree, default=lambda value: bytes(value).hex(), ensure_ascii=False).encode(errors="surrogatepass")


def damaged_json(chance: random.Random, tree: Any) -> bytes:
    """The tree as JSON, or nearly: changed in its structure, in the text of a value, in its keys, or in its bytes."""
    match chance.randrange(6):
        case 0 | 1:
            return _as_json(changed_tree(chance, tree))
        case 2:
            return _with_text(chance, tree, chance.choice(JSON_TEXTS))
        case 3:
            return _with_twin(chance, tree)
        case 4:
            return _respelt(chance, _as_json(tree))
        case _:
            return damaged_bytes(chance, _as_json(tree))


def _with_text(chance: random.Random, tree: Any, text: bytes) -> bytes:
    root = [copy.deepcopy(tree)]
    parent, key = chance.choice(_places(root, []))
    parent[key] = "<here>"
    return _as_json(root[0]).replace(b'"<here>"', text, 1)


def _with_twin(chance: random.Random, tree: Any) -> bytes:
    """A key twice, with another value."""
    whole = _as_json(tree)
    names = [key for parent, key in _places([tree], []) if isinstance(parent, dict)]
    if not names:
        return b"{}" + whole
    name = json.dumps(chance.choice(names)).encode()
    twin = name + b":" + chance.choice([_as_json(odd_value(chance)), chance.choice(JSON_TEXTS)])
    return whole.replace(name, twin + b"," + name, 1)


def _respelt(chance: random.Random, text: bytes) -> bytes:
    """The same, written in another way: escapes, blanks, a byte order mark, another encoding."""
    match chance.randrange(5):
        case 0:
            return b"".join(b"\\u%04x" % one if chance.random() < 0.3 and chr(one).isalnum() else bytes([one]) for one in text)
        case 1:
            return text.replace(b":", b" \t\r\n:\n").replace(b",", b"\n,\n") + b" " * chance.choice([1, 5000])
        case 2:
            return chance.choice([b"\xef\xbb\xbf", b"\x00", b" ", b"\xff"]) + text
        case 3:
            return text.decode(errors="replace").encode(
                chance.choice(["utf-16", "utf-16-le", "utf-32", "latin-1"]), errors="replace"
            )
        case _:
            return text + chance.choice([text, b"}", b"\x00", b",", b"null"])


def damaged_msgpack(chance: random.Random, packed: bytes) -> bytes:
    """A MessagePack record: changed in its structure or in its bytes, or a bomb."""
    match chance.randrange(10):
        case 0:
            return chance.choice(MSGPACK_BOMBS)
        case 1:
            bomb = chance.choice(MSGPACK_BOMBS)
            at = chance.randrange(len(packed))
            return packed[:at] + bomb + packed[at:]
        case 2 | 3 | 4:
            return damaged_bytes(chance, packed)
        case _:
            tree = changed_tree(chance, msgspec.msgpack.decode(packed))
            try:
                return msgspec.msgpack.encode(tree)
            except (OverflowError, TypeError):  # of no type that MessagePack has
                return damaged_bytes(chance, packed)


def damaged_bytes(chance: random.Random, content: bytes) -> bytes:
    """Bits flipped, pieces cut off, out, in, or repeated."""
    damaged = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 3])):
        if damaged:
            chance.choice(_BYTE_DAMAGE)(chance, damaged)
    return bytes(damaged)


def _flip(chance: random.Random, content: bytearray) -> None:
    for _ in range(chance.randint(1, 8)):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)


def _truncate(chance: random.Random, content: bytearray) -> None:
    del content[chance.randrange(len(content)) :]


def _cut_out(chance: random.Random, content: bytearray) -> None:
    at = chance.randrange(len(content))
    del content[at : at + chance.randint(1, 40)]


def _insert(chance: random.Random, content: bytearray) -> None:
    at = chance.randrange(len(content))
    content[at:at] = chance.choice([chance.randbytes(chance.randint(1, 30)), b"\x00" * 9, b"\xff" * 9, b'"', b"{", b"\r\n"])


def _repeat(chance: random.Random, content: bytearray) -> None:
    at = chance.randrange(len(content))
    content[at:at] = content[at : at + chance.randint(1, 200)] * chance.choice([1, 1, 2, 20])


def _overwrite(chance: random.Random, content: bytearray) -> None:
    at = chance.randrange(len(content))
    run = chance.choice([b"\xff" * 8, b"\x7f\xff\xff\xff", b"\x00" * 8, chance.randbytes(8)])
    content[at : at + len(run)] = run


_BYTE_DAMAGE: list[Callable[[random.Random, bytearray], None]] = [
    _flip,
    _flip,
    _truncate,
    _cut_out,
    _insert,
    _repeat,
    _overwrite,
]
