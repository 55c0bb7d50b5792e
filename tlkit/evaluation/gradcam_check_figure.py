"""The tests of a heat map as a figure."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tlkit.evaluation.canvas import BLUE, DIM, VERMILLION, Heading, blank, draw_picture, panels
from tlkit.evaluation.gradcam_check import SIMILAR, GradcamCheck
from tlkit.evaluation.tiles import overlay

_WIDTH = 12.0
# Heights in inches: of the pictures, and of the curves below.
_STRIP, _PANELS = 2.1, 3.6


def gradcam_check_figure(check: GradcamCheck, picture: NDArray[np.uint8], title: str) -> Figure:
    """One picture's maps while the weights become random, and the three curves below.

    Args:
        picture: uint8 (H, W, 3), the first one of the check.
    """
    heading = Heading(title, [check.text], _WIDTH)
    height = _STRIP + _PANELS + heading.height
    figure = blank(_WIDTH, height)
    heading.draw(figure)
    names = ["trained", *(f"random: {stage}" for stage in check.stages)]
    side = min(_STRIP - 0.4, _WIDTH / len(names) - 0.15)
    for place, (name, heat) in enumerate(zip(names, check.example, strict=True)):
        centre = _WIDTH * (place + 0.5) / len(names)
        corner = (centre - side / 2, _PANELS + 0.05)
        draw_picture(figure, overlay(picture, heat), corner, side)
        above = (corner[1] + side + 0.06) / height
        figure.text(centre / _WIDTH, above, name, ha="center", va="bottom", fontsize=9)
    left, middle, right = panels(figure, 3, _PANELS)
    _similarity(left, check)
    _curves(middle, "deletion", check.removed, check.deletion, check.deletion_random)
    middle.set_xlabel("share of the cells blurred")
    _curves(right, "insertion", check.removed, check.insertion, check.insertion_random)
    right.set_xlabel("share of the cells shown sharp")
    return figure


def _similarity(ax: Axes, check: GradcamCheck) -> None:
    places = np.arange(len(check.stages))
    for values in check.similarity.T:
        ax.plot(places, values, ".", color=BLUE, alpha=0.4)
    ax.plot(places, check.similarity.mean(axis=1), "o-", color=BLUE, lw=1.8, label="mean")
    ax.axhline(SIMILAR, color=DIM, ls=":", lw=1.2)
    ax.set(title="similarity to the trained map", ylabel="rank correlation", ylim=(-1.05, 1.05))
    ax.set_xticks(places, _short(check.stages))
    ax.legend(fontsize=9)
    ax.spines[["top", "right"]].set_visible(False)


def _short(stages: Sequence[str]) -> list[str]:
    return [stage.replace(" ", "\n") for stage in stages]


def _curves(
    ax: Axes,
    title: str,
    shares: NDArray[np.float64],
    hottest: NDArray[np.float64],
    random: NDArray[np.float64],
) -> None:
    # Where both coincide, the larger squares are seen around the circles upon them.
    for values, name, colour, style, size in (
        (random, "random order", DIM, "s--", 8),
        (hottest, "hottest first", VERMILLION, "o-", 5),
    ):
        ax.plot(shares, values.mean(axis=0), style, color=colour, lw=1.8, ms=size, label=name)
    ax.set(title=title, ylim=(-0.02, 1.02))
    ax.set_ylabel("probability of the predicted class")
    ax.legend(fontsize=9)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
