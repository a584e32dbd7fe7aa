"""What an evaluation gives: tables of figures with their confidence intervals, and plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pipeline.accuracy.defaults import LIMIT, RESAMPLES, SEED
from pipeline.models.execution import ALONE, Execution
from pipeline.scoring.profile import Profile

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Measured(msgspec.Struct, frozen=True, omit_defaults=True):
    """A figure in the unit of its column, and its 95 % bootstrap interval where there are speakers enough for one."""

    value: float
    low: float | None = None
    high: float | None = None


Cell = str | int | Measured | None  # None: too little data


class Table(msgspec.Struct, frozen=True, omit_defaults=True):
    """Rows of cells, as many in each as there are columns; columns name their unit."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""


Plot = Callable[["Axes"], None]  # draws itself


class Evaluation(msgspec.Struct, frozen=True):
    """The outcome; `plots` by file name without a suffix.

    `recordings` were used of the list, `groups` are what the bootstrap draws, `noisy` says whether noise was mixed in.
    """

    tables: list[Table]
    plots: dict[str, Plot]
    recordings: int
    notes: list[str] = []
    groups: str = "speakers"
    noisy: bool = False


def _silent(_: str) -> None:
    """Say nothing."""


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to evaluate.

    `noise` are recordings to mix in, none for generated noise; `limit` is how many recordings of each corpus are used,
    `corpora` which, none for all; voiceprints, and the voice embedding in them, take in as much speech as the settings say, all
    for 0; `progress` is told what is being done.
    """

    cache_dir: str
    language_size: str = "base"
    language_floor: float = 0.0
    voiceprint_enough_s: float = 0.0
    voice_enough_s: float = 0.0
    manifest_path: Path | None = None
    execution: Execution = ALONE
    profile: Profile = Profile()
    noise: tuple[Path, ...] = ()
    resamples: int = RESAMPLES
    seed: int = SEED
    limit: int = LIMIT
    corpora: tuple[str, ...] = ()
    threads: int = 2
    progress: Callable[[str], None] = _silent
