"""Several models in one figure: accuracies, differences, curves, reliability, learning curves.

Black and white are the page's: `tlkit.evidence.page` makes them follow its light or dark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from tlkit.errors import printable_line
from tlkit.evaluation.calibration import reliability
from tlkit.evaluation.canvas import (
    BLUE,
    GREEN,
    PLAIN,
    PURPLE,
    VERMILLION,
    blank,
    shorten,
    text_width,
)
from tlkit.evaluation.gradcam_check import SIMILAR

# A line is known by its marker too; from the fifth on colours come again with other markers.
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE)
_MARKERS = "osD^vP*X"
_STYLES = ("-", "--", "-.", ":")
_NAME_INCHES = 2.2
FEWEST_IN_BIN = 5
# Of the axis that a number of pictures below it takes.
_LABEL_SHARE = 0.09


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval.

    Attributes:
        names: its label, in as many lines where it is too long for one.
    """

    names: tuple[str, ...]
    value: float
    low: float
    high: float


def forest(accuracies: Sequence[Interval], differences: Sequence[Interval]) -> Figure:
    """Accuracies above, differences between models below, each with its interval."""
    rows = len(accuracies) + len(differences)
    # No wider, so that it is read on a phone, where it is half as wide.
    figure = blank(5.4, 1.7 + 0.36 * rows)
    figure.set_layout_engine("constrained", h_pad=0.1)
    upper, lower = figure.subplots(
        2, 1, height_ratios=(len(accuracies) + 0.5, len(differences) + 0.5)
    )
    models = [COLOURS[place % len(COLOURS)] for place in range(len(accuracies))]
    _intervals(upper, accuracies, models)
    upper.set_xlabel("test accuracy")
    upper.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    # A colour stands for a model, and a difference is of two.
    _intervals(lower, differences, ["black"] * len(differences))
    lower.set_xlabel("difference in points; 0: none")
    lower.xaxis.set_major_formatter(lambda share, _: f"{100 * share:+.6g}" if share else "0")
    lower.axvline(0, color="black", lw=1, ls=":")
    return figure


def _intervals(ax: Axes, rows: Sequence[Interval], colours: Sequence[str]) -> None:
    places = range(len(rows))[::-1]
    for place, row, colour in zip(places, rows, colours, strict=True):
        ax.plot((row.low, row.high), (place, place), "-", color=colour, lw=2.5)
        ax.plot(row.value, place, "o", color=colour, ms=7)
    ax.set_yticks(places, [_label(row.names) for row in rows], fontsize=10, **PLAIN)
    ax.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    ax.set_ylim(-0.6, len(rows) - 0.4)
    ax.grid(axis="x", alpha=0.3)
    ax.tick_params(axis="y", length=0)
    ax.spines[["top", "right", "left"]].set_visible(False)


def _label(names: Sequence[str]) -> str:
    line = " ".join(names)
    if text_width(printable_line(line), 10) <= _NAME_INCHES:
        return shorten(line, _NAME_INCHES, 10)
    return "\n".join(shorten(name, _NAME_INCHES, 10) for name in names)


def curves_over_one_another(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """Validation loss and accuracy of each model by epoch.

    histories: by name, rows with "epoch", "val/loss" and "val/accuracy" (0..1).
    """
    figure = blank(9.0, 3.6)
    figure.set_layout_engine("constrained", w_pad=0.1)
    for ax, key, label in zip(
        figure.subplots(1, 2),
        ("val/loss", "val/accuracy"),
        ("validation loss", "validation accuracy"),
        strict=True,
    ):
        for place, (name, history) in enumerate(histories.items()):
            ax.plot(
                [row["epoch"] for row in history], [row[key] for row in history],
                **_style(place), ms=4, lw=1.8, label=shorten(name, _NAME_INCHES, 9),
            )  # fmt: skip
        ax.set(xlabel="epoch", ylabel=label)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        _plain(ax)
    return figure


def reliabilities(
    models: Mapping[str, Mapping[str, NDArray[np.float64]]], labels: NDArray[np.integer]
) -> Figure:
    """Accuracy against confidence of each model, before and after its temperature, in bins of at
    least FEWEST_IN_BIN pictures: one picture alone is wholly right or wholly wrong.

    models: by name, probabilities, float64 (n, classes), by when ("before", "after").
    """
    columns = min(3, len(models))
    rows = -(-len(models) // columns)
    figure = blank(3.4 * columns, 3.3 * rows)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    boxes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, answers) in zip(boxes, models.items(), strict=False):
        ax.plot((0, 1), (0, 1), ":", color="black", lw=1)
        for place, (when, probabilities) in enumerate(answers.items()):
            found = reliability(probabilities, labels)
            full = found.count >= FEWEST_IN_BIN
            style = _style(place)
            ax.plot(found.confidence[full], found.accuracy[full], **style, ms=4, lw=1.4, label=when)
        ax.set_title(shorten(name, _NAME_INCHES, 11), fontsize=11, **PLAIN)
        ax.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(0, 1.03))
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        _plain(ax)
    for ax in boxes[len(models) :]:
        ax.remove()
    return figure


