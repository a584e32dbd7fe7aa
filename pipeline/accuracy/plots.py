"""Plots of scores and decisions: each function gives a `Plot`, which draws itself on axes.

Colours are Okabe and Ito's, which all kinds of colour vision tell apart; lines differ in their dashes too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from pipeline.accuracy.evaluation import Measured, Plot
from pipeline.accuracy.measures import error_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Float64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Scored = Mapping[str, tuple[Float64, Bools]]  # by name: scores (n,), whether each is of a target

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", "-.", ":")
_DET_TICKS_PERCENT = (0.1, 0.5, 1, 2, 5, 10, 20, 40, 60)
_DET_LIMITS = (0.0005, 0.7)
_HISTOGRAM_BINS = 50
_CELL_INCHES = 0.3


def det(curves: Scored) -> Plot:
    """Misses over false alarms on normal deviate scales (Martin et al. 1997), on which normal scores give straight lines."""

    def draw(axes: Axes) -> None:
        for (name, misses, alarms), (colour, dash) in zip(_rates(curves), _styles(), strict=False):
            axes.plot(_deviate(alarms), _deviate(misses), label=name, color=colour, linestyle=dash)
        ticks = [share / 100 for share in _DET_TICKS_PERCENT]
        labels = [f"{share:g}" for share in _DET_TICKS_PERCENT]
        axes.plot(_deviate(np.array(_DET_LIMITS)), _deviate(np.array(_DET_LIMITS)), color="0.7", linewidth=0.8)
        axes.set_xticks(ndtri(ticks), labels)
        axes.set_yticks(ndtri(ticks), labels)
        axes.set(xlim=ndtri(_DET_LIMITS), ylim=ndtri(_DET_LIMITS), xlabel="false alarms / %", ylabel="misses / %")
        _finish(axes, bool(curves))
        axes.set_aspect("equal")

    return draw


def roc(curves: Scored) -> Plot:
    """Hits over false alarms."""

    def draw(axes: Axes) -> None:
        for (name, misses, alarms), (colour, dash) in zip(_rates(curves), _styles(), strict=False):
            axes.plot(100 * alarms, 100 * (1 - misses), label=name, color=colour, linestyle=dash)
        axes.plot([0, 100], [0, 100], color="0.7", linewidth=0.8)
        axes.set(xlim=(-2, 102), ylim=(-2, 102), xlabel="false alarms / %", ylabel="hits / %")
        _finish(axes, bool(curves))
        axes.set_aspect("equal")

    return draw


def histograms(target: Float64, other: Float64, score: str, names: tuple[str, str] = ("target", "non-target")) -> Plot:
    """The scores (n,) of targets and (m,) of others, each as a density; `score` names them, with their unit."""

    def draw(axes: Axes) -> None:
        both = np.concatenate([target, other])
        edges = np.histogram_bin_edges(both[np.isfinite(both)], _HISTOGRAM_BINS)
        for part, name, ((colour, _), hatch) in zip(
            (target, other), names, zip(_styles(), ("", "//"), strict=False), strict=True
        ):
            if part.size:
                axes.hist(part, edges.tolist(), density=True, alpha=0.5, label=name, hatch=hatch, color=colour, edgecolor="0.3")
        axes.set(xlabel=score, ylabel="density")
        _finish(axes, bool(both.size))

    return draw


def reliability(answers: Scored, bins: int = 10) -> Plot:
    """The share of right answers over confidence, in bins.

    `answers` by name: confidence (n,) in [0, 1], whether each is right (n,). Points are as large as the bins are full.
    """

    def draw(axes: Axes) -> None:
        axes.plot([0, 100], [0, 100], color="0.7", linewidth=0.8)
        for (name, (confidence, right)), (colour, dash) in zip(answers.items(), _styles(), strict=False):
            said, true, count = _binned(confidence, right, bins)
            axes.plot(100 * said, 100 * true, label=name, color=colour, linestyle=dash)
            axes.scatter(100 * said, 100 * true, 20 + 180 * count / max(1, count.max(initial=1)), color=colour, alpha=0.6)
        axes.set(xlim=(-2, 102), ylim=(-2, 102), xlabel="confidence / %", ylabel="right answers / %")
        _finish(axes, bool(answers))
        axes.set_aspect("equal")

    return draw


def confusion(count: npt.NDArray[np.int64] | Float64, names: Sequence[str], answers: Sequence[str] | None = None) -> Plot:
    """How often each answer was given to each truth: `count` (truths, answers), coloured by shares of a truth's row.

    `names` are the truths', `answers` the answers' where these are others.
    """

    def draw(axes: Axes) -> None:
        total = np.maximum(count.sum(axis=1, keepdims=True), 1e-12)
        percent = 100 * count / total
        image = axes.imshow(percent, cmap="cividis", vmin=0, vmax=100, aspect="auto")
        axes.set_xticks(range(count.shape[1]), answers or names, rotation=90)
        axes.set_yticks(range(count.shape[0]), names)
        axes.set(xlabel="answer", ylabel="truth")
        for row, column in zip(*np.nonzero(count), strict=True):
            shade = "black" if percent[row, column] > 50 else "white"
            axes.text(column, row, f"{percent[row, column]:.0f}", ha="center", va="center", color=shade, fontsize=7)
        figure = axes.get_figure(root=True)
        if figure is not None:
            figure.colorbar(image, ax=axes, label="share of the truth / %")
            width, height = figure.get_size_inches()
            rows, columns = count.shape
            figure.set_size_inches(max(width, _CELL_INCHES * columns + 2), max(height, _CELL_INCHES * rows + 1))

    return draw


def over_duration(lines: Mapping[str, Sequence[tuple[float, Measured]]], figure: str) -> Plot:
    """A figure over seconds of speech, with its confidence band; `lines` by name: (seconds, figure), `figure` with the unit."""

    def draw(axes: Axes) -> None:
        for (name, points), (colour, dash) in zip(lines.items(), _styles(), strict=False):
            ordered = sorted((point for point in points if np.isfinite(point[1].value)), key=lambda point: point[0])
            seconds = [second for second, _ in ordered]
            axes.plot(
                seconds, [one.value for _, one in ordered], marker="o", markersize=4, label=name, color=colour, linestyle=dash
            )
            band = [(second, one.low, one.high) for second, one in ordered if one.low is not None and one.high is not None]
            if band:
                at, low, high = zip(*band, strict=True)
                axes.fill_between(at, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel="speech / s", ylabel=figure)
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        _finish(axes, bool(lines))

    return draw


def _styles() -> Iterator[tuple[str, str]]:
    """A colour and a dash for each line, without end."""
    for number in itertools.count():
        yield COLOURS[number % len(COLOURS)], _DASHES[number % len(_DASHES)]


def _rates(curves: Scored) -> Iterator[tuple[str, Float64, Float64]]:
    """Name, misses and false alarms of each curve."""
    for name, (score, target) in curves.items():
        yield name, *error_curve(score.astype(np.float64), target, np.ones(len(score)))


def _deviate(share: Float64) -> Float64:
    """Rates of 0 and 1, which have no deviate, lie outside of what is shown."""
    deviate: Float64 = ndtri(np.clip(share, 1e-6, 1 - 1e-6))
    return deviate


def _binned(confidence: Float64, right: Bools, bins: int) -> tuple[Float64, Float64, npt.NDArray[np.int64]]:
    """Of each bin that is not empty: mean confidence, share of right answers, number of answers."""
    place = np.clip((confidence * bins).astype(np.int64), 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    kept = count > 0
    said, true = np.bincount(place, confidence, bins)[kept], np.bincount(place, right, bins)[kept]
    return said / count[kept], true / count[kept], count[kept]


def _finish(axes: Axes, has_data: bool) -> None:
    axes.grid(visible=True, color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    if not has_data:
        axes.text(0.5, 0.5, "too little data", ha="center", va="center", transform=axes.transAxes, color="0.4")
    elif axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)
