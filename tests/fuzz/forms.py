"""HTTP requests that no client would send: each part of them damaged, by the number of the case."""

import base64
import random
import string
import urllib.parse
from collections.abc import Callable
from typing import NamedTuple

from schemas.tasks import Technology
from tests.fuzz.damage import HUGE, WORDS, chance_of, damaged_bytes, damaged_json

SEED = 20_250_311
API = "/api/technology"
VAD, EXTRACTION, LANGUAGE, GENDER, COMPARISON = (f"{API}/{technology.value}" for technology in Technology)
LARGE_FILE_BYTES = 1_300_000  # more than a spool keeps in memory

RawHeaders = list[tuple[bytes, bytes]]


class Sent(NamedTuple):
    """A request as it reaches the application. `is_cut`: its client goes away in the midst of the body."""

    method: str
    path: bytes  # with its escapes
    query: bytes
    headers: RawHeaders
    body: bytes
    is_cut: bool = False
    pieces: int = 1


_PRINT = base64.b64encode(bytes(range(200))).decode()
_LISTS: dict[str, dict[str, object]] = {
    GENDER: {"voiceprints": ["AAAA", _PRINT, "/+8="]},
    COMPARISON: {"voiceprints_a": ["AAAA", _PRINT], "voiceprints_b": ["AAAA", "////"]},
}
_CONFIGS: dict[str, object] = {
    VAD: {},
    EXTRACTION: {},
    LANGUAGE: {
        "languages": ["en", {"identifier": "fr", "prior_weight": 0.5}, "it"],
        "groups": [{"identifier": "nordic", "languages": ["da", {"identifier": "no", "prior_weight": 1}]}],
    },
}
_QUERY = {
    "channel_mode": "mix",
    "channels": "0,1",
    "range_from": "0.5",
    "range_to": "2",
    "max_speech_length": "10",
    "wait": "0",
    "call_id": "call-1",
}
_ODD_TEXTS = (
    *WORDS, "-1", "1e9", "1e309", "NaN", "inf", "0x10", "1_000", "١٢", "0," * 300, ",", "split", "MIX", "9" * 400,
    str(HUGE), "1.5.5", "+1", " 1", "60", "60.0001", "65536", "\r\n", "a=b&c=d", "\ud800",
)  # fmt: skip
_ODD_HEADERS: RawHeaders = [
    (b"content-type", b""),
    (b"content-type", b"multipart/form-data"),
    (b"content-type", b"multipart/form-data; boundary="),
    (b"content-type", b'multipart/form-data; boundary="x'),
    (b"content-type", b"multipart/form-data; boundary=\xff\xfe"),
    (b"content-type", b"multipart/form-data; boundary=" + b"b" * 3000),
    (b"content-type", b"multipart/form-data; boundary*=utf-8''x; boundary=y"),
    (b"content-type", b"application/json; charset=utf-16"),
    (b"content-type", b"application/x-www-form-urlencoded"),
    (b"content-type", b"text/plain; charset=nonsense"),
    (b"content-type", b";;;=;"),
    (b"content-type", b"a/b/c; " + b"x=y; " * 500),
    (b"content-length", b"0"),
    (b"content-length", b"99999999999999999999"),
    (b"content-encoding", b"gzip"),
    (b"transfer-encoding", b"gzip, chunked"),
    (b"accept", b"text/html;q=nan"),
    (b"accept", b"*/*;q=1;q=2, ,;"),
    (b"accept-encoding", b"identity;q=0, *;q=0"),
    (b"authorization", b"Bearer \xff"),
    (b"authorization", b"Basic !!!"),
    (b"x-api-key", b"\xc3\x28"),
    (b"x-correlation-id", b""),
    (b"x-correlation-id", b"\xff" * 200),
    (b"x-correlation-id", b"c" * 129),
    (b"x-request-id", b"\x01"),
    (b"cookie", b"a=b; " * 900),
    (b"cookie", b";=\xff;;"),
    (b"host", b""),
    (b"host", b"\xff:99999999"),
    (b"range", b"bytes=-1"),
    (b"if-modified-since", b"yesterday"),
    (b"expect", b"100-continue"),
    (b"upgrade", b"websocket"),
    (b"x-forwarded-for", b"::1, \xff"),
    (b"last-event-id", b"x/99999999999999999999"),
    (b"\xff", b"\xff"),
    (b"", b""),
]
_METHODS = ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "X" * 300)
_TASK = b"123e4567-e89b-12d3-a456-426614174000"


def _query(chance: random.Random) -> bytes:
    pairs = [
        (name, chance.choice([value, chance.choice(_ODD_TEXTS)])) for name, value in _QUERY.items() if chance.random() < 0.4
    ]
    text = urllib.parse.urlencode(pairs, errors="surrogatepass").encode()
    match chance.randrange(6):
        case 0:
            return damaged_bytes(chance, text or b"wait=1").replace(b"\r", b"").replace(b"\n", b"")
        case 1:
            return text + chance.choice([b"&%", b"&wait=%ff", b"&=&&=", b"&a" * 3000, b"&%00=%zz", b"?#", b"&" + b"x" * 9000])
        case _:
            return text


def _headers(chance: random.Random, given: RawHeaders) -> RawHeaders:
    headers = [*given]
    for _ in range(chance.choice([0, 0, 0, 1, 1, 2, 3])):
        odd = chance.choice(_ODD_HEADERS)
        if chance.random() < 0.7:
            headers = [one for one in headers if one[0] != odd[0]]
        headers.insert(chance.randrange(len(headers) + 1), odd)
    return headers


