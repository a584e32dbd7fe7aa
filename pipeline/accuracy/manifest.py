"""The lists of recordings to evaluate on: CSV (UTF-8) with a header, paths relative to the list.

Clips of one speaker each: `path`, and as far as known `corpus` (the list's folder when empty), `speaker`, `gender` (m or f),
`language` (RFC 5646 tag, of which the primary language counts). For voice activity detection segments of speech, by hand:
`path`, `start`, `end` in seconds, `label` if there are others than `speech`, `corpus` (or what comes before the first _ of the
file's name); a row without a start names a recording that may hold no speech. Noise: `path`. Other columns are not looked at.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

import msgspec

_SPEECH_LABEL = "speech"
_GENDERS = {"": "", "m": "m", "male": "m", "f": "f", "female": "f"}


class ManifestError(Exception):
    """The list cannot be used; the message says where and why."""


class Clip(msgspec.Struct, frozen=True):
    """A recording of one speaker; what is not known is empty. `speaker` is the corpus's own name."""

    path: Path
    corpus: str
    speaker: str
    gender: str
    language: str


class LabelledRecording(msgspec.Struct, frozen=True):
    """A recording and its segments of speech in seconds, by their starts; those of several speakers may overlap."""

    path: Path
    corpus: str
    speech_s: list[tuple[float, float]]


def read_clips(manifest: Path, *needed: str, corpora: Collection[str] = ()) -> list[Clip]:
    """The clips of a list that have what is needed of `speaker`, `gender`, `language`; of these corpora, if any are named.

    Raises ManifestError.
    """
    seen: dict[Path, int] = {}
    clips = []
    for line, row in _rows(manifest, "path", *needed):
        path = (manifest.parent / row["path"]).resolve()
        if (first := seen.setdefault(path, line)) != line:  # compared with itself it would be a perfect score
            raise ManifestError(f"{manifest}, line {line}: {row['path']} is listed in line {first} already")
        clips.append(_clip(row, manifest, line))
    chosen = _of_corpora(clips, corpora, manifest)
    kept = [clip for clip in chosen if all(getattr(clip, name) for name in needed)]
    if not kept:
        raise ManifestError(f"{manifest}: no recording has a {' and a '.join(needed)}")
    return kept


Entry = TypeVar("Entry", "Clip", "LabelledRecording")


def _of_corpora(entries: list[Entry], corpora: Collection[str], manifest: Path) -> list[Entry]:
    there = {one.corpus for one in entries}
    if missing := sorted(set(corpora) - there):
        raise ManifestError(f"{manifest}: no corpus {', '.join(missing)}; it has {', '.join(sorted(there))}")
    return [one for one in entries if not corpora or one.corpus in corpora]


def _clip(row: dict[str, str], manifest: Path, line: int) -> Clip:
    gender = _GENDERS.get(row.get("gender", "").lower())
    if gender is None:
        raise ManifestError(f"{manifest}, line {line}: gender {row['gender']!r} is neither m nor f nor empty")
    corpus = row.get("corpus") or manifest.parent.resolve().name
    language = row.get("language", "").replace("_", "-").partition("-")[0].lower()  # en of en-US, en_US and EN
    return Clip(manifest.parent / row["path"], corpus, row.get("speaker", ""), gender, language)


def read_labelled(manifest: Path, corpora: Collection[str] = ()) -> list[LabelledRecording]:
    """The recordings of a list of segments, in its order; of these corpora, if any are named. Raises ManifestError."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for line, row in _rows(manifest, "path", "start", "end"):
        speech_s = found[row["path"], row.get("corpus") or _corpus(row["path"], manifest)]
        if (row.get("label") or _SPEECH_LABEL) == _SPEECH_LABEL and (row["start"] or row["end"]):
            speech_s.append(_times(row, manifest, line))
    every = [LabelledRecording(manifest.parent / path, corpus, sorted(speech_s)) for (path, corpus), speech_s in found.items()]
    return _of_corpora(every, corpora, manifest)


def _corpus(path: str, manifest: Path) -> str:
    name, underscore, _ = Path(path).stem.partition("_")
    return name if name and underscore else manifest.parent.resolve().name


def read_paths(manifest: Path) -> list[Path]:
    """The recordings that a list names, each once, in its order. Raises ManifestError."""
    return list(dict.fromkeys(manifest.parent / row["path"] for _, row in _rows(manifest, "path")))


def _times(row: dict[str, str], manifest: Path, line: int) -> tuple[float, float]:
    try:
        start_s, end_s = float(row["start"]), float(row["end"])
    except ValueError:
        raise ManifestError(f"{manifest}, line {line}: start and end are seconds") from None
    if not 0 <= start_s <= end_s < math.inf:
        raise ManifestError(f"{manifest}, line {line}: a segment from {start_s:g} to {end_s:g} s")
    return start_s, end_s


def _rows(manifest: Path, *columns: str) -> list[tuple[int, dict[str, str]]]:
    """The rows with their lines; each has a path. Cells are stripped of the space around them."""
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [name.strip() for name in next(reader, [])]
            lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if cells]
    except OSError as error:
        raise ManifestError(f"{manifest}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{manifest}: {error}") from None
    if missing := [column for column in columns if column not in header]:
        raise ManifestError(f"{manifest}: no column {', '.join(missing)}")
    if not lines:
        raise ManifestError(f"{manifest}: lists no recording")
    return [(line, _row(header, cells, manifest, line)) for line, cells in lines]


def _row(header: list[str], cells: list[str], manifest: Path, line: int) -> dict[str, str]:
    if len(cells) > len(header):
        raise ManifestError(f"{manifest}, line {line}: {len(cells)} cells under {len(header)} columns; quote what has commas")
    row = dict.fromkeys(header, "") | dict(zip(header, cells, strict=False))
    if not row["path"]:
        raise ManifestError(f"{manifest}, line {line}: no path")
    return row
