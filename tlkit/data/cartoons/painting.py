"""Painting outlines with coats, lines and shade."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import PIL.Image
import PIL.ImageChops
import PIL.ImageDraw
from numpy.random import Generator
from PIL.Image import Image

from tlkit.data.cartoons.animals import Coat, Part
from tlkit.data.cartoons.colours import BLACK, WHITE, Colour, mix
from tlkit.data.cartoons.shapes import CIRCLE, Frame, Shape, closed_shape, ribbon_shape, smooth

SIZE = 256  # pixels, the side of a picture
CANVAS = 2 * SIZE  # drawn at twice the size and averaged down, which smooths the edges


def _fill(
    draw: PIL.ImageDraw.ImageDraw, shapes: Sequence[Shape], ink: Colour | int, grow: float = 0.0
) -> None:
    """Fill shapes that are given in the pixels of `draw`, made wider by `grow` all round."""
    for shape in shapes:
        if shape.shape[1] == 3:
            reach = shape[:, 2:] + grow
            boxes = np.concatenate([shape[:, :2] - reach, shape[:, :2] + reach], axis=1)
            for box in boxes.tolist():
                draw.ellipse(box, fill=ink)
            continue
        corners = [(x, y) for x, y in shape.tolist()]
        draw.polygon(corners, fill=ink)
        if grow:
            draw.line(corners + corners[:2], fill=ink, width=round(2 * grow), joint="curve")


def bounds_of(shapes: Sequence[Shape]) -> tuple[float, float, float, float]:
    least, most = [], []
    for shape in shapes:
        reach = shape[:, 2:] if shape.shape[1] == 3 else 0.0
        least.append((shape[:, :2] - reach).min(axis=0))
        most.append((shape[:, :2] + reach).max(axis=0))
    (left, top), (right, bottom) = np.min(least, axis=0).tolist(), np.max(most, axis=0).tolist()
    return left, top, right, bottom


class Pen:
    """Paints parts onto a canvas, in the order given."""

    def __init__(
        self, canvas: Image, coats: Mapping[str, Image], line: Colour, width: float
    ) -> None:
        self.canvas, self.coats, self.line, self.width = canvas, coats, line, width
        self.draw = PIL.ImageDraw.Draw(canvas)

    def paint(self, parts: Sequence[Part], frame: Frame, volume: float) -> None:
        """Paint parts given in the frame's units; `volume` is how dark their far side gets."""
        for part in parts:
            shapes = [frame(shape) for shape in part.shapes]
            if part.outline and self.width:
                _fill(self.draw, shapes, self.line, self.width)
            if not isinstance(part.paint, str):
                dimmed = mix(part.paint, BLACK, part.shade)
                _fill(self.draw, shapes, dimmed)
            else:
                shadow = volume if part.volume else 0.0
                self._clothe(shapes, self.coats[part.paint], part.shade, shadow, 0.14 * frame.scale)

    def _clothe(
        self, shapes: Sequence[Shape], coat: Image, shade: float, shadow: float, depth: float
    ) -> None:
        left, top, right, bottom = bounds_of(shapes)
        x, y = max(0, math.floor(left)), max(0, math.floor(top))
        box = (x, y, min(CANVAS, math.ceil(right) + 1), min(CANVAS, math.ceil(bottom) + 1))
        if box[0] >= box[2] or box[1] >= box[3]:
            return

        def mask(shift: float) -> Image:
            image = PIL.Image.new("L", (box[2] - x, box[3] - y))
            away = (shift - x, shift - y, 0.0)
            _fill(PIL.ImageDraw.Draw(image), [s + away[: s.shape[1]] for s in shapes], 255)
            return image

        inside = mask(0.0)
        self.canvas.paste(coat.crop(box), box, inside)
        if shade:
            self.canvas.paste(BLACK, box, inside.point([round(v * shade) for v in range(256)]))
        if shadow:
            far = PIL.ImageChops.subtract(inside, mask(-depth))
            self.canvas.paste(BLACK, box, far.point([round(v * shadow) for v in range(256)]))


def coat_images(
    coat: Coat, frame: Frame, box: Sequence[float], pose: str, rng: Generator
) -> dict[str, Image]:
    """The coat with its markings within the animal's box: one for the body, one for the head."""
    head = PIL.Image.new("RGB", (CANVAS, CANVAS), coat.base)
    draw = PIL.ImageDraw.Draw(head)
    step = frame.scale

    corner, extent = np.array(box[:2]), np.array(box[2:]) - box[:2]
    area = float(extent[0] * extent[1]) / step**2

    def scatter(count: float) -> list[list[float]]:
        places: list[list[float]] = (corner + extent * rng.random((int(count) + 1, 2))).tolist()
        return places

    tones = [mix(coat.base, tone, 0.09) for tone in (BLACK, WHITE)]
    lean = rng.uniform(-0.25, 0.25) * step
    for k, (x, y) in enumerate(scatter(min(160, 6 * area))):
        end = (x + lean, y + 0.35 * step)
        draw.line((x, y, *end), fill=tones[k % 2], width=max(1, round(step / 12)))
    if coat.pattern == "spots":
        r = rng.uniform(0.09, 0.2)
        for x, y in scatter(min(200, area / (24 * r * r))):
            u, v = (r * step * rng.uniform(0.6, 1.3, 2)).tolist()
            draw.ellipse((x - u, y - v, x + u, y + v), fill=coat.second)
    elif coat.pattern == "patches":
        for x, y in scatter(area / 5):
            blob = CIRCLE[::4] * (step * rng.uniform(0.4, 1.1, (8, 1))) + (x, y)
            draw.polygon(list(map(tuple, smooth(blob, 2).tolist())), fill=coat.second)
    body = head.copy()
    draw = PIL.ImageDraw.Draw(body)
    if coat.pattern == "stripes":
        ink, gap = mix(coat.base, coat.line, 0.7), rng.uniform(0.4, 0.7)
        upright = pose in ("standing", "lying", "curled", "side")
        for k in range(-14, 14):
            sway = rng.uniform(-0.2, 0.2, 4)
            w = gap * rng.uniform(0.16, 0.3)
            line = [
                (k * gap + s, v) for s, v in zip(sway.tolist(), (-2.0, 0.5, 2.5, 5.0), strict=True)
            ]
            ribbon = ribbon_shape(*((u, v, w) if upright else (v - 2.0, u, w) for u, v in line))
            for x, y, r in frame(ribbon).tolist():
                draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)
    elif coat.pattern == "saddle":
        top = rng.uniform(0.9, 1.7)
        wave = [(0.8 * k, top + rng.uniform(-0.25, 0.25)) for k in range(-10, 8)]
        corners = frame(closed_shape(*wave, (7.0, -9.0), (-9.0, -9.0)))
        draw.polygon(list(map(tuple, corners.tolist())), fill=coat.second)
    return {"head": head, "body": body}
