"""Writes what docs/ says of the wire format from schemas/: `python -m tools.check_schemas [--check]`.

One JSON Schema (2020-12) for each topic and each HTTP body in docs/schemas/, and docs/topics.md. With `--check` nothing is
written: exit code 1 and one line for each file that is not what schemas/ says. Source: json-schema.org/draft/2020-12.
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
from schemas.media import Encoding, Header
from tools.topics_page import topics_page

Schema = dict[str, Any]

DOCS = Path(__file__).resolve().parent.parent / "docs"
DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REF = "#/$defs/{name}"
_WHOLE_NUMBER = "^[0-9]{1,16}$"
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


def msgpack_document(title: str, union: Any) -> Schema:  # noqa: ANN401 - a union type
    """The schema of a MessagePack record that is one of several, told apart by `kind`."""
    root, definitions = _definitions(union)
    for definition in definitions.values():
        for field in definition.get("properties", {}).values():
            if field.pop("contentEncoding", None) and "kind" in definition["properties"]:
                field["contentMediaType"] = "application/octet-stream"
    # OpenAPI's `discriminator` is no keyword of JSON Schema; the one value of `kind` in each record says the same.
    return _document(title, {"description": _BINARY, "oneOf": root["anyOf"]}, definitions)


def _text(description: str, **more: object) -> Schema:
    return {"description": description, "type": "string", **more}


_CORRELATION_ID = _text("Carried through to every record and answer that this one causes; generated when absent.")
_SOURCE = _text("The record that caused this one.", pattern="^[^/]+/[0-9]+/[0-9]+$", examples=["media/3/1042"])


def media_headers() -> dict[Header, Schema]:
    """The headers of a `media` record."""
    default = media.AudioFormat()
    rates = [str(rate_hz) for rate_hz in media.SAMPLE_RATES_HZ]
    channels = [str(count) for count in range(1, media.MAX_CHANNELS + 1)]
    options = {"contentMediaType": "application/json", "contentSchema": {"$ref": "#/$defs/GivenOptions"}}
    return {
        Header.SEQUENCE: _text("Chunk number in the call: 0, 1, 2 … without gaps.", pattern=_WHOLE_NUMBER),
        Header.ENCODING: _text("How samples are written.", enum=[e.value for e in Encoding], default=default.encoding.value),
        Header.SAMPLE_RATE: _text("Hz.", enum=rates, default=str(default.sample_rate_hz)),
        Header.CHANNELS: _text("Interleaved channels.", enum=channels, default=str(default.channels)),
        Header.POSITION: _text(
            "Byte offset in the call of the chunk's first byte: tells a lost chunk's length.", pattern=_WHOLE_NUMBER
        ),
        Header.END: _text("On the call's last chunk.", const="1"),
        Header.OPTIONS: _text("On sequence 0: what is asked for; all technologies when absent.", **options),
        Header.CORRELATION_ID: _CORRELATION_ID,
    }


def results_headers() -> dict[Header, Schema]:
    """The headers of a `results` record."""
    content_type = _text("What the value is.", const="application/json")
    return {Header.CONTENT_TYPE: content_type, Header.CORRELATION_ID: _CORRELATION_ID, Header.SOURCE: _SOURCE}


def dead_letters_headers() -> dict[Header, Schema]:
    """The headers that a `dead-letters` record has before those of the original record."""
    return {
        Header.ERROR_TYPE: _text("What is wrong, for machines.", enum=[kind.value for kind in errors.DeadLetterType]),
        Header.ERROR_MESSAGE: _text("What is wrong, for people: one line."),
        Header.STAGE: _text("Who could not process it."),
        Header.SOURCE: _SOURCE,
        Header.VALUE_LEFT_OUT: _text("The value's size, when it was too large to be kept.", pattern="^[0-9]+ bytes$"),
        Header.REPLAY_OF: _text("The dead letter that this record was before it was replayed.", pattern="^[0-9]+/[0-9]+$"),
    }


def headers_document(
    title: str, description: str, headers: Mapping[Header, Schema], required: Iterable[Header], refers_to: Iterable[Any] = ()
) -> Schema:
    """The schema of record headers as an object of texts; other headers are allowed."""
    definitions = {name: found for kind in refers_to for name, found in _definitions(kind)[1].items()}
    properties = {header.value: schema for header, schema in headers.items()}
    body = {"description": description, "type": "object", "properties": properties}
    body |= {"required": [header.value for header in required], "additionalProperties": {"type": "string"}}
    return _document(title, body, definitions)


def topic_documents() -> dict[str, Schema]:
    """The schema of each topic's records, by the topic's name."""
    audio = "All are UTF-8 text. The value is the raw bytes of one chunk of audio; it may be empty with `end`."
    kept = "All are UTF-8 text. The original record's headers follow; its key and value are untouched."
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


def headers_by_topic() -> dict[str, list[str]]:
    """The headers of each topic's records, for docs/topics.md."""
    written = {
        "media": media_headers(),
        "requests": [Header.CONTENT_TYPE, Header.CORRELATION_ID, Header.REQUEST_ID],
        "prints": [Header.SOURCE],
        "results": results_headers(),
    }
    headers = {topic: [f"`{name}`" for name in names] for topic, names in written.items()}
    return headers | {"dead-letters": [*(f"`{name}`" for name in dead_letters_headers()), "the original ones"]}


def render() -> dict[str, str]:
    """Every generated file's text, by its path below docs/."""
    topics, bodies = topic_documents(), http_documents()
    files = {
        f"schemas/{name}.schema.json": json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
        for name, schema in (topics | bodies).items()
    }
    return files | {"topics.md": topics_page(bodies, headers_by_topic())}


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
