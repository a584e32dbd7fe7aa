"""Writes what docs/ says of the wire format from schemas/: `python -m tools.check_schemas [--check]`.

One JSON Schema (2020-12) for each topic and each HTTP body in docs/schemas/, docs/topics.md, and docs/asyncapi.json. With
`--check` nothing is written: exit code 1 and one line for each file that is not what schemas/ says. Source:
json-schema.org/draft/2020-12.
"""

import inspect
import json
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import click
import msgspec

from schemas import errors, http, media, requests, results, stream
from schemas.media import Header
from tools.asyncapi import asyncapi_document
from tools.record_headers import (
    dead_letters_headers,
    headers_schema,
    media_headers,
    prints_headers,
    requests_headers,
    results_headers,
)
from tools.topics_page import topics_page

Schema = dict[str, Any]

DOCS = Path(__file__).resolve().parent.parent / "docs"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/{name}"
_BINARY = "A MessagePack record; a string of media type application/octet-stream is MessagePack's bin."
_NO_ONE_OF = (
    "The technology of the request's path says which. anyOf, because by their keys alone they overlap: "
    "a gender channel's keys are a subset of every other channel's."
)


def result_types(answers: Iterable[type[msgspec.Struct]]) -> list[type[msgspec.Struct]]:
    """The Structs that `result` of these answers may hold."""
    hints = [typing.get_type_hints(answer)["result"] for answer in answers]
    return [kind for hint in hints for kind in typing.get_args(hint) if issubclass(kind, msgspec.Struct)]


RESULT_TYPES = {technology: result_types(answers) for technology, answers in http.ANSWERS.items()}
ALL_RESULTS = [kind for kinds in RESULT_TYPES.values() for kind in kinds]


def _refs(kinds: Iterable[type[msgspec.Struct]]) -> list[Schema]:
    return [{"$ref": _REF.format(name=kind.__name__)} for kind in kinds]


def _voiceprints(definition: Schema, *fields: str) -> None:
    for field in fields:
        options = definition["properties"][field].get("anyOf", [definition["properties"][field]])
        array = next(option for option in options if option.get("type") == "array")
        array["items"] = {"type": "string", "contentEncoding": "base64"}


def _bounded_lists(definition: Schema, *fields: str) -> None:
    _voiceprints(definition, *fields)
    for field in fields:
        definition["properties"][field] |= {"minItems": 1, "maxItems": requests.MAX_VOICEPRINTS}


def _transition(definition: Schema) -> None:
    """`technology` tells the schema of `result` and of `partial`."""
    for name in ("partial", "result"):
        definition["properties"][name] = {"description": "A result; `technology` says which."}
    definition["oneOf"] = []
    for technology, kinds in RESULT_TYPES.items():
        held: Schema = _refs(kinds)[0] if len(kinds) == 1 else {"oneOf": _refs(kinds)}
        branch = {"technology": {"const": technology.value}, "partial": held, "result": held}
        definition["oneOf"].append({"properties": branch})


def _task_answer(definition: Schema) -> None:
    definition["properties"]["result"] = {"$comment": _NO_ONE_OF, "anyOf": _refs(ALL_RESULTS)}


# Lists of `requests` records have no bounds: one out of bounds is read, and its task rejected.
_REFINEMENTS: dict[str, Callable[[Schema], None]] = {
    "TaskInfo": lambda definition: definition["properties"]["task_id"].update(format="uuid"),
    "CallOptions": lambda definition: _voiceprints(definition, "compare_with"),
    "GivenOptions": lambda definition: _voiceprints(definition, "compare_with"),
    "StartTask": lambda definition: _voiceprints(definition, "voiceprints", "voiceprints_a", "voiceprints_b"),
    "GenderRequest": lambda definition: _bounded_lists(definition, "voiceprints"),
    "ComparisonRequest": lambda definition: _bounded_lists(definition, "voiceprints_a", "voiceprints_b"),
    "WatchlistEntry": lambda definition: definition["properties"]["voiceprint"].update(contentEncoding="base64"),
    "VoiceprintChannel": lambda definition: definition["properties"]["voiceprint"].update(contentEncoding="base64"),
    "Transition": _transition,
    "TaskAnswer": _task_answer,
}


def _definitions(kind: Any, also: Iterable[type[msgspec.Struct]] = ()) -> tuple[Schema, dict[str, Schema]]:  # noqa: ANN401 - any type
    """The schema of a type, and the definitions that it refers to, by name in alphabetical order."""
    (root, *_), definitions = msgspec.json.schema_components([kind, *also], ref_template=_REF)
    for name, definition in definitions.items():
        if "description" in definition:
            definition["description"] = inspect.cleandoc(definition["description"])
        if name in _REFINEMENTS:
            _REFINEMENTS[name](definition)
    return root, dict(sorted(definitions.items()))


def _document(title: str, body: Schema, definitions: Mapping[str, Schema]) -> Schema:
    return {"$schema": DIALECT, "title": title, **body, "$defs": dict(definitions)}


def json_document(title: str, kind: Any, also: Iterable[type[msgspec.Struct]] = ()) -> Schema:  # noqa: ANN401 - any type
    """The schema of a JSON value; `also` names types that only refinements refer to."""
    root, definitions = _definitions(kind, also)
    name = root["$ref"].rsplit("/", 1)[-1]
    return _document(title, {"description": definitions[name]["description"], **root}, definitions)


def _as_binary(schema: Any) -> None:  # noqa: ANN401 - any part of a schema
    parts = list(schema.values()) if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    if isinstance(schema, dict) and schema.pop("contentEncoding", None):
        schema["contentMediaType"] = "application/octet-stream"
    for part in parts:
        _as_binary(part)


