"""Training curves and confusion matrix as Matplotlib figures."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, PercentFormatter
from numpy.typing import NDArray

from tlkit.evaluation.canvas import (
    BLUE,
    DIM,
    GREEN,
    PLAIN,
    PURPLE,
    VERMILLION,
    Heading,
    blank,
    panels,
    percent,
    shorten,
    text_width,
)

# Key in the history, name in the legend, colour, line style, marker: a line has to be known
# without its colour.
_TRAIN = ("train", BLUE, "--", "o")
_VAL = ("validation", VERMILLION, "-", "s")
_PANELS = {
    "loss": (
        ("train/loss", *_TRAIN),
        ("val/loss", *_VAL),
        ("val/calibrated_loss", "validation, calibrated", GREEN, "-.", "^"),
    ),
    "accuracy": (("train/accuracy", *_TRAIN), ("val/accuracy", *_VAL)),
    "learning rate": (
        ("lr/head", "head", GREEN, "-", "o"),
        ("lr/backbone", "backbone", PURPLE, "--", "s"),
    ),
}
_MANY_EPOCHS = 40

# Up to here a cell has room for a count and a rate; beyond, for a count alone.
_ROOMY = 20
_WORST = 3
# Classes in a confusion matrix; one of 500 would take 10 GB to draw.
_MOST = 100


def curves(
    history: Sequence[Mapping[str, float]],
    title: str,
    best_epoch: int,
    line: Sequence[Mapping[str, float]] = (),
) -> Figure:
    """Loss, accuracy and learning rates (log scale) over epochs, train against validation.

    history: one mapping per epoch with "epoch", "train/loss", "val/loss", "train/accuracy",
    "val/accuracy" (0..1), "lr/head", where it trains "lr/backbone", and maybe
    "val/calibrated_loss". best_epoch: the epoch whose weights were kept, but for `line`, which has
    points from the weights before the training to those of that epoch: "interpolation" (0..1),
    "val/loss" and "val/calibrated_loss", whose lowest is the kept one; empty where none were tried.
    """
    count = len(_PANELS) + bool(line)
    width = 4.7 * count
    heading = Heading(title, [], width)
    figure = blank(width, 4 + heading.height)
    heading.draw(figure)
    axes = panels(figure, count, 4)
    for ax, (name, lines) in zip(axes[: len(_PANELS)], _PANELS.items(), strict=True):
        there = [one for one in lines if one[0] in history[0]]
        _draw_panel(ax, name, there, history, best_epoch)
    if line:
        _draw_line(axes[-1], line, best_epoch)
    return figure


def _draw_line(ax: Axes, line: Sequence[Mapping[str, float]], best_epoch: int) -> None:
    """The loss from the weights before the training to those of the best epoch."""
    kept = min(reversed(line), key=lambda point: point["val/calibrated_loss"])
    x = [point["interpolation"] for point in line]
    for key, label, colour, style, marker in _PANELS["loss"][1:]:
        y = [point[key] for point in line]
        label += f": {kept[key]:.3f}"
        ax.plot(x, y, style, color=colour, marker=marker, ms=5, lw=1.8, label=label)
        ax.plot(kept["interpolation"], kept[key], "o", ms=13, mfc="none", mec=colour, mew=1.5)
    ax.axvline(kept["interpolation"], color=DIM, lw=1.2, ls=":")
    ax.set(title="loss between", xlabel=f"0: before training, 1: epoch {best_epoch}")
    ax.ticklabel_format(axis="y", useOffset=False)
    _finish(ax, f"kept: {kept['interpolation']:.3g}")


def _draw_panel(
    ax: Axes,
    name: str,
    lines: Sequence[tuple[str, str, str, str, str]],
    history: Sequence[Mapping[str, float]],
    best_epoch: int,
) -> None:
    is_rate = name == "learning rate"
    for key, label, colour, style, marker in lines:
        points = {int(row["epoch"]): row[key] for row in history}
        if is_rate:
            highest = f"highest {max(points.values()):.2g}"
            label = f"{label}: {highest}" if len(lines) > 1 else highest
        else:
            best = points[best_epoch]
            label += f": {percent(best) if name == 'accuracy' else f'{best:.3f}'}"
            ax.plot(best_epoch, best, "o", ms=13, mfc="none", mec=colour, mew=1.5)
        if len(points) > _MANY_EPOCHS:
            marker = ""
        x, y = list(points), list(points.values())
        ax.plot(x, y, style, color=colour, marker=marker, ms=5, lw=1.8, label=label)
    ax.axvline(best_epoch, color=DIM, lw=1.2, ls=":")
    epochs = [int(row["epoch"]) for row in history]
    ax.set(title=name, xlabel="epoch, from 0", xlim=(min(epochs) - 0.5, max(epochs) + 0.5))
    ax.xaxis.set_major_locator(
        FixedLocator(epochs) if len(epochs) <= 12 else MaxNLocator(integer=True)
    )
    if is_rate:
        _log_axis(ax, [row[key] for row in history for key, *_ in lines])
    if name == "loss":  # "1.0941" says more than "+1.094" beside the title
        ax.ticklabel_format(axis="y", useOffset=False)
    if name == "accuracy":
        ax.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    _finish(ax, None if is_rate else f"at the best epoch, {best_epoch}")


def _finish(ax: Axes, heading: str | None) -> None:
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(title=heading, title_fontsize=9, fontsize=9, framealpha=0.85, edgecolor="none")


def _log_axis(ax: Axes, rates: Sequence[float]) -> None:
    """Whole decades, so that a constant rate has a labelled tick too."""
    low, high = math.log10(min(rates)), math.log10(max(rates))
    ax.set_yscale("log")
    ax.set_ylim(10 ** math.floor(low) / 1.6, 10 ** math.ceil(high) * 1.6)
    ax.yaxis.set_minor_locator(NullLocator())


def confusion_matrix(matrix: NDArray[np.integer], classes: Sequence[str], title: str) -> Figure:
    """Counts of a confusion matrix, rows true and columns predicted, on the colour of their rate.

    matrix: integer (c, c), c >= 2. The rate is the share of the true class's pictures; up to 20
    classes each cell says it too. The number beside a true class is that of its pictures. The
    figure grows with the number of classes, up to 100, those with the most mistakes; from 21 on,
    names stand on all four sides and the heading lists the most frequent confusions.

    Raises ValueError where matrix and classes do not fit.
    """
    n = len(classes)
    if matrix.shape != (n, n) or n < 2:
        raise ValueError(f"matrix {matrix.shape} does not fit {n} classes (at least 2)")
    roomy, name_size = (True, 10.0) if n <= _ROOMY else (False, 8.5)
    remarks = _remarks(matrix, lambda i: shorten(classes[i], 1.9 if roomy else 1.6, name_size))
    support = matrix.sum(axis=1)
    if n > _MOST:
        mistakes = matrix.sum(axis=0) + support - 2 * np.diag(matrix)
        shown = np.sort(np.argsort(-mistakes, kind="stable")[:_MOST])
        matrix, support = matrix[np.ix_(shown, shown)], support[shown]
        classes = [classes[i] for i in shown]
        remarks.append(f"shown are the {_MOST} of {n} classes with the most mistakes")
        n = _MOST
    cell = max(0.56, min(1.6, 5.5 / n)) if roomy else 0.25
    columns = [shorten(name, 1.9 if roomy else 1.6, name_size) for name in classes]
    rows = [f"{name} ({count})" for name, count in zip(columns, support, strict=True)]
    widest_row = max(text_width(name, name_size) for name in rows)
    widest_column = max(text_width(name, name_size) for name in columns)
    level = widest_column < 0.9 * cell

    # Inches from here on: the cells keep their size, and what surrounds them takes what it needs.
    side = n * cell
    scale = max(1.0, side / 9)
    left, right = widest_row + 0.55 * scale, (0.2 if roomy else widest_row + 0.3) + 1.1 * scale
    below = (0.25 if level else widest_column + 0.15) + 0.4 * scale
    width = max(5.5, left + side + right)
    heading = Heading(title, remarks, width, scale)
    above = heading.height + (0.1 if roomy else widest_column + 0.2)
    height = below + side + above
    left += (width - left - side - right) / 2

    figure = blank(width, height)
    heading.draw(figure)
    ax = figure.add_axes((left / width, below / height, side / width, side / height))
    rates = matrix / np.maximum(support, 1)[:, None]
    # What is 0 stays white, and the least that is not is seen against it.
    colours = ListedColormap(colormaps["Blues"](np.linspace(0.12, 1, 256)))
    image = ax.imshow(np.ma.masked_equal(rates, 0), cmap=colours, vmin=0, vmax=1)
    ax.set_xticks(range(n), columns, rotation=0 if level else 90, fontsize=name_size, **PLAIN)
    ax.set_yticks(range(n), rows, fontsize=name_size, **PLAIN)
    all_sides = not roomy
    ax.tick_params(length=0, labeltop=all_sides, labelright=all_sides)
    for line in np.arange(n + 1) - 0.5:
        ax.axhline(line, color="#D0D0D0", lw=0.6)
        ax.axvline(line, color="#D0D0D0", lw=0.6)
    figure.text(
        (left + side / 2) / width, 0.1 / height, "predicted class",
        ha="center", va="bottom", fontsize=11 * scale,
    )  # fmt: skip
    figure.text(
        0.1 / width, (below + side / 2) / height, "true class (pictures)",
        ha="left", va="center", rotation=90, fontsize=11 * scale,
    )  # fmt: skip
    _draw_cells(ax, matrix, rates, roomy, cell)

    bar_height = min(side, 5 * scale)
    bar_ax = figure.add_axes(
        (
            (left + side + right - 1.05 * scale) / width,
            (below + (side - bar_height) / 2) / height,
            0.16 * scale / width,
            bar_height / height,
        )
    )
    bar = figure.colorbar(image, cax=bar_ax, format=PercentFormatter(1.0, symbol=" %"))
    bar.set_label("share of the true class", fontsize=9 * scale)
    bar.ax.tick_params(labelsize=8 * scale)
    return figure


def _draw_cells(
    ax: Axes, matrix: NDArray[np.integer], rates: NDArray[np.floating], roomy: bool, cell: float
) -> None:
    size = max(8.0, min(12.0, 12 * cell)) if roomy else 6.5
    size *= min(1.0, 4 / len(str(matrix.max()))) if not roomy else 1
    for (i, j), count in np.ndenumerate(matrix):
        if count:
            text = f"{count}\n{percent(float(rates[i, j]))}" if roomy else f"{count}"
            colour = "white" if rates[i, j] > 0.5 else "black"
        elif roomy:
            text, colour = "0", "#8C8C8C"
        else:
            continue
        ax.text(j, i, text, ha="center", va="center", color=colour, fontsize=size)


def _remarks(matrix: NDArray[np.integer], name: Callable[[int], str]) -> list[str]:
    right, total = int(np.trace(matrix)), int(matrix.sum())
    remarks = [f"{right} of {total} right ({percent(right / total)})"] if total else []
    wrong = matrix - np.diag(np.diag(matrix))
    worst = np.argsort(-wrong, axis=None, kind="stable")[:_WORST]
    pairs = [
        f"{name(i)} → {name(j)} ({wrong[i, j]})"
        for i, j in zip(*np.unravel_index(worst, wrong.shape), strict=True)
        if wrong[i, j] > 1
    ]
    if len(matrix) > _ROOMY and pairs:
        remarks.append("most often confused, true → predicted: " + ", ".join(pairs))
    return remarks