def randomisation(checks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """How alike the maps of random weights are to those of the trained ones, a column a model.

    checks: by name, `GradcamCheck.as_dict`.
    """
    figure = blank(max(5.0, 3.2 * len(checks)), 3.0)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    boxes = figure.subplots(1, len(checks), squeeze=False, sharey=True)[0]
    for ax, (name, check) in zip(boxes, checks.items(), strict=True):
        similarity, places = np.array(check["similarity"]), range(len(check["stages"]))
        ax.plot(places, similarity, ".", color="black", alpha=0.3, ms=5)
        ax.plot(places, similarity.mean(axis=1), **_style(0), ms=4, lw=1.6, label="mean")
        ax.axhline(SIMILAR, color="black", ls=":", lw=1.8)
        ax.set(ylim=(-1.05, 1.05))
        ax.set_xticks(
            places, [shorten(stage, 1.2, 9) for stage in check["stages"]], fontsize=9,
            rotation=35, ha="right", rotation_mode="anchor", **PLAIN,
        )  # fmt: skip
        ax.set_title(shorten(name, _NAME_INCHES, 11), fontsize=11, **PLAIN)
        _plain(ax)
    boxes[0].set_ylabel("rank correlation")
    return figure


def faithfulness(checks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Deletion above and insertion below, a column for each model.

    checks: by name, `GradcamCheck.as_dict`.
    """
    figure = blank(max(5.0, 3.2 * len(checks)), 5.2)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    boxes = figure.subplots(2, len(checks), squeeze=False, sharey=True)
    for column, (name, check) in enumerate(checks.items()):
        for ax, kind, label in (
            (boxes[0, column], "deletion", "share of the cells blurred"),
            (boxes[1, column], "insertion", "share of the cells sharp"),
        ):
            for place, (order, key) in enumerate(
                (("random order", f"{kind}_random"), ("hottest first", kind))
            ):
                mean = np.mean(check[key], axis=0)
                ax.plot(check["removed"], mean, **_style(place), ms=4, lw=1.6, label=order)
            ax.set(xlabel=label, ylim=(-0.02, 1.02))
            _plain(ax)
        boxes[0, column].set_title(shorten(name, _NAME_INCHES, 11), fontsize=11, **PLAIN)
    for row in boxes:
        row[0].set_ylabel("probability of the class")
    return figure


def learning_curves(
    curves: Mapping[str, Sequence[tuple[int, float, float, float]]], of_what: str
) -> Figure:
    """Test accuracy against the number of training pictures, with intervals.

    curves: by name, (pictures, accuracy, low, high) in rising order of pictures.
    of_what: what the intervals are of.
    """
    figure = blank(7.5, 4.4)
    figure.set_layout_engine("constrained")
    ax = figure.subplots()
    for place, (name, points) in enumerate(curves.items()):
        x, value, low, high = (np.array(column) for column in zip(*points, strict=True))
        style = _style(place)
        ax.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)
        ax.plot(x, value, **style, ms=6, lw=1.8, label=name)
    ax.set_xscale("log")
    counts = sorted({point[0] for points in curves.values() for point in points})
    labelled = _with_room(counts)
    ax.set_xticks(counts, [f"{count:,}" if count in labelled else "" for count in counts])
    ax.minorticks_off()
    ax.set(xlabel="training pictures (log scale)", ylabel="test accuracy")
    ax.set_title(f"bands: 95 % intervals {of_what}", fontsize=9, loc="left")
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    _plain(ax)
    return figure


def _with_room(counts: Sequence[int]) -> set[int]:
    """Those of the rising counts whose labels do not touch on a log axis, the last one first."""
    room = _LABEL_SHARE * np.log(counts[-1] / counts[0])
    kept = [counts[-1]]
    for count in reversed(counts):
        if np.log(kept[-1] / count) >= room:
            kept.append(count)
    return set(kept)


def _style(place: int) -> dict[str, Any]:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": _STYLES[place % len(_STYLES)],
    }


def _plain(ax: Axes) -> None:
    ax.legend(fontsize=9, framealpha=0.0)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
