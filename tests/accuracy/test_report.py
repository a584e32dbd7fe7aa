"""What an evaluation leaves behind can be read by machines and by people."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import matplotlib.image
import msgspec
import numpy as np
import pytest

from pipeline.accuracy import plots, report
from pipeline.accuracy.evaluation import Evaluation, Measured, Options, Plot, Table
from pipeline.accuracy.report import Evaluated, Report, describe, draw, markdown, shown, write
from pipeline.models.errors import ModelError
from pipeline.models.manifest import Role

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVALUATED = Evaluated(
    technology="language-identification",
    manifest="clips.csv",
    manifest_sha256="ab" * 32,
    listed=20,
    corpora=["a", "b"],
    limit=400,
    profile="",
    language_floor=0.3,
    voiceprint_enough_s=30.0,
    voice_enough_s=10.0,
    noise="noise.csv",
    models=[report.UsedModel("silero", Role.VAD, "silero-vad==6.2.3")],
    callstream="0.1.0",
    machine="a processor, 2 cores",
    command="callstream evaluate clips.csv",
    date="2026-11-25T12:00:00+00:00",
    resamples=200,
    seed=1,
)
TABLE = Table(
    "By band",
    ["band", "n", "right %", "cost | bits"],
    [
        ["wide", 12, Measured(95.66, 90.0, 99.12), Measured(0.4321)],
        ["a|b", np.int64(7), Measured(math.nan), None],  # type: ignore[list-item]
        ["telephone", 0, Measured(np.float64(4.25), 3.1, math.inf), Measured(np.float64(-0.0), -0.001, 0.0)],
    ],
    "Few.",
)


def diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], label="a line")
    axes.legend()


def written(folder: Path) -> Report:
    return write(folder, EVALUATED, Evaluation([TABLE], {"det-wide": diagonal}, 12, ["A note."], noisy=True))


def test_the_folder_holds_the_report_and_the_plots(tmp_path: Path) -> None:
    written(tmp_path / "a" / "b")
    names = sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
    assert names == ["det-wide.png", "det-wide.svg", "report.json", "report.md"]


def test_json_holds_everything_and_no_nan(tmp_path: Path) -> None:
    given = written(tmp_path)
    data = (tmp_path / "report.json").read_bytes()
    assert msgspec.json.decode(data, type=Report) == given
    plain = json.loads(data, parse_constant=pytest.fail)
    assert plain["evaluated"]["manifest_sha256"] == "ab" * 32
    assert plain["evaluated"]["models"] == [{"name": "silero", "role": "vad", "source": "silero-vad==6.2.3"}]
    assert plain["plots"] == ["det-wide"]
    assert plain["notes"] == ["A note."]
    assert plain["tables"][0]["rows"] == [
        ["wide", 12, {"value": 95.66, "low": 90.0, "high": 99.12}, {"value": 0.4321}],
        ["a|b", 7, None, None],
        ["telephone", 0, {"value": 4.25}, {"value": -0.0, "low": -0.001, "high": 0.0}],
    ]


def test_markdown_is_a_table_to_read(tmp_path: Path) -> None:
    text = markdown(written(tmp_path))
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == text
    assert text.startswith("# Accuracy: language-identification\n\n- 12 of 20 recordings of `clips.csv`, SHA-256 abab")
    assert (
        "## By band\n\n"
        "| band | n | right % | cost \\| bits |\n"
        "| :-- | --: | --: | --: |\n"
        "| wide | 12 | 95.7 [90.0, 99.1] | 0.43 |\n"
        "| a\\|b | 7 | – | – |\n"
        "| telephone | 0 | 4.2 | 0.0000 [-0.0010, 0.0000] |\n\n"
        "Few.\n\n"
    ) in text
    for part in (
        "silero (silero-vad==6.2.3)",
        "![det-wide](det-wide.svg)",
        "- A note.",
        "200 resamples",
        "noise of `noise.csv`",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        (Measured(4.2, 3.14, 5.56), "4.2 [3.1, 5.6]"),
        (Measured(1234.5), "1234"),
        (Measured(95.25, 90.0, 100.0), "95.2 [90.0, 100.0]"),
        (Measured(0.0, 0.0, 0.0), "0.0 [0.0, 0.0]"),
        (Measured(99.94), "99.9"),
        (Measured(0.052, 0.01, 0.123), "0.05 [0.01, 0.12]"),
        (Measured(0.0123), "0.012"),
        (Measured(0.00012), "0.0001"),
        (Measured(0.0, 0.0, 2.25), "0.0 [0.0, 2.2]"),
        (Measured(-3.25, -5.0, 1.0), "-3.2 [-5.0, 1.0]"),
        (Measured(-0.001, -1.0, 1.0), "0.0 [-1.0, 1.0]"),
        (Measured(0.5, -0.001, 1.0), "0.5 [0.0, 1.0]"),
        (Measured(math.nan), "–"),
        (None, "–"),
        (0, "0"),
        ("two\nlines", "two lines"),
    ],
)
def test_cells_have_decimals_by_their_magnitude(cell: Measured | str | int | None, text: str) -> None:
    assert shown(cell) == text


def test_rows_that_do_not_fit_their_columns_are_a_fault(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="By band: rows are not as long"):
        write(tmp_path, EVALUATED, Evaluation([Table("By band", ["a", "b"], [["x"]])], {}, 1))


def test_what_was_evaluated_is_described(tmp_path: Path) -> None:
    manifest = tmp_path / "list.csv"
    manifest.write_text("path,start\na.wav,0\na.wav,3\nb.wav,0\n")
    options = Options(cache_dir="", language_size="tiny", resamples=5)
    found = describe("vad", manifest, None, (Role.VAD, Role.LANGUAGE), options)
    assert (found.manifest, found.listed, found.noise, found.resamples) == ("list.csv", 2, "", 5)
    assert [(model.name, model.role) for model in found.models] == [("silero", "vad"), ("whisper-tiny", "language")]
    assert len(found.manifest_sha256) == 64
    with pytest.raises(ModelError):
        describe("vad", manifest, None, (Role.LANGUAGE,), msgspec.structs.replace(options, language_size="huge"))


GENERATOR = np.random.default_rng(1)
TARGET = np.arange(500) % 5 == 0
SCORE = GENERATOR.normal(size=500) + 2 * TARGET
PLOTS: dict[str, Plot] = {
    "det": plots.det({"a": (SCORE, TARGET), "b": (-SCORE, TARGET)}),
    "roc": plots.roc({"a": (SCORE, TARGET)}),
    "histograms": plots.histograms(SCORE[TARGET], SCORE[~TARGET], "score"),
    "reliability": plots.reliability({"a": (GENERATOR.random(500), TARGET)}),
    "confusion": plots.confusion(np.array([[5, 1, 0], [0, 3, 2]]), ["en", "it"], ["en", "it", "fr"]),
    "many": plots.confusion(np.eye(25), [f"l{number}" for number in range(25)]),
    "duration": plots.over_duration(
        {"wide": [(3.0, Measured(5.0, 4, 6)), (1.0, Measured(9.0, 7, 12))], "x": [(1.0, Measured(math.nan))]}, "errors / %"
    ),
    "det-none": plots.det({}),
    "roc-none": plots.roc({}),
    "histograms-none": plots.histograms(np.zeros(0), np.zeros(0), "score"),
    "histograms-one": plots.histograms(np.array([2.0]), np.zeros(0), "score"),
    "reliability-none": plots.reliability({}),
    "duration-none": plots.over_duration({}, "errors / %"),
}


@pytest.mark.parametrize("name", PLOTS)
def test_plots_are_pictures_with_named_axes(tmp_path: Path, name: str) -> None:
    seen: list[Axes] = []

    def remembered(axes: Axes) -> None:
        PLOTS[name](axes)
        seen.append(axes)

    draw(remembered, tmp_path / name)
    assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag == "{http://www.w3.org/2000/svg}svg"
    pixels = matplotlib.image.imread(tmp_path / f"{name}.png")
    assert min(pixels.shape[:2]) > 500
    assert pixels[..., :3].std() > 0.02
    assert seen[0].get_xlabel()
    assert seen[0].get_ylabel()


def test_the_same_plot_has_the_same_bytes(tmp_path: Path) -> None:
    for stem in ("one", "two"):
        draw(PLOTS["det"], tmp_path / stem)
    for suffix in (".png", ".svg"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert b"date>" not in (tmp_path / "one.svg").read_bytes()


def drawn(plot: Plot) -> Axes:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    plot(axes)
    return axes


@pytest.mark.parametrize(("plot", "rising"), [(plots.det, False), (plots.roc, True)])
def test_curves_are_named_and_go_the_right_way(plot: Callable[[plots.Scored], Plot], rising: bool) -> None:
    line = next(line for line in drawn(plot({"3 s": (SCORE, TARGET)})).get_lines() if line.get_label() == "3 s")
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    order = np.lexsort((y if rising else -y, x))
    assert (np.diff(y[order]) >= 0).all() if rising else (np.diff(y[order]) <= 0).all()


def test_a_det_curve_of_normal_scores_is_straight() -> None:
    generator = np.random.default_rng(2)
    target = np.arange(100_000) % 2 == 0
    score = generator.normal(size=100_000) + 2 * target
    line = next(line for line in drawn(plots.det({"a": (score, target)})).get_lines() if line.get_label() == "a")
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    middle = (np.abs(x) < 2) & (np.abs(y) < 2)
    assert np.abs(x + y + 2)[middle].max() < 0.1


def test_reliability_shows_right_answers_over_confidence() -> None:
    confidence, right = np.array([0.91, 0.95, 0.55, 0.51]), np.array([True, True, True, False])
    line = next(line for line in drawn(plots.reliability({"a": (confidence, right)})).get_lines() if line.get_label() == "a")
    assert np.allclose(np.asarray(line.get_xydata()), [[53, 50], [93, 100]])


def test_confusion_is_in_shares_of_the_truth() -> None:
    texts = [text.get_text() for text in drawn(PLOTS["confusion"]).texts]
    assert texts == ["83", "17", "60", "40"]
