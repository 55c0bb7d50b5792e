"""Sheets of pictures: the mistakes, and the evidence that Grad-CAM finds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from numpy.typing import NDArray

from tlkit.errors import printable_line
from tlkit.evaluation.canvas import (
    BLUE,
    DIM,
    PLAIN,
    VERMILLION,
    Heading,
    blank,
    draw_picture,
    percent,
    shorten,
    text_width,
)

# Perceptually uniform, rising in lightness, and told apart without red or green.
_HEAT = colormaps["inferno"]
# How much of the colour lies over the picture where there is no evidence and where it is highest.
_COVER = (0.35, 0.6)

# Inches, and points for text.
_PICTURE = 1.9
_SEAM = 0.06
_GAP = 0.22
_LINE = 0.165
_TEXT = 8.5


@dataclass(frozen=True)
class Tile:
    """One picture and what was said of it.

    picture: uint8 (H, W, 3). true: its class, None where that is not known. confidence:
    probability of the predicted class, 0..1. path: as in the manifest. heat: float32 (H, W) in
    0..1, the evidence for the predicted class, or None.
    """

    picture: NDArray[np.uint8]
    true: str | None
    predicted: str
    confidence: float
    path: str
    heat: NDArray[np.float32] | None = None


def overlay(picture: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """`heat` (H, W) in 0..1 in colour over `picture`, uint8 (H, W, 3), in greys: uint8 (H, W, 3).

    The picture is grey so that each colour means heat, and shows through everywhere, most where
    there is little heat. Raises ValueError where the sizes differ.
    """
    if picture.shape != (*heat.shape, 3):
        raise ValueError(f"a heat map of {heat.shape} does not fit a picture of {picture.shape}")
    grey = picture @ np.array([0.299, 0.587, 0.114])
    low, high = _COVER
    cover = (low + (high - low) * heat)[..., None]
    blend = cover * 255 * _HEAT(heat)[..., :3] + (1 - cover) * grey[..., None]
    return np.asarray(blend.round().clip(0, 255), dtype=np.uint8)


def mistake_indices(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], count: int
) -> list[int]:
    """At most `count` wrongly predicted rows, the most confident first, equals by index."""
    return _most_confident(probabilities, probabilities.argmax(axis=1) != labels)[:count]


def choose_indices(
    probabilities: NDArray[np.floating], labels: NDArray[np.integer], count: int
) -> list[int]:
    """The rows that a Grad-CAM sheet of at most `count` tiles shows, in the order shown.

    The rule: first the mistakes, at most count // 2 of them, the most confident ones, in falling
    confidence. Then correct predictions: all are put in falling order of confidence and cut into
    as many strata as places are left, and each stratum gives the picture whose class has been
    taken least often so far, the most confident of these. Where there are too few correct
    predictions, further mistakes take their places. Equals go by index, so that the same
    predictions always give the same sheet.
    """
    right = probabilities.argmax(axis=1) == labels
    correct, wrong = _most_confident(probabilities, right), _most_confident(probabilities, ~right)
    mistaken = wrong[: max(count // 2, count - len(correct))]
    places = min(count - len(mistaken), len(correct))
    chosen: list[int] = []
    taken = np.zeros(probabilities.shape[1], dtype=np.int64)
    for stratum in np.array_split(np.array(correct, dtype=np.int64), places) if places else ():
        # min() keeps the first of equals, which is the most confident.
        pick = int(min(stratum, key=lambda row: taken[labels[row]]))
        taken[labels[pick]] += 1
        chosen.append(pick)
    return mistaken + chosen


def _most_confident(probabilities: NDArray[np.floating], rows: NDArray[np.bool_]) -> list[int]:
    wanted = np.flatnonzero(rows)
    order = np.argsort(-probabilities.max(axis=1)[wanted], kind="stable")
    return [int(row) for row in wanted[order]]


def mistakes(tiles: Sequence[Tile], title: str, *, wrong: int, total: int) -> Figure:
    """Pictures that were mistaken, the most confident first, with true and predicted class.

    tiles: the mistakes to show. wrong: how many mistakes there are in all, on `total` pictures;
    the heading says both, also where there are none.
    """
    if wrong == 0:
        remark = f"no mistakes on {total} pictures"
    elif wrong == 1:
        remark = f"1 mistake on {total} pictures"
    elif len(tiles) < wrong:
        remark = f"the {len(tiles)} most confident of {wrong} mistakes on {total} pictures"
    else:
        remark = f"{wrong} mistakes on {total} pictures, the most confident first"
    ordered = sorted(tiles, key=lambda tile: -tile.confidence)
    last = [(f"{percent(tile.confidence)}  ", PurePosixPath(tile.path).name) for tile in ordered]
    return _sheet(ordered, title, remark, VERMILLION, ("true: ", "predicted: "), last)


def doubtful_labels(
    tiles: Sequence[Tile], title: str, *, doubted: int, total: int, groups: int | None = None
) -> Figure:
    """Pictures whose label the other pictures contradict, in the order given, with the label and
    the class that they look like.

    Args:
        tiles: those to show; `confidence` is not.
        doubted: how many there are in all, of `total`.
        groups: how many groups these are of, where they belong together and one tile is shown of
            each.
    """
    if doubted == 0:
        remark = f"no doubtful label on {total} pictures"
    elif groups is not None:
        some = f"{len(tiles)} of " if len(tiles) < groups else ""
        remark = (
            f"doubtful labels on {total} pictures: {doubted}, one shown of {some}{groups} groups"
        )
    elif len(tiles) < doubted:
        remark = f"{doubted} doubtful labels on {total} pictures, the {len(tiles)} most doubtful"
    else:
        remark = f"doubtful labels on {total} pictures: {doubted}, the most doubtful first"
    last = [("", tile.path) for tile in tiles]
    return _sheet(tiles, title, remark, DIM, ("label: ", "looks like: "), last)


def _sheet(
    tiles: Sequence[Tile],
    title: str,
    remark: str,
    frame: str,
    leads: tuple[str, str],
    last: Sequence[tuple[str, str]],
) -> Figure:
    """Pictures with their two classes, each after its lead, and a last line of lead and text."""
    grid = _Grid(len(tiles), per_row=5, pictures=1, lines=3)
    figure = grid.figure(title, [remark], below=0.1 if tiles else 0.5)
    for place, (tile, (lead, text)) in enumerate(zip(tiles, last, strict=True)):
        grid.show(figure, place, [tile.picture], frame)
        grid.caption(figure, place, 0, leads[0], str(tile.true))
        grid.caption(figure, place, 1, leads[1], tile.predicted)
        grid.caption(figure, place, 2, lead, text, colour=DIM)
    return figure


def gradcam_sheet(tiles: Sequence[Tile], title: str, *, of_first: bool = False) -> Figure:
    """Each picture beside the evidence for its predicted class, in the order given.

    A correct prediction is marked by a tick, a wrong one by a cross and a thick frame, one of
    unknown class by a grey frame. Raises ValueError where there is no tile, or one without `heat`.

    Args:
        of_first: of several models together the classes, of the first one the evidence.
    """
    heats = [tile.heat for tile in tiles if tile.heat is not None]
    if not tiles or len(heats) < len(tiles):
        raise ValueError(f"{len(tiles)} tiles: needs at least one, and a heat map for each")
    grid = _Grid(len(tiles), per_row=3, pictures=2, lines=2)
    remarks = ["✓ right · ✗ wrong · true class → predicted class (confidence)"]
    if of_first:
        remarks.append("of several models together; each map is of the first of them")
    figure = grid.figure(title, remarks, below=0.55)
    for place, (tile, heat) in enumerate(zip(tiles, heats, strict=True)):
        wrong = tile.true not in (None, tile.predicted)
        colour = DIM if tile.true is None else VERMILLION if wrong else BLUE
        pair = [tile.picture, overlay(tile.picture, heat)]
        grid.show(figure, place, pair, colour, thick=wrong)
        share = f" ({percent(tile.confidence)})"
        names = _pair(tile.true, tile.predicted, grid.tile_width - 0.2 - text_width(share, _TEXT))
        sign = "" if tile.true is None else "✗ " if wrong else "✓ "
        grid.caption(figure, place, 0, sign, names + share, mark=colour)
        note = "" if heat.any() else "no positive evidence: "
        grid.caption(figure, place, 1, note, PurePosixPath(tile.path).name, colour=DIM)
    _legend(figure)
    return figure


def _pair(true: str | None, predicted: str, inches: float) -> str:
    """Both names in the width given; a short one leaves its room to the other."""
    if true is None:
        return shorten(predicted, inches, _TEXT)
    arrow = " → "
    room = inches - text_width(arrow, _TEXT)
    true_room = max(room / 2, room - text_width(printable_line(predicted), _TEXT))
    first = shorten(true, true_room, _TEXT)
    return first + arrow + shorten(predicted, room - text_width(first, _TEXT), _TEXT)


def _legend(figure: Figure) -> None:
    width, height = figure.get_size_inches()
    ramp = np.tile(np.linspace(0, 1, 256, dtype=np.float32), (16, 1))
    bar = figure.add_axes(((width / 2 - 1.2) / width, 0.3 / height, 2.4 / width, 0.16 / height))
    # On mid-grey, as a picture has it, so that the colours are those of the overlays.
    bar.imshow(overlay(np.full((16, 256, 3), 128, dtype=np.uint8), ramp), aspect="auto")
    bar.set(xticks=[], yticks=[])
    for x, text, side in ((-0.02, "low", "right"), (1.02, "high", "left")):
        bar.text(x, 0.5, text, ha=side, va="center", fontsize=9, transform=bar.transAxes)
    bar.set_xlabel("evidence for the predicted class", fontsize=9, labelpad=3)


class _Grid:
    """Where each tile stands, in inches: `pictures` side by side and `lines` of text below."""

    def __init__(self, tiles: int, *, per_row: int, pictures: int, lines: int) -> None:
        self.per_row, self.pictures = per_row, pictures
        self.tile_width = pictures * _PICTURE + (pictures - 1) * _SEAM
        self.tile_height = _PICTURE + 0.06 + lines * _LINE
        self.rows = math.ceil(tiles / per_row)
        # A sheet of one tile is still wide enough for its heading.
        self.columns = min(per_row, tiles)
        self.width = max(6.0, self.columns * (self.tile_width + _GAP) + _GAP)
        self.top = 0.0

    def figure(self, title: str, remarks: list[str], below: float) -> Figure:
        heading = Heading(title, remarks, self.width)
        self.top = below + self.rows * (self.tile_height + _GAP) + 0.05
        figure = blank(self.width, self.top + heading.height)
        heading.draw(figure)
        return figure

    def _corner(self, place: int) -> tuple[float, float]:
        """The upper left corner of a tile, from the lower left one of the figure."""
        row, column = divmod(place, self.per_row)
        margin = (self.width - self.columns * (self.tile_width + _GAP) + _GAP) / 2
        x = margin + column * (self.tile_width + _GAP)
        return x, self.top - row * (self.tile_height + _GAP)

    def show(
        self,
        figure: Figure,
        place: int,
        pictures: Sequence[NDArray[np.uint8]],
        colour: str,
        thick: bool = False,
    ) -> None:
        """The pictures of a tile, each in a frame."""
        x, y = self._corner(place)
        line = 2.5 if thick else 1.0
        for i, picture in enumerate(pictures):
            # Its lower left corner is where the caption begins.
            corner = (x + i * (_PICTURE + _SEAM), y - _PICTURE)
            draw_picture(figure, picture, corner, _PICTURE, frame=colour, line=line)

    def caption(
        self,
        figure: Figure,
        place: int,
        line: int,
        lead: str,
        text: str,
        *,
        colour: str = "black",
        mark: str | None = None,
    ) -> None:
        """One line below a tile: `lead` (in the colour `mark`) whole, `text` as far as it fits."""
        width, height = figure.get_size_inches()
        x, y = self._corner(place)
        y -= _PICTURE + 0.06 + line * _LINE
        indent = text_width(lead, _TEXT)
        style: dict[str, Any] = {"va": "top", "fontsize": _TEXT, **PLAIN}
        weight = "bold" if mark else "normal"
        figure.text(x / width, y / height, lead, color=mark or colour, weight=weight, **style)
        fitted = shorten(text, self.tile_width - indent, _TEXT)
        figure.text((x + indent) / width, y / height, fitted, color=colour, **style)