def msgpack_document(title: str, union: Any) -> Schema:  # noqa: ANN401 - a union type
    """The schema of a MessagePack record that is one of several, told apart by `kind`."""
    root, definitions = _definitions(union)
    for definition in definitions.values():
        if "kind" in definition.get("properties", {}):
            _as_binary(definition["properties"])
    # OpenAPI's `discriminator` is no keyword of JSON Schema; the one value of `kind` in each record says the same.
    return _document(title, {"description": _BINARY, "oneOf": root["anyOf"]}, definitions)


def headers_document(
    title: str, description: str, headers: Mapping[Header, Schema], required: Iterable[Header], refers_to: Iterable[Any] = ()
) -> Schema:
    """The schema of record headers as an object of texts; other headers are allowed."""
    definitions = {name: found for kind in refers_to for name, found in _definitions(kind)[1].items()}
    return _document(title, {"description": description, **headers_schema(headers, required)}, definitions)


def topic_documents() -> dict[str, Schema]:
    """The schema of each topic's records, by the topic's name."""
    audio = "All are UTF-8 text. The value is the raw bytes of one chunk of audio; it may be empty with `end`."
    kept = (
        "All are UTF-8 text. The original record's headers follow; its key and value are untouched; "
        "where it had neither, the value is empty."
    )
    buried = dead_letters_headers()
    return {
        "media": headers_document("Headers of a media record", audio, media_headers(), [Header.SEQUENCE], [media.GivenOptions]),
        "requests": json_document("Value of a requests record", requests.StartTask),
        "speech": msgpack_document("Value of a speech record", stream.SpeechRecord),
        "prints": msgpack_document("Value of a prints record", stream.PrintRecord),
        "snapshots": msgpack_document("Value of a snapshots record", stream.SnapshotRecord),
        "watchlist": json_document("Value of a watchlist record", stream.WatchlistEntry),
        "results": json_document("Value of a results record", results.Transition, ALL_RESULTS),
        "dead-letters": headers_document("Headers of a dead-letters record", kept, buried, list(buried)[:4]),
    }


def http_documents() -> dict[str, Schema]:
    """The schema of each HTTP body, by the body's name."""
    return {
        "task-accepted": json_document("Answer 202: the task was started", http.TaskAccepted),
        "task-answer": json_document("Answer 200: the task, its result or error", http.TaskAnswer, ALL_RESULTS),
        "request-error": json_document("Answer 400 and above: what is wrong", errors.RequestError),
        "gender-request": json_document("Request: gender identification", requests.GenderRequest),
        "comparison-request": json_document("Request: voiceprint comparison", requests.ComparisonRequest),
    }


def headers_by_topic() -> dict[str, Schema]:
    """The schema of each topic's headers, where a topic has any."""
    headers = {"requests": requests_headers(), "prints": prints_headers(), "results": results_headers()}
    always = [Header.CONTENT_TYPE, Header.CORRELATION_ID, Header.SOURCE]
    required = {"requests": [], "prints": [Header.SOURCE], "results": always}
    found = {topic: headers_schema(headers[topic], required[topic]) for topic in headers}
    documents = topic_documents()
    keywords = ("type", "properties", "required", "additionalProperties")
    return found | {topic: {word: documents[topic][word] for word in keywords} for topic in ("media", "dead-letters")}


def header_names(headers: Mapping[str, Schema]) -> dict[str, list[str]]:
    """The headers of each topic's records, for docs/topics.md."""
    names = {topic: [f"`{name}`" for name in schema["properties"]] for topic, schema in headers.items()}
    return names | {"dead-letters": [*names["dead-letters"], "the original ones"]}


def render() -> dict[str, str]:
    """Every generated file's text, by its path below docs/."""
    topics, bodies, headers = topic_documents(), http_documents(), headers_by_topic()
    files = {f"schemas/{name}.schema.json": _json_text(schema) for name, schema in (topics | bodies).items()}
    asyncapi = _json_text(asyncapi_document(topics, headers))
    return files | {"topics.md": topics_page(bodies, header_names(headers)), "asyncapi.json": asyncapi}


def _json_text(document: Schema) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _stale(docs: Path, files: Mapping[str, str]) -> list[Path]:
    return [path for path in sorted((docs / "schemas").glob("*.json")) if f"schemas/{path.name}" not in files]


def write(docs: Path) -> None:
    """Write every file below `docs`, and delete the schemas that nothing generates any more."""
    files = render()
    (docs / "schemas").mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (docs / name).write_text(text, encoding="utf-8")
    for path in _stale(docs, files):
        path.unlink()


def drift(docs: Path) -> list[str]:
    """One line for each file below `docs` that is not what schemas/ says."""
    files = render()
    lines = []
    for name, text in files.items():
        path = docs / name
        if not path.is_file():
            lines.append(f"docs/{name} is missing")
        elif path.read_bytes() != text.encode():
            lines.append(f"docs/{name} is not what schemas/ says")
    return lines + [f"docs/schemas/{path.name} belongs to no schema" for path in _stale(docs, files)]


@click.command(help=__doc__)
@click.option("--check", is_flag=True, help="write nothing; exit with 1 when a file is not up to date")
def main(check: bool) -> None:
    """Write the files, or check them."""
    if not check:
        write(DOCS)
        return
    lines = drift(DOCS)
    for line in lines:
        click.echo(f"{line}; run python -m tools.check_schemas", err=True)
    sys.exit(1 if lines else 0)


if __name__ == "__main__":
    main()
