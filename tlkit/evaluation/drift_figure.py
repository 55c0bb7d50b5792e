"""A window of served predictions beside the reference, one panel for each quantity."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from tlkit.evaluation.canvas import BLUE, PLAIN, VERMILLION, Heading, blank, shorten, text_width
from tlkit.evaluation.drift import (
    CLASS_MIX,
    CONFIDENCE,
    LIGHT,
    Finding,
    Sample,
    numeric_pairs,
    psi_reading,
)

# Bars and lines have to be known without their colour: the window's bars are hatched, the
# reference's lines dashed.
_BARS: tuple[dict[str, Any], ...] = (
    {"facecolor": BLUE, "edgecolor": "white"},
    {"facecolor": VERMILLION, "edgecolor": "white", "hatch": "/////"},
)
_LINES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "ls": "--", "lw": 1.8, "zorder": 3},  # seen where both are the same
    {"color": VERMILLION, "ls": "-", "lw": 1.8},
)
_DIRECTIONS = 6
_COLUMNS = 3
_MANY_CLASSES = 15
_SHOWN_OF_MANY = 12

_AXES = {
    CONFIDENCE: "of the predicted class",
    LIGHT[0]: "mean luma, 0 black to 1 white",
    LIGHT[1]: "standard deviation of the luma",
}

# Inches, and points for text.
_MIX_WIDTH = 3.2
_PANEL = (2.8, 2.7)
_LABELS = 0.85
_ROW = 0.3
_LEGEND = 0.4
_NAME = (1.8, 9.0)
_TEXT = 9.0
# Two classes do not make bars as thick as a panel.
_FEWEST_ROWS = 4


def drift_figure(
    reference: Sample,
    window: Sample,
    findings: Sequence[Finding],
    classes: Sequence[str],
    title: str,
) -> Figure:
    """Class mix as bars; all else as distribution functions, of the embedding the 6 directions that
    differ most.

    findings: what `drift` says of the two samples. Beyond 15 classes the 12 whose shares differ
    most are drawn, and what the others have together is said: its bar would make theirs invisible.
    A panel with an alarm says so and stands in a heavy frame.
    """
    by_name = {finding.name: finding for finding in findings}
    pairs = numeric_pairs(reference, window)
    directions = [name for name, *_ in pairs[len(pairs) - reference.directions :]]
    calm = sorted(directions, key=lambda name: by_name[name].p_value)[_DIRECTIONS:]
    drawn = [pair for pair in pairs if pair[0] not in calm]
    n = len(classes)
    shares = np.stack([np.bincount(s.predicted, minlength=n) / len(s) for s in (reference, window)])
    shown = _differing_most(shares)
    names = [shorten(classes[i], *_NAME) for i in shown]
    remarks = _remarks(reference, window, findings)
    if len(shown) < n:
        of_reference, of_window = 100 * np.delete(shares, shown, axis=1).sum(axis=1)
        remarks.append(
            f"Of {n:,} classes the {len(shown)} that differ most are drawn; the others have "
            f"{of_reference:.1f} % of the reference and {of_window:.1f} % of the window."
        )

    columns = min(_COLUMNS, len(drawn))
    rows = math.ceil(len(drawn) / columns)
    widest = max(text_width(name, _NAME[1]) for name in names)
    width = widest + 0.3 + _MIX_WIDTH + columns * (_LABELS + _PANEL[0])
    mix_height = _ROW * len(names) + 1.1
    body = max(rows * _PANEL[1], mix_height)
    heading = Heading(title, remarks, width)
    height = _LEGEND + body + heading.height
    figure = blank(width, height)
    heading.draw(figure)
    figure.set_layout_engine(
        "constrained", rect=(0, _LEGEND / height, 1, body / height), w_pad=0.08, h_pad=0.08
    )
    grid = figure.add_gridspec(rows, 1 + columns, width_ratios=[_MIX_WIDTH, *columns * _PANEL[:1]])
    mix = figure.add_subplot(grid[: math.ceil(mix_height / _PANEL[1]), 0])
    _draw_mix(mix, names, shares[:, shown])
    _say(mix, by_name[CLASS_MIX])
    for i, (name, old, new) in enumerate(drawn):
        ax = figure.add_subplot(grid[i // columns, 1 + i % columns])
        _draw_distributions(ax, old, new, _AXES.get(name, "projection"))
        _say(ax, by_name[name])
    _draw_legend(figure)
    return figure


def _differing_most(shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """The classes, of shares (2, classes), that have a bar; of few all, in their order."""
    n = shares.shape[1]
    if n <= _MANY_CLASSES:
        return np.arange(n)
    return np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:_SHOWN_OF_MANY]


def _draw_mix(ax: Axes, names: Sequence[str], shares: NDArray[np.float64]) -> None:
    places = np.arange(len(names))
    for offset, of_sample, style in zip((-0.2, 0.2), shares, _BARS, strict=True):
        ax.barh(places + offset, of_sample, 0.38, lw=0, **style)
    ax.set_yticks(places, names, fontsize=_NAME[1], **PLAIN)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("share of the predictions", fontsize=_TEXT)
    room = 0.6 + max(0, _FEWEST_ROWS - len(names)) / 2
    ax.set(ylim=(len(names) - 1 + room, -room), xlim=(0, None))
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.xaxis.set_major_formatter(_percent)
    ax.tick_params(axis="x", labelsize=_TEXT)
    ax.grid(axis="x", alpha=0.3)
    ax.set_axisbelow(True)


def _draw_distributions(
    ax: Axes, old: NDArray[np.float64], new: NDArray[np.float64], label: str
) -> None:
    for values, style in zip((old, new), _LINES, strict=True):
        ax.ecdf(values, **style)
    ax.set_xlabel(label, fontsize=_TEXT)
    ax.set_ylabel("share at or below", fontsize=_TEXT)
    ax.set_ylim(-0.03, 1.03)
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_formatter(_percent)
    ax.tick_params(labelsize=_TEXT)
    ax.grid(alpha=0.3)


def _percent(share: float, _: object) -> str:
    return f"{100 * share:g} %"


def _say(ax: Axes, finding: Finding) -> None:
    p, psi = finding.adjusted_p_value, finding.psi
    shown = "< 0.0001" if p < 0.0001 else f"= {p:.2g}"
    ax.set_title(
        f"{finding.name}: {'ALARM' if finding.alarm else 'ok'}\n"
        f"adjusted p {shown}, PSI {psi:.2f} ({psi_reading(psi)})",
        fontsize=_TEXT,
        fontweight="bold" if finding.alarm else "normal",
    )
    if finding.alarm:
        ax.spines[:].set_linewidth(2.2)
    else:
        ax.spines[["top", "right"]].set_visible(False)


def _draw_legend(figure: Figure) -> None:
    handles: list[Any] = [
        (Patch(lw=0, **bar), Line2D([], [], **line))
        for bar, line in zip(_BARS, _LINES, strict=True)
    ]
    figure.legend(
        handles,
        ["reference", "window"],
        handler_map={tuple: HandlerTuple(ndivide=None)},
        handlelength=5,
        loc="lower center",
        ncols=2,
        fontsize=10,
        frameon=False,
    )


def _remarks(reference: Sample, window: Sample, findings: Sequence[Finding]) -> list[str]:
    alarms = [finding.name for finding in findings if finding.alarm]
    said = f"ALARM in {len(alarms)} of {len(findings)} tests" if alarms else "no alarm"
    remarks = [
        f"{said}{': ' if alarms else ''}{', '.join(alarms)}; reference n = {len(reference)}, "
        f"window n = {len(window)}",
        "The alarm goes by the adjusted p-value; the words for the PSI ignore the sample size.",
    ]
    if reference.directions > _DIRECTIONS:
        remarks.append(
            f"Of {reference.directions} embedding directions the {_DIRECTIONS} that differ most "
            "are drawn."
        )
    return remarks
