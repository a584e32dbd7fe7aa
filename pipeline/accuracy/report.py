"""What an evaluation leaves in its folder: `report.json` with everything, `report.md` to read, each plot as PNG and as SVG."""

from __future__ import annotations

import hashlib
import math
import os
import platform
import shlex
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import matplotlib as mpl
import msgspec
from matplotlib.figure import Figure

from pipeline.accuracy.evaluation import Cell, Evaluation, Measured, Options, Plot, Table
from pipeline.accuracy.manifest import read_paths
from pipeline.models.manifest import Role, load_manifest
from pipeline.scoring.profile import Profile

_UNKNOWN = "–"
_SIZE_INCHES = (6.4, 4.8)
_DOTS_PER_INCH = 150
_SALT = "callstream"  # makes the ids of an SVG the same every time


class UsedModel(msgspec.Struct, frozen=True):
    """A model, and the package or the file that it is from."""

    name: str
    role: Role
    source: str


class Evaluated(msgspec.Struct, frozen=True, kw_only=True):
    """What was evaluated, on what and how.

    `recordings` of the `listed` ones were used; `noise` is the list of noises, empty when none was mixed in, `groups` what the
    bootstrap draws, `profile` the SHA-256 of the calibration profile's content, empty for none; `date` ISO 8601, UTC.
    """

    technology: str
    manifest: str
    manifest_sha256: str
    listed: int
    recordings: int = 0
    groups: str = ""
    corpora: list[str]
    limit: int
    profile: str
    language_floor: float
    voiceprint_enough_s: float
    voice_enough_s: float
    noise: str
    models: list[UsedModel]
    callstream: str
    machine: str
    command: str
    date: str
    resamples: int
    seed: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `report.json` holds. A figure that is not known is null; `plots` are files of the same folder."""

    evaluated: Evaluated
    tables: list[Table]
    notes: list[str]
    plots: list[str]


def describe(technology: str, manifest: Path, noise: Path | None, roles: Iterable[Role], options: Options) -> Evaluated:
    """What is being evaluated. Raises ManifestError and ModelError."""
    models = load_manifest(options.manifest_path)
    chosen = [models.chosen(role, options.language_size) for role in roles]
    return Evaluated(
        technology=technology,
        manifest=manifest.name,
        listed=len(read_paths(manifest)),
        corpora=list(options.corpora),
        limit=options.limit,
        profile=_profile(options.profile),
        language_floor=options.language_floor,
        voiceprint_enough_s=options.voiceprint_enough_s,
        voice_enough_s=options.voice_enough_s,
        manifest_sha256=hashlib.sha256(manifest.read_bytes()).hexdigest(),
        noise=noise.name if noise else "",
        models=[UsedModel(model.name, model.role, model.source.label) for model in chosen],
        callstream=metadata.version("callstream"),
        machine=_machine(),
        command=shlex.join(["callstream", *sys.argv[1:]]),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        resamples=options.resamples,
        seed=options.seed,
    )


def _profile(profile: Profile) -> str:
    return "" if profile == Profile() else hashlib.sha256(msgspec.json.encode(profile)).hexdigest()


def _machine() -> str:
    """Processor, cores and Python, in one line."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = next(names, platform.processor() or platform.machine())
    return f"{processor}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def write(folder: Path, evaluated: Evaluated, evaluation: Evaluation) -> Report:
    """Write everything into a folder, which is made when it is not there. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = [_without_nan(table) for table in evaluation.tables]
    noise = evaluated.noise if evaluation.noisy else ""
    used = msgspec.structs.replace(evaluated, recordings=evaluation.recordings, groups=evaluation.groups, noise=noise)
    report = Report(evaluated=used, tables=tables, notes=evaluation.notes, plots=list(evaluation.plots))
    for name, plot in evaluation.plots.items():
        draw(plot, folder / name)
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")
    (folder / "report.json").write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    return report


def _without_nan(table: Table) -> Table:
    rows = [[_known(cell) for cell in row] for row in table.rows]
    if any(len(row) != len(table.columns) for row in rows):
        raise ValueError(f"{table.title}: rows are not as long as there are columns")
    return msgspec.structs.replace(table, rows=rows)


def _known(cell: Cell) -> Cell:
    """Numbers as Python has them, not numpy; none where there is no number."""
    if not isinstance(cell, Measured):
        return cell if cell is None or isinstance(cell, str) else int(cell)
    if not math.isfinite(cell.value):
        return None
    if cell.low is None or cell.high is None or not (math.isfinite(cell.low) and math.isfinite(cell.high)):
        return Measured(float(cell.value))
    return Measured(float(cell.value), float(cell.low), float(cell.high))


def draw(plot: Plot, stem: Path) -> None:
    """Write a plot as `<stem>.png` and `<stem>.svg`; the same plot gives the same bytes. Raises OSError."""
    with mpl.rc_context({"svg.hashsalt": _SALT}):
        figure = Figure(_SIZE_INCHES, layout="constrained")
        plot(figure.subplots())
        figure.savefig(f"{stem}.png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
        figure.savefig(f"{stem}.svg", metadata={"Date": None, "Creator": None})


def markdown(report: Report) -> str:
    """The report to read; plots are links to the folder's SVG files."""
    parts = [f"# Accuracy: {report.evaluated.technology}", _preamble(report.evaluated)]
    for table in report.tables:
        parts += [f"## {table.title}", _table(table), *([table.note] if table.note else [])]
    if report.plots:
        parts += ["## Plots", *(f"![{name}]({name}.svg)" for name in report.plots)]
    if report.notes:
        parts += ["## Notes", "\n".join(f"- {note}" for note in report.notes)]
    return "\n\n".join(parts) + "\n"


