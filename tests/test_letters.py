"""Dead letters without Kafka: what they were, which are meant, and which are the same record again."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.letters import Chains, Headers, Letter, Place, Wanted, read_place, read_since_ms
from pipeline.publishing import dead_letter
from pipeline.records import Record
from pipeline.replaying import refusal
from schemas.errors import DeadLetterType
from schemas.media import Header

HEADERS = st.lists(st.tuples(st.sampled_from([*map(str, Header), "x-own"]), st.binary(max_size=8)), max_size=6).map(tuple)
NOW = datetime(2025, 6, 1, 12, 0, tzinfo=UTC)
PARTITIONS = {"t.media": {0, 1, 2, 3}}


def buried(record: Record) -> Letter:
    sent = dead_letter(record, "vad", DeadLetterType.HEADER_MISSING, "no sequence")
    return Letter(Place(0, 7), 1_000, sent.key, sent.value, sent.headers)


def record_of(
    headers: Headers = (),
    value: bytes | None = b"\0\1",
    source: tuple[str, int, int] = ("t.media", 3, 42),
    key: bytes | None = b"call",
) -> Record:
    return Record(*source, key, value, headers, 0.0)


@given(HEADERS, st.none() | st.binary(max_size=20))
def test_a_letter_gives_the_record_back_as_it_was(headers: Headers, value: bytes | None) -> None:
    record = record_of(headers, value)
    letter = buried(record)
    assert (letter.key, letter.value) == (record.key, record.value)
    lost = {Header.REPLAY_OF, Header.VALUE_LEFT_OUT}
    assert letter.original_headers() == tuple(pair for pair in headers if pair[0] not in lost)
    assert letter.source is not None
    assert (letter.source.topic, letter.source.partition, letter.source.offset) == ("t.media", 3, 42)


@given(st.binary(max_size=30), st.binary(max_size=30), st.lists(st.tuples(st.text(max_size=8), st.binary(max_size=8))))
def test_nothing_that_a_letter_holds_breaks_its_description(key: bytes, value: bytes, headers: list[tuple[str, bytes]]) -> None:
    letter = Letter(Place(0, 0), 2**62, key, value, tuple(headers))
    assert all(str(text).isprintable() for text in letter.summary().values())
    assert letter.details()["size"] == len(value)
    assert refusal(letter, PARTITIONS) is not None


@pytest.mark.parametrize("value", [None, bytes(33 * 1_048_576)])
def test_a_letter_without_a_key_has_a_value_or_kafka_would_not_get_it(value: bytes | None) -> None:
    assert buried(record_of(value=value, key=None)).value == b""


def test_what_cannot_be_put_back_says_why() -> None:
    reasons = [
        refusal(buried(record_of(source=("t.media", 9, 0))), PARTITIONS),
        refusal(buried(record_of(source=("other.media", 0, 0))), PARTITIONS),
        refusal(buried(record_of(source=("t.results", 0, 0))), PARTITIONS),
        refusal(buried(record_of(value=bytes(33 * 1_048_576))), PARTITIONS),
        refusal(Letter(Place(0, 0), 0, b"call", b"", ()), PARTITIONS),
        refusal(Letter(Place(0, 0), 0, None, None, (("source", b"t.media/0/1"),)), PARTITIONS),
        refusal(buried(record_of(value=None, key=None)), PARTITIONS),
        refusal(buried(record_of(value=bytes(33 * 1_048_576), key=None)), PARTITIONS),
    ]
    for reason, words in zip(
        reasons,
        ["no partition 9", "no topic", "no topic", "34603008 bytes", "no source", "neither", "neither", "34603008 bytes"],
        strict=True,
    ):
        assert reason is not None
        assert words in reason
    assert refusal(buried(record_of()), PARTITIONS) is None


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (Wanted(), True),
        (Wanted(error_type="header.missing", stage="vad", call="call", topics=("media", "t.media"), since_ms=1_000), True),
        (Wanted(error_type="header"), False),
        (Wanted(stage="extraction"), False),
        (Wanted(call="cal"), False),
        (Wanted(topics=("speech", "t.speech")), False),
        (Wanted(since_ms=1_001), False),
        (Wanted(places=frozenset({Place(0, 7)})), True),
        (Wanted(places=frozenset({Place(7, 0)})), False),
    ],
)
def test_everything_that_is_given_must_match(wanted: Wanted, matches: bool) -> None:
    assert wanted.matches(buried(record_of())) == matches


def chain(*links: tuple[Place, Place | None]) -> Chains:
    chains = Chains()
    for place, older in links:
        headers = () if older is None else ((str(Header.REPLAY_OF), str(older).encode()),)
        chains.note(Letter(place, 0, b"call", b"", headers))
    return chains


def test_of_a_chain_only_the_newest_is_replayed() -> None:
    a, b, c, other = Place(0, 1), Place(0, 5), Place(0, 9), Place(1, 2)
    chains = chain((a, None), (b, a), (c, b), (other, None))
    assert chains.newest([(1, a), (5, b), (9, c), (2, other)]) == {a: c, b: c, c: c, other: other}
    assert chains.newest([(1, a), (9, c)]) == {a: c, c: c}, "the one between is not wanted, and still links them"
    assert chains.newest([(1, a)]) == {a: a}, "its replay died too, but is not replayed in this run"


def test_a_letter_that_was_replayed_twice_is_one_record() -> None:
    a, b, c = Place(0, 1), Place(0, 5), Place(0, 9)
    assert set(chain((a, None), (b, a), (c, a)).newest([(1, a), (5, b), (9, c)]).values()) == {c}


def test_headers_that_name_each_other_are_no_trap() -> None:
    a, b = Place(0, 1), Place(0, 2)
    assert set(chain((a, b), (b, a)).newest([(1, a), (2, b)])) == {a, b}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", "2025-06-01T11:58:30Z"),
        ("15m", "2025-06-01T11:45:00Z"),
        ("2h", "2025-06-01T10:00:00Z"),
        ("7d", "2025-05-25T12:00:00Z"),
        ("2025-06-01T14:00:00+02:00", "2025-06-01T12:00:00Z"),
        ("2025-06-01", "2025-06-01T00:00:00Z"),
        ("999999999d", "1970-01-01T00:00:00Z"),
    ],
)
def test_since_takes_times_and_durations(text: str, expected: str) -> None:
    assert read_since_ms(text, NOW) == datetime.fromisoformat(expected).timestamp() * 1000


@pytest.mark.parametrize("text", ["", "yesterday", "5", "5w", "-3h", "1.5h"])
def test_since_refuses_what_is_neither(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        read_since_ms(text, NOW)


@pytest.mark.parametrize("text", ["", "1", "1/", "/1", "a/1", "1/2/3", "-1/2", " 1/2", "١/٢"])
def test_what_is_no_place_is_none(text: str) -> None:
    assert read_place(text) is None
    assert read_place("1/23") == Place(1, 23)
