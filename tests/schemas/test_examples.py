"""The worked examples of the HTTP interface are read by our Structs, and nothing that they say is lost."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas.errors import RequestError
from schemas.http import LanguageAnswer, TaskAccepted, TaskAnswer, VadAnswer, VoiceprintAnswer
from schemas.requests import ComparisonRequest

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared" / "seeds" / "examples.json"
ANSWERS = {
    "Voiceprint Extraction": VoiceprintAnswer,
    "Voice Activity Detection": VadAnswer,
    "Language Identification": LanguageAnswer,
}


def _examples(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Title and example. One with an empty `result` only shows the keys; it answers nothing."""
    titles: dict[str, list[dict[str, Any]]] = json.loads(path.read_text(encoding="utf-8"))
    return [(title, example) for title, group in titles.items() for example in group if example.get("result") != {}]


def _types(title: str, example: dict[str, Any]) -> list[type[msgspec.Struct]]:
    """The types that an example is one of. Raises KeyError for a page that is not known here."""
    if "type" in example:
        return [RequestError]
    if "voiceprints_a" in example:
        return [ComparisonRequest]
    page, _, part = title.partition(": ")
    return [TaskAccepted] if part == "start task" else [TaskAnswer, ANSWERS[page]]


def _without_empty(value: Any) -> Any:
    """Empty objects are left out: `context` is optional, and absent when it is empty."""
    if isinstance(value, dict):
        return {key: _without_empty(item) for key, item in value.items() if item != {}}
    return [_without_empty(item) for item in value] if isinstance(value, list) else value


def _assert_read(title: str, example: dict[str, Any]) -> None:
    for kind in _types(title, example):
        read = msgspec.json.decode(json.dumps(example), type=kind)
        written = json.loads(msgspec.json.encode(read))
        assert _without_empty(written) == _without_empty(example), kind.__name__


KEPT = _examples(HERE / "examples.json")


@pytest.mark.parametrize(("title", "example"), KEPT, ids=[f"{title} {index}" for index, (title, _) in enumerate(KEPT)])
def test_example(title: str, example: dict[str, Any]) -> None:
    _assert_read(title, example)


@pytest.mark.skipif(not SHARED.is_file(), reason="the interface's pages are not beside this repository")
def test_every_example_of_the_pages_is_kept() -> None:
    published = _examples(SHARED)
    assert len(published) >= len(KEPT)
    kept = [example for _, example in KEPT]
    assert [example for _, example in published if example not in kept] == []
    for title, example in published:
        _assert_read(title, example)
