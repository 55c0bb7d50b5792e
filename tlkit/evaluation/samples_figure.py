"""Sample pictures of each class as a figure."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tlkit.evaluation.canvas import PLAIN, Heading, blank, draw_picture, shorten, text_width

# Inches, and points for text.
_PICTURE, _GAP, _NAME, _MARGIN, _ABOVE = 1.2, 0.1, 1.5, 0.15, 0.25
_TEXT = 10.0


def samples_figure(
    samples: Mapping[str, Sequence[Sequence[NDArray[np.uint8]]]], classes: int
) -> Figure:
    """A row a class: its pictures, each plain and then in its views.

    Args:
        samples: by class, the renditions of each picture, plain first, uint8 (H, W, 3).
        classes: how many there are; the heading says so where not all are shown.
    """
    step = _PICTURE + _GAP
    columns = max(sum(map(len, pictures)) for pictures in samples.values())
    views = max(len(renditions) for pictures in samples.values() for renditions in pictures)
    names = [shorten(name, _NAME, _TEXT) for name in samples]
    left = _MARGIN + max(text_width(name, _TEXT) for name in names) + _GAP
    width = left + columns * step - _GAP + _MARGIN
    title = "Training pictures as the network sees them"
    if len(samples) < classes:
        title += f" (the first {len(samples)} of {classes} classes)"
    heading = Heading(title, [], width)
    top = _MARGIN + len(samples) * step - _GAP
    height = top + _ABOVE + heading.height
    figure = blank(width, height)
    heading.draw(figure)
    for column in range(columns):
        view = column % views
        figure.text(
            (left + column * step + _PICTURE / 2) / width, (top + 0.06) / height,
            "plain" if view == 0 else f"view {view - 1}", ha="center", va="bottom", fontsize=9,
        )  # fmt: skip
    for row, (name, pictures) in enumerate(zip(names, samples.values(), strict=True)):
        bottom = top - row * step - _PICTURE
        figure.text(
            (left - _GAP) / width, (bottom + _PICTURE / 2) / height, name,
            ha="right", va="center", fontsize=_TEXT, **PLAIN,
        )  # fmt: skip
        for column, picture in enumerate(each for renditions in pictures for each in renditions):
            draw_picture(figure, picture, (left + column * step, bottom), _PICTURE)
    return figure