def _preamble(evaluated: Evaluated) -> str:
    models = ", ".join(f"{model.name} ({model.source})" for model in evaluated.models)
    drawn = f"{evaluated.groups}, {evaluated.resamples} resamples, seed {evaluated.seed}"
    used = f"{evaluated.recordings} of {evaluated.listed} recordings"
    lines = [
        f"{used} of `{evaluated.manifest}`, SHA-256 {evaluated.manifest_sha256}",
        f"corpora {', '.join(evaluated.corpora)}" if evaluated.corpora else "",
        f"calibration profile with SHA-256 {evaluated.profile}" if evaluated.profile else "",
        f"noise of `{evaluated.noise}`" if evaluated.noise else "",
        f"callstream {evaluated.callstream}; models: {models}",
        f"in brackets 95 % intervals by bootstrap over {drawn}" if evaluated.resamples else "",
        f"{evaluated.date}, {evaluated.machine}",
        f"`{evaluated.command}`",
    ]
    return "\n".join(f"- {line}" for line in lines if line)


def _table(table: Table) -> str:
    rows = [[shown(cell) for cell in row] for row in table.rows]
    is_text = [any(isinstance(row[column], str) for row in table.rows) for column in range(len(table.columns))]
    rule = [":--" if text else "--:" for text in is_text]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [[_escaped(name) for name in table.columns], rule, *rows])


def shown(cell: Cell) -> str:
    """A cell in words: `4.2 [3.1, 5.6]`, `–` for what is not known."""
    if cell is None or isinstance(cell, Measured):
        return _UNKNOWN if cell is None else _shown_figure(cell)
    return _escaped(cell) if isinstance(cell, str) else str(cell)


def _shown_figure(figure: Measured) -> str:
    bounds = [] if figure.low is None or figure.high is None else [figure.low, figure.high]
    if not all(map(math.isfinite, [figure.value, *bounds])):
        return _UNKNOWN
    places = _decimals(max(map(abs, [figure.value, *bounds])))
    interval = f" [{', '.join(f'{bound:z.{places}f}' for bound in bounds)}]" if bounds else ""
    return f"{figure.value:z.{places}f}{interval}"


def _decimals(largest: float) -> int:
    """So many that at least two digits are left to read; a percentage has one, be it 100."""
    return next((places for places, least in enumerate((1000, 1, 0.1, 0.01)) if largest >= least), 4 if largest else 1)


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
