"""What all figures share: a canvas without a display, colours, and text that fits its place."""

import sys
import textwrap
import unicodedata
import warnings
from bisect import bisect_right
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.image import BboxImage
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextToPath
from matplotlib.transforms import Bbox, TransformedBbox
from numpy.typing import NDArray

from tlkit.errors import printable_line

DPI = 120
POINTS_PER_INCH = 72
_LINE = 1.4

# Okabe and Ito's colours, which stay apart under the common forms of colour blindness.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
DIM = "#595959"

# DejaVu Sans, which comes with Matplotlib, has no Chinese, Japanese or Korean.
_EAST_ASIAN = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "PingFang SC",
    "Microsoft YaHei",
    "Yu Gothic",
    "Malgun Gothic",
)
_INSTALLED = set(font_manager.fontManager.get_font_names())
_FAMILY = ["DejaVu Sans", *(font for font in _EAST_ASIAN if font in _INSTALLED)]

# Matplotlib says it of each letter in each text; `_tell_of_boxes` says it once.
warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")

# Of no width: with it as its first letter a line is written from left to right.
_LEFT_TO_RIGHT = "\u200e"

# For text with a user's words in it: "$" in the name of a class begins no formula.
PLAIN: dict[str, Any] = {"parse_math": False, "fontfamily": _FAMILY}


def blank(width: float, height: float) -> Figure:
    """An empty white figure of that many inches, apart from pyplot's global state."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG file."""
    # zlib's default level takes twice as long and saves a tenth.
    figure.savefig(path, pil_kwargs={"compress_level": 2})


def draw_picture(
    figure: Figure,
    picture: NDArray[np.uint8],
    corner: tuple[float, float],
    side: float,
    *,
    frame: str | None = None,
    line: float = 1.0,
) -> None:
    """Draw a picture as large as a square allows, in its lower left corner.

    It stands by itself: axes for each of dozens take longer than the pictures in them.

    Args:
        picture: uint8 (H, W, 3).
        corner, side: of the square, in inches from the figure's lower left corner.
        frame, line: colour and width in points of a frame, where one is wanted.
    """
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = width * scale, height * scale
    inches = figure.dpi_scale_trans
    box = TransformedBbox(Bbox.from_bounds(*corner, *size), inches)
    # As `imshow` does; else a picture that is made smaller has pixels left out.
    figure.add_artist(BboxImage(box, data=picture, resample=True))
    if frame is not None:
        outline = Rectangle(corner, *size, fill=False, ec=frame, lw=line, transform=inches)
        figure.add_artist(outline)


def panels(figure: Figure, count: int, height: float) -> list[Axes]:
    """Axes side by side in a band of `height` inches at the foot of a figure.

    Their margins are fixed, with room for a label and numbers of seven characters: an automatic
    layout measures every text twice, which takes as long as drawing it.
    """
    left, right, above, below, between = 0.9, 0.2, 0.35, 0.6, 1.1
    width, full = figure.get_size_inches()
    grid = figure.add_gridspec(
        1,
        count,
        left=left / width,
        right=1 - right / width,
        bottom=below / full,
        top=(height - above) / full,
        wspace=between / ((width - left - right - between * (count - 1)) / count),
    )
    return [figure.add_subplot(grid[0, place]) for place in range(count)]


def text_width(text: str, size: float) -> float:
    """Inches that printable text on one line takes at a font size in points."""
    font = FontProperties(family=_FAMILY, size=size)
    width: float = TextToPath().get_text_width_height_descent(text, font, ismath=False)[0]
    return width / POINTS_PER_INCH


def shorten(text: str, inches: float, size: float) -> str:
    """`text` on one line, with an ellipsis for its middle where it is wider than `inches`.

    The middle goes because names that begin alike ("n02085620-Chihuahua") differ at their ends.
    Hebrew and Arabic stand between marks that are not seen, so that what is written beside them
    stays where it is.
    """
    line = printable_line(text)
    _tell_of_boxes(line)
    if text_width(line, size) <= inches:
        return _marked(line)

    def keeping(length: int) -> str:
        tail = length // 2
        return line[: length - tail] + "…" + line[len(line) - tail :]

    lengths = range(1, len(line))
    fitting = bisect_right(lengths, inches, key=lambda length: text_width(keeping(length), size))
    return _marked(keeping(max(1, fitting)))


def _marked(line: str) -> str:
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in line):
        return f"{_LEFT_TO_RIGHT}{line}{_LEFT_TO_RIGHT}"
    return line


def _tell_of_boxes(line: str) -> None:
    if any(letter.isalpha() and ord(letter) not in _drawable() for letter in line):
        _tell_of_fonts()


@cache
def _drawable() -> frozenset[int]:
    """The characters that our fonts have."""
    fonts = (get_font(findfont(name)) for name in _FAMILY)
    return frozenset().union(*(font.get_charmap() for font in fonts))


@cache
def _tell_of_fonts() -> None:
    print(
        "figures: the fonts installed here lack letters of some names, which are drawn as boxes; "
        "for Chinese, Japanese and Korean install Noto Sans CJK",
        file=sys.stderr,
    )


def wrap(text: str, inches: float, size: float) -> list[str]:
    """`text` in lines that are about `inches` wide at most."""
    line = printable_line(text)
    mean_character = text_width(line, size) / max(1, len(line))
    return textwrap.wrap(line, max(10, int(inches / max(mean_character, 1e-9)) - 2)) or [""]


class Heading:
    """A title and remarks below it, wrapped to a figure's width and drawn at its top.

    height: the inches it takes, known before the figure is made.
    """

    def __init__(self, title: str, remarks: list[str], width: float, scale: float = 1.0) -> None:
        self._lines = [(line, 13 * scale, "black") for line in wrap(title, width - 0.4, 13 * scale)]
        for remark in remarks:
            self._lines += [
                (line, 10 * scale, DIM) for line in wrap(remark, width - 0.4, 10 * scale)
            ]
        self.height = 0.25 + sum(_LINE * size / POINTS_PER_INCH for _, size, _ in self._lines)

    def draw(self, figure: Figure) -> None:
        height = figure.get_size_inches()[1]
        top = height - 0.12
        for line, size, colour in self._lines:
            figure.text(
                0.5, top / height, line, ha="center", va="top", fontsize=size, color=colour, **PLAIN
            )
            top -= _LINE * size / POINTS_PER_INCH


def percent(share: float) -> str:
    """0..1 as a percentage with one decimal that says 100 % or 0 % only where it is so."""
    if 0.9995 <= share < 1:
        return ">99.9 %"
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{share:.1%}".replace("%", " %")