def _pieces(chance: random.Random) -> int:
    return chance.choice([1, 1, 1, 2, 5, 40])


def _from_lists(chance: random.Random) -> Sent:
    path = chance.choice([GENDER, COMPARISON])
    body = damaged_json(chance, _LISTS[path])
    headers = _headers(chance, [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())])
    return Sent("POST", path.encode(), b"", headers, body, chance.random() < 0.03, _pieces(chance))


def _part_head(chance: random.Random, name: str) -> bytes:
    head = f'Content-Disposition: form-data; name="{name}"'.encode()
    if name == "file":
        head += (
            b'; filename="' + chance.choice([b"call.wav", b"../../etc/passwd", b"\xff", b'a\\"b', b"%00", b"C:\\a", b""]) + b'"'
        )
    if chance.random() < 0.3:
        head = chance.choice(
            [
                head.upper(),
                head.replace(b'"', b""),
                head + b'; name="config"',
                head.replace(b"form-data", b"attachment"),
                head.replace(b": ", b":\t "),
                head + b"\r\nContent-Type: audio/x-wav; charset=\xff",
                head + b"\r\nContent-Length: 99999999999999999999",
                head + b"\r\nContent-Transfer-Encoding: base64",
                head + b"\r\n folded: yes",
                head + b"\r\n" + b"X: y\r\n" * 300 + b"Z: 1",
                head + b"\r\nX: " + b"x" * 9000,
                head.replace(b"name=", b"name*=utf-8''"),
                b"",
                b"no colon here",
            ]
        )
    return head


def _file(chance: random.Random, boundary: bytes) -> bytes:
    if chance.random() < 0.02:
        return b"x" * LARGE_FILE_BYTES
    return chance.choice([b"RIFF" + chance.randbytes(400), b"", b"\r\n--" + boundary[:-1] + b"\r\n", b"\r\n" * 50, b"-" * 300])


def _from_file(chance: random.Random) -> Sent:
    path = chance.choice([VAD, EXTRACTION, LANGUAGE])
    boundary = chance.choice([b"x", b"----boundary", b"'()+_,-./:=?", b"b" * 70])
    parts = [(_part_head(chance, "file"), _file(chance, boundary))]
    if chance.random() < 0.7:
        parts.append((_part_head(chance, "config"), damaged_json(chance, [_CONFIGS[path]])[1:-1]))
    if chance.random() < 0.2:
        parts *= chance.choice([2, 3, 12])
    chance.shuffle(parts)
    dash, line = b"--" + boundary, b"\r\n" if chance.random() < 0.95 else b"\n"
    body = b"".join(dash + line + head + line + line + content + line for head, content in parts) + dash + b"--" + line
    if chance.random() < 0.3:
        body = damaged_bytes(chance, body)
    given = [
        (b"content-type", b'multipart/form-data; boundary="' + boundary + b'"'),
        (b"content-length", str(len(body)).encode()),
    ]
    return Sent("POST", path.encode(), _query(chance), _headers(chance, given), body, chance.random() < 0.05, _pieces(chance))


def _path(chance: random.Random) -> bytes:
    technology = chance.choice([VAD, EXTRACTION, LANGUAGE, GENDER, COMPARISON]).encode()
    odd = urllib.parse.quote(chance.choice(WORDS)).encode()
    return chance.choice(
        [
            technology + b"/" + _TASK,
            technology + b"/" + _TASK.replace(b"-", b""),
            technology + b"/" + _TASK.upper() + odd,
            technology + b"/" + damaged_bytes(chance, _TASK).hex().encode(),
            technology + b"/" + odd,
            technology + b"//" + _TASK,
            technology + b"/%2e%2e/%2e%2e/etc/passwd",
            technology + b"/%ff%fe",
            technology + b"/%ed%a0%80",
            technology + b"/" + b"%00" * chance.choice([1, 500]),
            technology + b"/{task_id}",
            technology + b"/urn:uuid:" + _TASK,
            technology + b"/" + b"a/" * 800,
            technology + odd,
            b"/api/events",
            b"/health",
            b"/ready",
            b"/metrics" + odd,
            b"/schema",
            b"/schema/openapi.yml",
            b"/" + odd,
            b"",
            b"//",
            b"*",
        ]
    )


def _read(chance: random.Random) -> Sent:
    method = "GET" if chance.random() < 0.8 else chance.choice(_METHODS)
    return Sent(method, _path(chance), _query(chance), _headers(chance, [(b"host", b"localhost")]), b"")


_KINDS: list[Callable[[random.Random], Sent]] = [_from_lists, _from_lists, _from_file, _from_file, _read]


def request(case: int) -> Sent:
    """The request of this number: the same one every time."""
    chance = chance_of(SEED, case)
    return _KINDS[case % len(_KINDS)](chance)


_TOKEN = frozenset((string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~").encode())


def on_the_wire(case: int) -> bytes:
    """The request of this number as a client writes it, its head damaged too."""
    sent, chance = request(case), chance_of(SEED + 1, case)
    line = sent.method.encode() + b" " + (sent.path or b"/") + (b"?" + sent.query if sent.query else b"") + b" HTTP/1.1\r\n"
    headers = b"".join(name + b": " + value + b"\r\n" for name, value in sent.headers if name and _TOKEN.issuperset(name))
    head = line + b"host: localhost\r\nconnection: close\r\n" + headers + b"\r\n"
    if chance.random() < 0.6:
        head = damaged_bytes(chance, head)
    return head + sent.body
