"""The AsyncAPI document: every topic is a channel, every reference leads somewhere, and the examples are what it says.

That it is AsyncAPI 3.0 at all was checked with the schema in the npm package @asyncapi/specs.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
import pytest

from pipeline.settings import Settings
from pipeline.topics import TOPICS, Topic
from schemas.media import Header
from schemas.stream import PrintRecord, SnapshotRecord, SpeechRecord
from tests.schemas.records import JSON_RECORDS, MSGPACK_RECORDS, Golden
from tools import check_schemas

jsonschema = pytest.importorskip("jsonschema")

FILES = check_schemas.render()
DOCUMENT: dict[str, Any] = json.loads(FILES["asyncapi.json"])
# Which channel's message an example is one of: by the begin of its name in JSON, by its union in MessagePack.
JSON_EXAMPLES = {"results-": "results", "requests-": "requests", "watchlist": "watchlist"}
UNIONS = {SpeechRecord: "speech", PrintRecord: "prints", SnapshotRecord: "snapshots"}


def examples() -> Iterator[tuple[str, str, Any]]:
    """The name, the topic and the value as JSON of every example of a record."""
    for name, golden in JSON_RECORDS.items():
        for prefix, topic in JSON_EXAMPLES.items():
            if name.startswith(prefix):
                yield name, topic, msgspec.json.decode(msgspec.json.encode(golden.value))
    for name, golden in MSGPACK_RECORDS.items():
        yield name, UNIONS[golden.kind], _texts(msgspec.msgpack.decode(msgspec.msgpack.encode(golden.value)))


def _texts(value: Any) -> Any:
    """MessagePack's bin as a string, which is what a schema can say of it."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, dict):
        return {key: _texts(item) for key, item in value.items()}
    return [_texts(item) for item in value] if isinstance(value, list) else value


EXAMPLES = list(examples())
every_example = pytest.mark.parametrize(("name", "topic", "value"), EXAMPLES, ids=[name for name, *_ in EXAMPLES])


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (value[name] for name in ("$ref",) if isinstance(value.get(name), str))
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)


def _at(reference: str) -> Any:
    found: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def messages_of(topic: str) -> list[dict[str, Any]]:
    return [_at(message["$ref"]) for message in DOCUMENT["channels"][topic]["messages"].values()]


def faults(schema: Mapping[str, Any], value: Any) -> list[str]:
    """What a draft-07 validator has against a value; references lead into the document."""
    whole = {**schema, "components": DOCUMENT["components"]} if "$ref" not in schema else None
    root = whole or {"allOf": [schema], "components": DOCUMENT["components"]}
    return [error.message for error in jsonschema.Draft7Validator(root).iter_errors(value)]


def test_every_reference_leads_somewhere_and_nothing_is_left_over() -> None:
    references = set(_references(DOCUMENT))
    assert all(reference.startswith("#/") and _at(reference) for reference in references)
    for kind in ("messages", "schemas"):
        assert {f"#/components/{kind}/{name}" for name in DOCUMENT["components"][kind]} <= references


def test_every_schema_is_one_of_draft_07() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft7Validator.check_schema(schema)
        assert "prefixItems" not in json.dumps(schema)


@pytest.mark.parametrize("topic", TOPICS, ids=[topic.name for topic in TOPICS])
def test_every_topic_is_a_channel_as_it_is_created(topic: Topic) -> None:
    channel = DOCUMENT["channels"][topic.name]
    binding = channel["bindings"]["kafka"]
    configuration = binding["topicConfiguration"]
    assert (channel["address"], binding["partitions"]) == (topic.name, Settings().partitions)
    assert ",".join(configuration["cleanup.policy"]) == topic.cleanup_policy
    assert configuration["retention.ms"] == (-1 if topic.retention_ms is None else topic.retention_ms)
    assert configuration["max.message.bytes"] == topic.max_message_bytes
    assert any(one["channel"] == {"$ref": f"#/channels/{topic.name}"} for one in DOCUMENT["operations"].values())


def test_there_are_no_other_channels() -> None:
    assert list(DOCUMENT["channels"]) == [topic.name for topic in TOPICS]


@pytest.mark.parametrize("topic", [topic.name for topic in TOPICS])
def test_every_message_says_its_key_its_kind_and_its_headers(topic: str) -> None:
    headers = check_schemas.headers_by_topic()
    for message in messages_of(topic):
        assert message["bindings"]["kafka"]["key"]["description"]
        assert message["contentType"].startswith("application/")
        assert list(message.get("headers", {}).get("properties", {})) == list(headers.get(topic, {}).get("properties", {}))


def test_header_names_are_those_of_the_records() -> None:
    named = {name for schema in check_schemas.headers_by_topic().values() for name in schema["properties"]}
    assert named == {header.value for header in Header}


@every_example
def test_an_example_is_one_message_of_its_channel(name: str, topic: str, value: Any) -> None:
    found = {message["name"]: faults(message["payload"], value) for message in messages_of(topic)}
    assert [message for message, wrong in found.items() if not wrong] == [
        topic if "kind" not in value else f"{topic}-{value['kind']}"
    ], found


@every_example
def test_an_example_is_what_the_topics_schema_says(name: str, topic: str, value: Any) -> None:
    schema = json.loads(FILES[f"schemas/{topic}.schema.json"])
    assert [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(value)] == []


@pytest.mark.parametrize(
    ("name", "topic", "value"), [one for one in EXAMPLES if one[0] in ("results-owned", "print", "watchlist")]
)
def test_what_is_no_example_is_told_apart(name: str, topic: str, value: dict[str, Any]) -> None:
    for key in ("technology", "voiceprint"):
        if key in value:
            assert all(faults(message["payload"], {**value, key: 1}) for message in messages_of(topic))


@pytest.mark.parametrize(("name", "golden"), [one for one in JSON_RECORDS.items() if one[0].startswith("options")])
def test_options_are_those_of_the_media_header(name: str, golden: Golden) -> None:
    (message,) = messages_of("media")
    options = message["headers"]["properties"]["options"]
    value = msgspec.json.decode(msgspec.json.encode(golden.value))
    assert faults(options["contentSchema"], value) == []
    assert faults(options["contentSchema"], value | {"tecnologies": []})
    headers = {"sequence": "0", "options": json.dumps(value)}
    assert faults(message["headers"], headers) == []
    assert faults(message["headers"], {"options": "{}"})
