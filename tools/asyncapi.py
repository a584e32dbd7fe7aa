"""The topics as an AsyncAPI 3.0 document, docs/asyncapi.json. Source: asyncapi.com/docs/reference/specification/v3.0.0.

AsyncAPI's schemas are JSON Schema draft-07 and a little more, so what docs/schemas/ says in 2020-12 is written in its words.
"""

import importlib.metadata
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.settings import Settings
from pipeline.topics import TOPICS, Topic
from schemas.media import MAX_CALL_ID_CHARS

Schema = dict[str, Any]

_BINDING = "0.5.0"
_OCTETS, _JSON, _MSGPACK = "application/octet-stream", "application/json", "application/vnd.msgpack"
_SCHEMAS = "#/components/schemas/"

_INTRODUCTION = (
    "Live calls in, answers out, on Kafka. `callstream topics` creates the topics; `CALLSTREAM_TOPIC_PREFIX` is put before "
    "every address. Header values are UTF-8 text. In records of application/vnd.msgpack strings of media type "
    "application/octet-stream are MessagePack's bin. `send` and `receive` are what callstream does; its users send to what it "
    "receives."
)

_CALL_ID = {"type": "string", "description": "The call id.", "minLength": 1, "maxLength": MAX_CALL_ID_CHARS}
_TASK_ID = {"type": "string", "description": "The task id.", "format": "uuid"}
_KEYS: dict[str, Schema] = {
    "media": _CALL_ID,
    "requests": _TASK_ID | {"description": "The task id; it is derived from the record's place when there is no key."},
    "speech": _CALL_ID,
    "prints": _CALL_ID,
    "snapshots": {"type": "string", "description": "The call id, of what outlives a snapshot behind a byte 0xfe or 0xff."},
    "watchlist": {"type": "string", "description": "The subject id."},
    "results": _TASK_ID,
    "dead-letters": {"type": ["string", "null"], "description": "The key of the record that could not be processed."},
}
_OPERATIONS: dict[str, dict[str, str]] = {
    "media": {
        "receive": "Hears the chunks of a call, in order and once each.",
        "send": "Cuts a media file into a call.",
    },
    "requests": {
        "receive": "Starts a task from voiceprints, or a call from a media file.",
        "send": "The query service passes on what was posted to it.",
    },
    "speech": {"send": "The utterances of a call.", "receive": "Runs the models on each utterance."},
    "prints": {"send": "What the models said of each utterance.", "receive": "Adds up what the models said of a call."},
    "snapshots": {
        "send": "Where a call stands, for whoever takes its partition over.",
        "receive": "Goes on with the calls of a partition.",
    },
    "watchlist": {"receive": "Compares every call that begins from then on with this voice."},
    "results": {"send": "Each state transition of each task.", "receive": "The query service answers by task id."},
    "dead-letters": {
        "send": "What could not be processed, as it was.",
        "receive": "`callstream dead-letters` lists what is there and puts it back.",
    },
}
_RAW: dict[str, Schema] = {  # payloads that are no structures of ours
    "media": {"type": "string", "description": "Raw audio of one chunk; may be empty with `end`.", "contentMediaType": _OCTETS},
    "dead-letters": {
        "description": "The value of the record that could not be processed.",
        "type": ["string", "null"],
    },
}
_TOMBSTONE: Schema = {"type": "null", "description": "A tombstone: the voice is compared with no more."}


