"""Multipart forms: cut anywhere, hostile, and what the query and `config` may say."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from pipeline.query.errors import RequestRefusedError
from pipeline.query.forms import FRAME_BYTES, MAX_FIELD_BYTES, MediaForm
from pipeline.query.keeper import Keeper
from pipeline.query.media_requests import MediaParameters, media_request, read_asked, read_config, read_parameters
from pipeline.query.view import View
from pipeline.settings import Settings
from schemas.media import CallOptions, LanguageGroup
from schemas.requests import BlobRef, ChannelMode, MediaRequest
from schemas.tasks import Technology

VAD = Technology.VOICE_ACTIVITY_DETECTION
LANGUAGE = Technology.LANGUAGE_IDENTIFICATION
BOUNDARY = "----boundary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
MAX_FILE_BYTES = 5_000


@pytest.fixture
def keeper(settings: Settings, view: View) -> Keeper:
    return Keeper(settings, view)


def part(name: str, content: bytes, extra: str = "") -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'
    return head.encode() + content + b"\r\n"


END = f"--{BOUNDARY}--\r\n".encode()


async def cut(body: bytes, sizes: Sequence[int]) -> AsyncIterator[bytes]:
    position, at = 0, 0
    while position < len(body):
        size = sizes[at % len(sizes)] if sizes else len(body)
        yield body[position : position + size]
        position, at = position + size, at + 1


async def read(keeper: Keeper, body: bytes, content_type: str = TYPE, sizes: Sequence[int] = ()) -> tuple[bytes, bytes | None]:
    with contextlib.closing(MediaForm(keeper, MAX_FILE_BYTES)) as form:
        await form.read(content_type, None, cut(body, sizes))
        assert form.file is not None
        return bytes(form.file.content()), form.config


@contextlib.contextmanager
def refused(status: int, *locations: list[str | int]) -> Iterator[None]:
    with pytest.raises(RequestRefusedError) as refusal:
        yield
    assert refusal.value.status == status
    assert [detail.location for detail in refusal.value.error.detail] == list(locations)


@given(
    content=st.binary(max_size=3_000) | st.just(b"\r\n--" + BOUNDARY.encode()[:-1] + b"\r\n--\r\n"),
    sizes=st.lists(st.integers(1, 400), max_size=6),
    config_first=st.booleans(),
)
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
async def test_a_form_may_be_cut_anywhere(keeper: Keeper, content: bytes, sizes: list[int], config_first: bool) -> None:
    parts = [part("file", content, '; filename="a.wav"'), part("config", b'{"languages": ["en"]}')]
    body = b"".join(reversed(parts) if config_first else parts) + END
    assert await read(keeper, body, sizes=sizes) == (content, b'{"languages": ["en"]}')


async def test_other_fields_are_left_out(keeper: Keeper) -> None:
    body = part("comment", b"a field of theirs") + part("file", b"audio") + END
    assert await read(keeper, body) == (b"audio", None)


async def test_the_name_of_a_file_may_be_in_any_encoding(keeper: Keeper) -> None:
    named = part("file", b"audio", '; filename="NAME.wav"').replace(b"NAME", b"Gespr\xe4ch")
    assert await read(keeper, named + END) == (b"audio", None)


async def test_a_file_at_and_over_the_limit(keeper: Keeper) -> None:
    assert len((await read(keeper, part("file", b"x" * MAX_FILE_BYTES) + END))[0]) == MAX_FILE_BYTES
    with pytest.raises(RequestRefusedError) as refusal:
        await read(keeper, part("file", b"x" * (MAX_FILE_BYTES + 1)) + END)
    assert refusal.value.status == 413
    [detail] = refusal.value.error.detail
    assert detail.location == ["body", "file"]
    assert detail.type == "media.too-large"
    assert detail.context == {"file_size": 5001, "max_file_size": 5000, "size_unit": "bytes"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nonsense",
        part("file", b"no end"),
        part("file", b"x").replace(b"\r\n", b"\n") + END,
        b"--" + BOUNDARY.encode() + b"\r\n" + b"x" * 10_000 + b"\r\n\r\n",
        part("config", b"x" * (MAX_FIELD_BYTES + 1)) + part("file", b"x") + END,
        part("a", b"") * 33 + part("file", b"x") + END,
    ],
    ids=range(7),
)
async def test_what_is_no_form_is_400(keeper: Keeper, body: bytes) -> None:
    with refused(400):
        await read(keeper, body)
    assert list(keeper.scratch.iterdir()) == []


@pytest.mark.parametrize("where", ["before", "behind"])
async def test_what_stands_around_the_parts_is_not_read_without_end(keeper: Keeper, where: str) -> None:
    read_bytes = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read_bytes
        if where == "behind":
            yield part("file", b"x") + END
        while True:
            read_bytes += 65_536
            yield b"\r\n" * 32_768

    with contextlib.closing(MediaForm(keeper, MAX_FILE_BYTES)) as form, refused(413, ["body", "file"]):
        await form.read(TYPE, None, body())
    assert read_bytes <= MAX_FILE_BYTES + FRAME_BYTES + 65_536


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; x=y"])
async def test_a_form_without_a_boundary_is_400(keeper: Keeper, content_type: str) -> None:
    with refused(400):
        await read(keeper, part("file", b"x") + END, content_type)


@pytest.mark.parametrize("content_type", ["", "application/json", "text/plain; boundary=x"])
async def test_what_is_not_meant_as_a_form_lacks_its_file(keeper: Keeper, content_type: str) -> None:
    with refused(422, ["body", "file"]):
        await read(keeper, b"{}", content_type)


async def test_no_file_or_two(keeper: Keeper) -> None:
    with refused(422, ["body", "file"]):
        await read(keeper, part("config", b"{}") + END)
    with refused(422, ["body", "file"]):
        await read(keeper, part("file", b"1") + part("file", b"2") + END)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, MediaParameters()),
        ({"channel_mode": "mix", "channels": ""}, MediaParameters(ChannelMode.MIX)),
        ({"channels": "1,0,1"}, MediaParameters(channels=[0, 1])),
        ({"range_from": "0", "range_to": "2.25"}, MediaParameters(range_to=2.25)),
        ({"range_from": "1.5", "max_speech_length": "30"}, MediaParameters(range_from=1.5, max_speech_length=30.0)),
        ({"something": "of theirs"}, MediaParameters()),
        ({"range_from": "1.5e1", "range_to": "20"}, MediaParameters(range_from=15.0, range_to=20.0)),
    ],
)
def test_the_query(query: dict[str, str], expected: MediaParameters) -> None:
    assert read_parameters(LANGUAGE, query) == expected


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ({"channel_mode": "stereo"}, ["channel_mode"]),
        ({"channels": "0,"}, ["channels"]),
        ({"channels": "0;1"}, ["channels"]),
        ({"channels": "-1"}, ["channels"]),
        ({"channels": "99999"}, ["channels"]),
        ({"channels": "²"}, ["channels"]),
        ({"range_from": "-1"}, ["range_from"]),
        ({"range_from": "nan"}, ["range_from"]),
        ({"range_from": ".5"}, ["range_from"]),
        ({"range_from": "1e999"}, ["range_from"]),
        ({"range_from": "604801"}, ["range_from"]),
        ({"range_to": "0"}, ["range_to"]),
        ({"range_from": "x", "range_to": "inf", "channels": "x", "channel_mode": ""}, None),
        ({"max_speech_length": "0"}, ["max_speech_length"]),
    ],
)
def test_a_wrong_query(query: dict[str, str], names: list[str] | None) -> None:
    with pytest.raises(RequestRefusedError) as refusal:
        read_parameters(LANGUAGE, query)
    assert refusal.value.status == 422
    found = [detail.location[1] for detail in refusal.value.error.detail]
    assert sorted(map(str, found)) == sorted(names or query)


def test_voice_activity_has_no_cap_on_speech() -> None:
    assert read_parameters(VAD, {"max_speech_length": "x"}) == MediaParameters()


def test_config_of_language_identification() -> None:
    languages = b'["en", {"identifier": "it", "prior_weight": 0.5}]'
    text = b'{"languages": %s, "groups": [{"identifier": "g", "languages": ["fr"]}]}' % languages
    assert read_config(LANGUAGE, text) == CallOptions(
        technologies=[LANGUAGE],
        is_file=True,
        languages=["en", "it", "fr"],
        language_groups=[LanguageGroup("g", ["fr"])],
        language_priors={"it": 0.5},
    )
    for empty in (None, b"", b" ", b"{}"):
        assert read_config(LANGUAGE, empty) == CallOptions(technologies=[LANGUAGE], is_file=True)
    assert read_config(VAD, b"{}") == CallOptions(technologies=[VAD], is_file=True)


@pytest.mark.parametrize("text", [b"{", b"\xff", b"[" * 10_000, b"en"])
def test_config_that_is_no_json_is_400(text: bytes) -> None:
    with refused(400):
        read_config(LANGUAGE, text)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (b'{"language": ["en"]}', "key.unknown"),
        (b'{"groups": [{"identifier": "g", "languages": ["en"], "weight": 1}]}', "key.unknown"),
        (b'{"languages": []}', "value.invalid"),
        (b'{"languages": [1]}', "value.invalid"),
        (b'{"languages": [{"identifier": "en", "prior_weight": 2}]}', "value.invalid"),
        (b'{"groups": [{"identifier": "", "languages": ["en"]}]}', "value.invalid"),
        (b"[]", "value.invalid"),
    ],
)
def test_a_wrong_config_is_422(text: bytes, kind: str) -> None:
    with pytest.raises(RequestRefusedError) as refusal:
        read_config(LANGUAGE, text)
    assert refusal.value.status == 422
    assert [(detail.location, detail.type) for detail in refusal.value.error.detail] == [(["body", "config"], kind)]


def test_of_two_weights_the_smaller_counts() -> None:
    text = b'{"languages": [{"identifier": "en", "prior_weight": 0.25}, {"identifier": "en", "prior_weight": 0.5}]}'
    assert read_config(LANGUAGE, text).language_priors == {"en": 0.25}


def test_a_weight_counts_where_it_is_given() -> None:
    weighted = b'{"identifier": "en", "prior_weight": 0.5}'
    text = b'{"languages": ["en", {"identifier": "en"}, %s], "groups": [{"identifier": "g", "languages": [%s]}]}'
    assert read_config(LANGUAGE, text % (weighted, weighted)).language_priors == {"en": 0.5}


def test_what_is_wrong_in_the_query_and_in_config_is_said_together() -> None:
    query = {"range_from": "x", "channel_mode": "stereo"}
    with refused(422, ["query", "range_from"], ["query", "channel_mode"], ["body", "config"]):
        read_asked(LANGUAGE, query, b'{"languages": []}')
    with refused(422, ["body", "config"]):
        read_asked(LANGUAGE, {}, b"[]")
    with refused(400):
        read_asked(LANGUAGE, query, b"{")
    assert read_asked(LANGUAGE, {"channels": "1"}, None)[0] == MediaParameters(channels=[1])


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"range_to": "0"}, "above 0 and at most 604800 is needed"),
        ({"range_to": "604801"}, "above 0 and at most 604800 is needed"),
    ],
)
def test_a_range_that_cannot_be_says_why(query: dict[str, str], says: str) -> None:
    with pytest.raises(RequestRefusedError) as refusal:
        read_parameters(VAD, query)
    [detail] = refusal.value.error.detail
    assert detail.location == ["query", "range_to"]
    assert says in detail.message


def test_a_key_that_nothing_needs_is_422_too() -> None:
    with refused(422, ["body", "config"]):
        read_config(VAD, b'{"languages": ["en"]}')


def test_all_of_it_together() -> None:
    file = BlobRef("requests/a/b", "0" * 64, 3)
    made = media_request("call", file, MediaParameters(ChannelMode.MIX, [1], 1.0, 2.0, 3.0), CallOptions(is_file=True))
    assert made == MediaRequest("call", file, ChannelMode.MIX, [1], 1.0, 2.0, CallOptions(is_file=True, max_speech_length=3.0))
    assert msgspec.json.decode(msgspec.json.encode(made), type=MediaRequest) == made
