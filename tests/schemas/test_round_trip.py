"""What is written is read again as it was; what was not written by us is refused in a known way."""

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.media import GivenOptions
from schemas.requests import StartTask
from schemas.stream import CallEnd, SpeechRecord
from tests.schemas.codecs import CODECS, Codec
from tests.schemas.strategies import IN_PROCESS, of

# A decoder's refusals: text that is not UTF-8 is a ValueError too, but no DecodeError.
REFUSALS = (msgspec.DecodeError, UnicodeDecodeError)
_DEPTH = 100_000

PROFILE = settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])

every_codec = pytest.mark.parametrize("codec", CODECS, ids=[codec.name for codec in CODECS])
on_the_wire = [codec for codec in CODECS if codec.kind not in IN_PROCESS]
every_json = pytest.mark.parametrize(
    "codec", [codec for codec in on_the_wire if codec.is_json], ids=[codec.name for codec in on_the_wire if codec.is_json]
)


@every_codec
@given(data=st.data())
@settings(PROFILE)
def test_round_trip(codec: Codec, data: st.DataObject) -> None:
    value = data.draw(of(codec.kind))
    written = codec.encode(value)
    read = codec.decode(written)
    assert read == value
    assert type(read) is codec.kind
    assert codec.encode(read) == written


def _holds_null(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_null(item) for item in value.values())
    if isinstance(value, list):
        return any(_holds_null(item) for item in value)
    return value is None


@every_json
@given(data=st.data())
@settings(PROFILE)
def test_what_does_not_apply_is_absent_not_null(codec: Codec, data: st.DataObject) -> None:
    assert not _holds_null(msgspec.json.decode(codec.encode(data.draw(of(codec.kind)))))


@every_json
@given(data=st.data())
@settings(PROFILE)
def test_unknown_keys_are_ignored_save_in_options(codec: Codec, data: st.DataObject) -> None:
    value = data.draw(of(codec.kind))
    keys: dict[str, Any] = msgspec.json.decode(codec.encode(value))
    extended = msgspec.json.encode(keys | {"not a key of ours": data.draw(st.sampled_from([1, "a", None, [{}]]))})
    if codec.kind is GivenOptions:
        with pytest.raises(msgspec.ValidationError, match="unknown field"):
            codec.decode(extended)
    else:
        assert codec.decode(extended) == value


@every_codec
@given(data=st.data())
@settings(PROFILE)
def test_a_record_that_was_cut_off_is_refused(codec: Codec, data: st.DataObject) -> None:
    written = codec.encode(data.draw(of(codec.kind)))
    size = data.draw(st.integers(0, len(written) - 1))
    with pytest.raises(msgspec.DecodeError):
        codec.decode(written[:size])


@every_codec
@given(noise=st.binary(max_size=64))
@settings(PROFILE)
def test_noise_is_refused(codec: Codec, noise: bytes) -> None:
    with contextlib.suppress(*REFUSALS):
        assert type(codec.decode(noise)) is codec.kind


@every_codec
@given(data=st.data())
@settings(PROFILE)
def test_a_damaged_record_is_read_or_refused(codec: Codec, data: st.DataObject) -> None:
    written = codec.encode(data.draw(of(codec.kind)))
    begin = data.draw(st.integers(0, len(written)))
    damage, removed = data.draw(st.binary(max_size=4)), data.draw(st.integers(0, 4))
    with contextlib.suppress(*REFUSALS):
        codec.decode(written[:begin] + damage + written[begin + removed :])


def test_text_that_is_not_utf8_is_a_value_error_but_no_decode_error() -> None:
    """Readers of records from outside must catch ValueError, not DecodeError alone."""
    with pytest.raises(UnicodeDecodeError):
        msgspec.json.decode(b'{"voiceprints":["\xff"]}', type=StartTask)
    with pytest.raises(UnicodeDecodeError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(CallEnd("?", 1)).replace(b"?", b"\xff"), type=SpeechRecord)
    assert issubclass(msgspec.DecodeError, ValueError)


def test_endless_nesting_is_a_recursion_error() -> None:
    """Readers of records from outside must catch RecursionError too, even for keys that they ignore."""
    with pytest.raises(RecursionError):
        msgspec.json.decode(b'{"ignored":' + b"[" * _DEPTH + b"]" * _DEPTH + b"}", type=StartTask)
    with pytest.raises(RecursionError):
        msgspec.msgpack.decode(b"\x82\xa4kind\xa3end\xa7ignored" + b"\x91" * _DEPTH + b"\xc0", type=SpeechRecord)


@pytest.mark.parametrize("key", ["technology", "language", "sensitivity", "Technologies"])
def test_options_refuse_an_unknown_key(key: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=f"unknown field `{key}`"):
        msgspec.json.decode(msgspec.json.encode({key: ["en"]}), type=GivenOptions)
