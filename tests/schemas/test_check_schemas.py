"""The generated documents: complete, consistent in themselves, and checked for drift."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from pipeline.topics import TOPICS
from schemas.http import ANSWERS
from schemas.media import Header
from schemas.tasks import Technology
from tests.schemas.records import JSON_RECORDS
from tools import check_schemas, record_headers

FILES = check_schemas.render()
DOCUMENTS = {
    name.removeprefix("schemas/").removesuffix(".schema.json"): json.loads(text)
    for name, text in FILES.items()
    if name.startswith("schemas/")
}
BODIES = {"task-accepted", "task-answer", "request-error", "gender-request", "comparison-request"}
# Which document describes which golden example; what is in no document is not listed.
GOLDEN = {"results-": "results", "requests-": "requests", "answer-": "task-answer", "watchlist": "watchlist"}


def _inner(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _inner(item)


def test_the_repository_has_no_drift() -> None:
    result = CliRunner().invoke(check_schemas.main, ["--check"])
    assert (result.output, result.exit_code) == ("", 0)


def test_there_is_a_document_for_each_topic_and_body() -> None:
    assert set(DOCUMENTS) == {topic.name for topic in TOPICS} | BODIES


@pytest.mark.parametrize("name", DOCUMENTS)
def test_document(name: str) -> None:
    document = DOCUMENTS[name]
    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert document["title"]
    assert document["description"]
    assert all(definition["description"] for definition in document["$defs"].values())
    references = {inner["$ref"] for inner in _inner(document) if "$ref" in inner}
    assert references == {f"#/$defs/{definition}" for definition in document["$defs"]}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_nothing_is_left_open(name: str) -> None:
    """msgspec writes {} where it does not know what is held."""
    for definition in DOCUMENTS[name]["$defs"].values():
        assert {} not in definition.get("properties", {}).values()


@pytest.mark.parametrize("technology", Technology)
def test_the_technology_tells_the_result(technology: Technology) -> None:
    branches = [branch["properties"] for branch in DOCUMENTS["results"]["$defs"]["Transition"]["oneOf"]]
    (branch,) = [branch for branch in branches if branch["technology"] == {"const": technology.value}]
    assert branch["result"] == branch["partial"]
    named = {inner["$ref"].rsplit("/", 1)[-1] for inner in _inner(branch["result"]) if "$ref" in inner}
    assert named == {kind.__name__ for kind in check_schemas.result_types(ANSWERS[technology])}


def _undeclared(schema: dict[str, Any], value: Any, document: dict[str, Any]) -> set[str]:
    """Keys of a value that its schema does not declare, and required keys that it lacks."""
    schema = document["$defs"][schema["$ref"].rsplit("/", 1)[-1]] if "$ref" in schema else schema
    if isinstance(value, list):
        return set[str]().union(*(_undeclared(schema.get("items", {}), item, document) for item in value))
    if not isinstance(value, dict) or "properties" not in schema:
        return set()
    faults = (set(value) - set(schema["properties"])) | (set(schema["required"]) - set(value))
    inner = [_undeclared(schema["properties"][key], item, document) for key, item in value.items() if key not in faults]
    return faults.union(*inner)


@pytest.mark.parametrize("name", [name for name in JSON_RECORDS if name.startswith(tuple(GOLDEN))])
def test_the_keys_of_each_example_are_declared(name: str) -> None:
    document = DOCUMENTS[next(kind for prefix, kind in GOLDEN.items() if name.startswith(prefix))]
    value = msgspec.json.decode(msgspec.json.encode(JSON_RECORDS[name].value))
    assert _undeclared({"$ref": document["$ref"]}, value, document) == set()
    assert _undeclared({"$ref": document["$ref"]}, value | {"other": 1}, document) == {"other"}


def test_every_header_is_described() -> None:
    described = record_headers.media_headers() | record_headers.results_headers() | record_headers.dead_letters_headers()
    assert set(described) == set(Header)
    assert f"`{Header.REQUEST_ID}`" in FILES["topics.md"]


def test_the_page_links_every_document() -> None:
    for name in DOCUMENTS:
        assert f"(schemas/{name}.schema.json)" in FILES["topics.md"]
    for topic in TOPICS:
        assert f"\n| `{topic.name}` |" in FILES["topics.md"]


def test_what_is_written_has_no_drift(tmp_path: Path) -> None:
    check_schemas.write(tmp_path)
    assert check_schemas.drift(tmp_path) == []
    assert all((tmp_path / name).read_bytes().endswith(b"\n") for name in FILES)


def test_each_file_that_drifted_is_named_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_schemas, "DOCS", tmp_path)
    check_schemas.write(tmp_path)
    (tmp_path / "topics.md").unlink()
    with (tmp_path / "schemas" / "results.schema.json").open("a") as file:
        file.write("\n")
    (tmp_path / "schemas" / "old.schema.json").write_text("{}\n")
    result = CliRunner().invoke(check_schemas.main, ["--check"])
    named = [line.split()[0] for line in result.output.splitlines()]
    assert named == ["docs/schemas/results.schema.json", "docs/topics.md", "docs/schemas/old.schema.json"]
    assert result.exit_code == 1
    assert CliRunner().invoke(check_schemas.main, []).exit_code == 0
    assert check_schemas.drift(tmp_path) == []