def asyncapi_document(documents: Mapping[str, Schema], headers: Mapping[str, Schema]) -> Schema:
    """The document. `documents` are those of docs/schemas/ by topic, `headers` the schemas of each topic's headers."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "callstream",
            "version": importlib.metadata.version("callstream"),
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": _JSON,
        "servers": {"local": _server()},
        "channels": {topic.name: _channel(topic, documents[topic.name]) for topic in TOPICS},
        "operations": dict(_operations()),
        "components": {
            "messages": {
                name: message
                for topic in TOPICS
                for name, message in _messages(topic.name, documents[topic.name], headers.get(topic.name)).items()
            },
            "schemas": _components(documents),
        },
    }


def _server() -> Schema:
    description = "A broker on this machine, as `callstream broker` runs it; CALLSTREAM_BROKER names another."
    return {"host": Settings().broker, "protocol": "kafka", "description": description}


def _channel(topic: Topic, document: Schema) -> Schema:
    return {
        "address": topic.name,
        "description": " ".join(text for text in _OPERATIONS[topic.name].values()),
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in _payloads(topic.name, document)},
        "bindings": {"kafka": _kafka(topic)},
    }


def _kafka(topic: Topic) -> Schema:
    settings = Settings()
    declared = topic.config(settings.replication_factor)
    configuration: Schema = {
        name: int(declared[name])
        for name in ("retention.ms", "max.message.bytes", "segment.ms", "min.compaction.lag.ms")
        if name in declared
    }
    configuration["cleanup.policy"] = topic.cleanup_policy.split(",")
    if stamp := declared.get("message.timestamp.type"):
        configuration["message.timestamp.type"] = stamp
    return {
        "partitions": settings.partitions,
        "replicas": settings.replication_factor,
        "topicConfiguration": configuration,
        "bindingVersion": _BINDING,
    }


def _operations() -> Iterator[tuple[str, Schema]]:
    for topic, actions in _OPERATIONS.items():
        for action, summary in actions.items():
            name = action + "".join(word.capitalize() for word in topic.split("-"))
            yield name, {"action": action, "channel": {"$ref": f"#/channels/{topic}"}, "summary": summary}


def _payloads(topic: str, document: Schema) -> dict[str, Schema]:
    """The payload of each message of a topic, by the message's name."""
    if topic in _RAW:
        return {topic: _RAW[topic]}
    if "oneOf" in document:
        definitions = document["$defs"]
        kinds = {one["$ref"]: definitions[one["$ref"].rsplit("/", 1)[-1]] for one in document["oneOf"]}
        return {f"{topic}-{kind['properties']['kind']['enum'][0]}": {"$ref": _moved(ref)} for ref, kind in kinds.items()}
    payloads: dict[str, Schema] = {topic: {"$ref": _moved(document["$ref"])}}
    return payloads | ({f"{topic}-tombstone": _TOMBSTONE} if topic == "watchlist" else {})


def _messages(topic: str, document: Schema, headers: Schema | None) -> dict[str, Schema]:
    content_type = _OCTETS if topic in _RAW else _MSGPACK if "oneOf" in document else _JSON
    common: Schema = {"contentType": content_type, "bindings": {"kafka": {"key": _KEYS[topic], "bindingVersion": _BINDING}}}
    if headers is not None:
        common["headers"] = _draft_07(headers)
    return {name: {"name": name, "payload": payload, **common} for name, payload in _payloads(topic, document).items()}


def _components(documents: Mapping[str, Schema]) -> dict[str, Schema]:
    """The definitions of all documents. Raises ValueError when two of one name differ."""
    found: dict[str, Schema] = {}
    for document in documents.values():
        for name, definition in document["$defs"].items():
            written = _draft_07(definition)
            if found.setdefault(name, written) != written:
                raise ValueError(f"{name} is not the same in every topic")
    return dict(sorted(found.items()))


def _moved(reference: str) -> str:
    return reference.replace("#/$defs/", _SCHEMAS)


def _draft_07(schema: Any) -> Any:  # noqa: ANN401 - any part of a schema
    """The same in the words of draft-07, which has no `prefixItems`; definitions are AsyncAPI's components."""
    if isinstance(schema, list):
        return [_draft_07(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "prefixItems" in schema:
        schema = {**schema, "items": schema["prefixItems"], "additionalItems": schema["items"]}
        del schema["prefixItems"]
    return {name: _moved(part) if name == "$ref" else _draft_07(part) for name, part in schema.items()}
