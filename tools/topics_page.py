"""The text of docs/topics.md: who writes which topic, and what is in it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.topics import TOPICS, Topic

Schema = dict[str, Any]

_HOUR_MS = 3_600_000

_INTRODUCTION = """\
<!-- Generated from schemas/ and pipeline/topics.py by `python -m tools.check_schemas`: do not edit. -->

# Topics

`callstream topics` creates them, each with the same number of partitions (`CALLSTREAM_PARTITIONS`), under names that begin with
`CALLSTREAM_TOPIC_PREFIX`. In `media`, `speech` and `prints` a call's records have its id as key, so they stay in order; its
`speech`, `prints` and `snapshots` records are in the partition of the same number as its `media` records, so these topics
have equally many.
"""

_READING = """\
The value of `media` is audio and the value of `dead-letters` is the original one, so their schemas describe the headers; the
other schemas describe the value. Header values are UTF-8 text; of those that producers write only `sequence` is required. Keys
of a JSON value that do not apply are absent, not null, and readers ignore keys that they do not know, save in `options`, where
an unknown key is an error. The same for machines, as AsyncAPI 3.0: [asyncapi.json](asyncapi.json).
"""


# Who writes a topic, its key, its value.
_USES = {
    "media": ("producers", "call id, 1 to 128 characters", "audio bytes of one chunk"),
    "requests": ("producers, query service", "task id (a UUID), or none", "JSON, a start-task request"),
    "speech": ("VAD agent", "call id", "MessagePack, one utterance of one channel, a draft of one, or a call's begin or end"),
    "prints": (
        "extraction agent",
        "call id",
        "MessagePack, an utterance's prints if any were wanted, or a call's begin or end",
    ),
    "snapshots": (
        "VAD and comparison agents",
        "call id; of what outlives a snapshot behind a byte that no call id begins with; a watch list's digest behind another",
        "MessagePack, that a call begins, where it stood, that it has ended, which watch list it met; that list",
    ),
    "watchlist": ("producers", "subject id", "JSON, an enrolled voiceprint; a tombstone removes it"),
    "results": ("agents", "task id", "JSON, one state transition of one task"),
    "dead-letters": ("agents", "the original key", "the original value, untouched"),
}


def _kept(topic: Topic) -> str:
    if topic.retention_ms is None:
        return "newest of each key"
    hours = topic.retention_ms // _HOUR_MS
    kept = f"{hours} h" if hours < 48 else f"{hours // 24} days"
    return f"{kept}; newest of each key" if "compact" in topic.cleanup_policy else kept


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _link(name: str) -> str:
    return f"[{name}](schemas/{name}.schema.json)"


def _topic_rows(headers: Mapping[str, Iterable[str]]) -> Iterable[Sequence[str]]:
    for topic in TOPICS:
        names = ", ".join(headers.get(topic.name, ["none"]))
        yield f"`{topic.name}`", *_USES[topic.name], names, _kept(topic), _link(topic.name)


def topics_page(bodies: Mapping[str, Schema], headers: Mapping[str, Iterable[str]]) -> str:
    """The text of docs/topics.md; `bodies` are the schemas of the HTTP bodies by name, `headers` those of each topic."""
    parts = [
        _INTRODUCTION,
        _table(("topic", "written by", "key", "value", "headers", "kept", "schema"), _topic_rows(headers)),
        _READING,
        "## HTTP bodies\n",
        _table(("body", "schema"), ((schema["title"], _link(name)) for name, schema in bodies.items())),
    ]
    return "\n".join(parts)
