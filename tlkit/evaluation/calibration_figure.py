"""Reliability before and after temperature scaling, and what abstaining costs, as a figure."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from tlkit.evaluation.calibration import Reliability, reliability, rescale
from tlkit.evaluation.canvas import BLUE, DIM, GREEN, VERMILLION, Heading, blank, panels, percent
from tlkit.evaluation.metrics import expected_calibration_error

# Shares of the pictures: from here on the accuracy among those answered is drawn; and so near to
# one another, points share a label.
_FEWEST_ANSWERED, _ONE_LABEL = 0.05, 0.12


def calibration_figure(
    probabilities: NDArray[np.float64],
    labels: NDArray[np.integer],
    temperature: float | None,
    title: str,
) -> Figure:
    """Reliability before, reliability after, accuracy against share answered, a panel each.

    Args:
        probabilities: of the calibrated model, float64 (n, c).
        temperature: what it was calibrated with; 1 where the validation pictures wanted none. None:
            nothing was looked for. Either has one panel of reliability, for before is after.
    """
    shown = {"": probabilities}
    if temperature is not None and temperature != 1:
        shown = {"before: ": rescale(probabilities, 1 / temperature), "after: ": probabilities}
    count = len(shown) + 1
    width = 13.0 * count / 3
    heading = Heading(title, [_remark(temperature)], width)
    figure = blank(width, 4.2 + heading.height)
    heading.draw(figure)
    *left, right = panels(figure, count, 4.2)
    for ax, (when, rows) in zip(left, shown.items(), strict=True):
        error = expected_calibration_error(rows, labels)
        _reliability(ax, reliability(rows, labels), f"{when}calibration error {percent(error)}")
    _risk(right, probabilities, labels)
    return figure


def _remark(temperature: float | None) -> str:
    if temperature is None:
        return "a mean of several models, each with its own temperature; not calibrated again"
    if temperature == 1:
        return "no temperature was fitted: the validation pictures do not show that one is needed"
    return (
        f"temperature {temperature:.2f}, fitted on the validation pictures; above 1 the model "
        "was too sure of itself, below 1 not sure enough"
    )


def _reliability(ax: Axes, found: Reliability, title: str) -> None:
    bins = len(found.count)
    edges = np.arange(bins) / bins
    ax.bar(edges, np.nan_to_num(found.accuracy), width=1 / bins, align="edge", color=BLUE,
           edgecolor="white", label="accuracy")  # fmt: skip
    full = found.count > 0
    ax.plot(found.confidence[full], found.confidence[full], "s", color=VERMILLION, ms=6,
            mec="white", label="mean confidence")  # fmt: skip
    ax.plot((0, 1), (0, 1), ":", color=DIM, lw=1.2)
    for edge, count, height in zip(edges, found.count, found.accuracy, strict=True):
        if count:  # at the foot of the bar, where no marker lies
            colour = "white" if height > 0.08 else DIM
            ax.text(edge + 0.5 / bins, 0.02, str(count), ha="center", fontsize=8, color=colour)
    ax.set(title=title, xlabel="confidence (number: pictures)", xlim=(0, 1), ylim=(0, 1.12))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    ax.legend(loc="upper left", fontsize=9, framealpha=0.85, edgecolor="none")
    ax.spines[["top", "right"]].set_visible(False)


def _risk(ax: Axes, probabilities: NDArray[np.float64], labels: NDArray[np.integer]) -> None:
    confidences = probabilities.max(axis=1)
    order = np.argsort(-confidences, kind="stable")
    hits = (probabilities.argmax(axis=1) == labels)[order]
    answered = np.arange(1, len(hits) + 1)
    accuracy = np.cumsum(hits) / answered
    # One mistake among the first few would set the scale.
    drawn = answered >= _FEWEST_ANSWERED * len(hits)
    ax.plot(answered[drawn] / len(hits), accuracy[drawn], color=GREEN, lw=1.8)
    low = min(float(accuracy[drawn].min()), 0.95)
    near: list[list[tuple[float, int]]] = []
    for threshold in (0.5, 0.8, 0.9, 0.99):
        kept = int((confidences >= threshold).sum())
        if not kept:
            continue
        ax.plot(kept / len(hits), accuracy[kept - 1], "o", ms=7, mfc="none", mec=DIM)
        low = min(low, float(accuracy[kept - 1]))
        if near and near[-1][0][1] - kept < _ONE_LABEL * len(hits):
            near[-1].append((threshold, kept))
        else:
            near.append([(threshold, kept)])
    for group in near:
        (first, most), (last, _) = group[0], group[-1]
        x, y = most / len(hits), min(float(accuracy[kept - 1]) for _, kept in group)
        ax.annotate(f"{first:g} to {last:g}" if len(group) > 1 else f"{first:g}", (x, y),
                    xytext=(0, -16), textcoords="offset points", fontsize=8, color=DIM,
                    ha="right" if x > 0.9 else "center")  # fmt: skip
    ax.set(title="answering only above a confidence", xlabel="pictures answered",
           ylabel="accuracy among them", xlim=(0, 1.03), ylim=(low - 0.04, 1.01))  # fmt: skip
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
