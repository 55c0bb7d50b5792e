"""What stands behind and before the animal."""

import math
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
from numpy.random import Generator
from PIL.Image import Image

from tlkit.data.cartoons.animals import pick
from tlkit.data.cartoons.colours import BLACK, WHITE, Colour, any_colour, jitter, mix
from tlkit.data.cartoons.painting import CANVAS
from tlkit.data.cartoons.shapes import CIRCLE, closed_shape, oval_shape, smooth


def _clouds(rng: Generator, cells: int) -> Image:
    """Smooth noise over the canvas, 0 to 255."""
    grid = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
    return PIL.Image.fromarray(grid).resize((CANVAS, CANVAS), PIL.Image.Resampling.BICUBIC)


def _ramp(a: Colour, b: Colour, sideways: bool = False) -> Image:
    ramp = PIL.Image.linear_gradient("L").resize((CANVAS, CANVAS))
    mask = ramp.transpose(PIL.Image.Transpose.ROTATE_90) if sideways else ramp
    return PIL.Image.composite(
        PIL.Image.new("RGB", ramp.size, b), PIL.Image.new("RGB", ramp.size, a), mask
    )


def _thing(draw: PIL.ImageDraw.ImageDraw, rng: Generator, x: float, y: float, r: float) -> None:
    """A piece of clutter of radius r that stands at (x, y)."""
    colour = any_colour(rng)
    other = mix(colour, BLACK if rng.random() < 0.6 else WHITE, rng.uniform(0.25, 0.6))
    kind = rng.integers(10)
    line = round(rng.integers(0, 4))
    if kind == 0:  # ball
        draw.ellipse((x - r, y - 2 * r, x + r, y), fill=colour, outline=other, width=line)
        draw.arc((x - r, y - 1.6 * r, x + r, y + r), 200, 340, fill=other, width=6)
    elif kind == 1:  # box
        h = r * rng.uniform(0.8, 2.2)
        draw.rectangle((x - r, y - h, x + r, y), fill=colour, outline=other, width=line)
        draw.rectangle((x - r, y - h, x + r, y - 0.75 * h), fill=other)
    elif kind == 2:  # potted plant
        for _ in range(7):
            tip = (x + rng.uniform(-1.3, 1.3) * r, y - rng.uniform(1.6, 3.0) * r)
            draw.line((x, y - r, *tip), fill=other, width=round(0.12 * r) + 1)
            draw.ellipse(
                (tip[0] - 0.3 * r, tip[1] - 0.4 * r, tip[0] + 0.3 * r, tip[1] + 0.4 * r),
                fill=jitter(rng, (84, 128, 70), 40),
            )
        draw.polygon(
            [(x - 0.7 * r, y - r), (x + 0.7 * r, y - r), (x + 0.5 * r, y), (x - 0.5 * r, y)],
            fill=colour,
        )
    elif kind == 3:  # tent, hat or roof: pointed like an ear
        for s in (-0.7, 0.7) if rng.random() < 0.5 else (0.0,):
            draw.polygon(
                [
                    (x + (s - 0.6) * r, y),
                    (x + (s + 0.6) * r, y),
                    (x + (s + rng.uniform(-0.4, 0.4)) * r, y - rng.uniform(1, 2) * r),
                ],
                fill=colour,
                outline=other,
                width=line,
            )
    elif kind == 4:  # cushion
        pillow = smooth(
            closed_shape((x - r, y), (x + r, y), (x + r, y - 1.3 * r), (x - r, y - 1.3 * r)), 2
        )
        draw.polygon(list(map(tuple, pillow.tolist())), fill=colour, outline=other, width=line)
    elif kind == 5:  # lamp
        draw.line((x, y, x, y - 3 * r), fill=other, width=max(3, round(0.12 * r)))
        draw.polygon(
            [
                (x - 0.4 * r, y - 3.4 * r),
                (x + 0.4 * r, y - 3.4 * r),
                (x + 0.9 * r, y - 2.2 * r),
                (x - 0.9 * r, y - 2.2 * r),
            ],
            fill=colour,
        )
    elif kind == 6:  # stone, bush or heap: round like a sleeping animal
        bumps = CIRCLE[::3] * (rng.uniform(0.7, 1.1, (11, 1)) * (1.3 * r, 0.9 * r))
        bush = smooth(np.add(bumps, (x, y - 0.7 * r)), 2)
        draw.polygon(list(map(tuple, bush.tolist())), fill=colour, outline=other, width=line)
    elif kind == 7:  # twigs: thin like whiskers
        ink = WHITE if rng.random() < 0.5 else other
        for s in (-1, 1):
            for k in range(3):
                reach = rng.uniform(0.7, 1.3) * r
                draw.line(
                    (x + 0.2 * s * r, y - r, x + s * reach, y - r * (1.5 - 0.45 * k)),
                    fill=ink,
                    width=3,
                )
    elif kind == 8:  # buttons or daisies: round and dark in the middle like eyes
        for s in (-1, 1)[: rng.integers(1, 3)]:
            for q, ink in ((0.45, colour), (0.22 * rng.uniform(0.6, 1.4), BLACK)):
                at = (x + 0.6 * s * r, y - r)
                draw.ellipse((at[0] - q * r, at[1] - q * r, at[0] + q * r, at[1] + q * r), fill=ink)
    else:  # vase with drooping leaves: hanging like an ear
        for s in (-1, 1):
            leaf = oval_shape(x + 0.7 * s * r, y - 1.4 * r, 0.3 * r, 0.8 * r, -0.4 * s)
            draw.polygon(list(map(tuple, leaf.tolist())), fill=other)
        draw.ellipse(
            (x - 0.6 * r, y - 1.6 * r, x + 0.6 * r, y), fill=colour, outline=other, width=line
        )


def _pattern(draw: PIL.ImageDraw.ImageDraw, rng: Generator, bottom: float, ink: Colour) -> None:
    """Wallpaper or tiles from the top down to `bottom`."""
    gap = rng.uniform(24, 80)
    kind = rng.integers(4)
    size = gap * rng.uniform(0.15, 0.4)
    for i in range(int(CANVAS / gap) + 1):
        x = i * gap
        if kind == 0:
            draw.rectangle((x, 0, x + size, bottom), fill=ink)
            continue
        for j in range(int(bottom / gap) + 1):
            y = j * gap + (gap / 2 if i % 2 else 0)
            if kind == 1:
                draw.ellipse((x - size, y - size, x + size, y + size), fill=ink)
            elif kind == 2:
                draw.polygon([(x - size, y), (x, y - size), (x + size, y), (x, y + size)], fill=ink)
            else:
                draw.polygon([(x - size, y), (x, y - 1.5 * size), (x + size, y)], fill=ink)


def _room(rng: Generator) -> tuple[Image, float]:
    wall, floor = any_colour(rng), any_colour(rng)
    horizon = CANVAS * rng.uniform(0.5, 0.78)
    image = _ramp(mix(wall, WHITE, 0.2), mix(wall, BLACK, 0.15), sideways=rng.random() < 0.5)
    draw = PIL.ImageDraw.Draw(image)
    if rng.random() < 0.6:
        _pattern(draw, rng, horizon, mix(wall, any_colour(rng), rng.uniform(0.15, 0.5)))
    for _ in range(rng.integers(0, 3)):  # windows, pictures, shelves
        x, y = rng.uniform(0, CANVAS), rng.uniform(0, horizon * 0.6)
        w, h = rng.uniform(50, 150), rng.uniform(40, 150)
        frame, pane = any_colour(rng), any_colour(rng)
        draw.rectangle((x, y, x + w, y + h), fill=pane, outline=frame, width=8)
        if rng.random() < 0.6:
            draw.line((x + w / 2, y, x + w / 2, y + h), fill=frame, width=6)
            draw.line((x, y + h / 2, x + w, y + h / 2), fill=frame, width=6)
    draw.rectangle((0, horizon, CANVAS, CANVAS), fill=floor)
    draw.rectangle((0, horizon - 8, CANVAS, horizon), fill=mix(floor, WHITE, 0.4))
    seam = mix(floor, BLACK, 0.18)
    if rng.random() < 0.6:
        for k in range(-8, 17):  # boards that run towards the viewer
            draw.line((k * 64, CANVAS, 256 + (k * 64 - 256) * 0.4, horizon), fill=seam, width=2)
    if rng.random() < 0.5:
        y = (horizon + CANVAS) / 2
        draw.ellipse((40, y - 50, CANVAS - 40, y + 60), fill=any_colour(rng))
    if rng.random() < 0.45:  # a sofa or a table behind
        x, w = rng.uniform(-60, 250), rng.uniform(200, 380)
        top, colour = horizon - rng.uniform(60, 160), any_colour(rng)
        draw.rounded_rectangle((x, top, x + w, horizon + 50), 26, fill=colour)
        draw.rounded_rectangle(
            (x, top + 60, x + w, horizon + 40), 18, fill=mix(colour, WHITE, 0.15)
        )
    return image, horizon


def _meadow(rng: Generator) -> tuple[Image, float]:
    horizon = CANVAS * rng.uniform(0.3, 0.7)
    sky = jitter(rng, ((160, 196, 226), (236, 206, 180), (186, 190, 198))[rng.integers(3)], 24)
    ground = jitter(
        rng,
        ((110, 146, 74), (160, 150, 92), (214, 198, 160), (226, 230, 236), (104, 96, 70))[
            rng.integers(5)
        ],
        24,
    )
    image = _ramp(mix(sky, WHITE, 0.1), mix(sky, WHITE, 0.5))
    draw = PIL.ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 4)):
        x, y, r = rng.uniform(0, CANVAS), rng.uniform(20, horizon), rng.uniform(20, 50)
        for k in range(4):
            draw.ellipse(
                (x + k * r * 0.8, y - r * (k % 2 + 1) / 2, x + k * r * 0.8 + 1.6 * r, y + r / 2),
                fill=mix(sky, WHITE, 0.8),
            )
    for _ in range(rng.integers(0, 4)):  # hills, pointed and round
        x, w, h = rng.uniform(0, CANVAS), rng.uniform(80, 260), rng.uniform(40, 170)
        colour = mix(ground, sky, rng.uniform(0.2, 0.7))
        if rng.random() < 0.5:
            draw.polygon([(x - w, horizon), (x, horizon - h), (x + w, horizon)], fill=colour)
        else:
            draw.ellipse((x - w, horizon - h, x + w, horizon + h), fill=colour)
    for _ in range(rng.integers(0, 5)):  # trees
        x, h = rng.uniform(0, CANVAS), rng.uniform(60, 190)
        draw.line((x, horizon + 10, x, horizon - 0.6 * h), fill=(92, 70, 54), width=10)
        leaf = jitter(rng, (84, 116, 66), 34)
        if rng.random() < 0.5:
            draw.polygon(
                [
                    (x - 0.35 * h, horizon - 0.3 * h),
                    (x, horizon - 1.2 * h),
                    (x + 0.35 * h, horizon - 0.3 * h),
                ],
                fill=leaf,
            )
        else:
            draw.ellipse(
                (x - 0.4 * h, horizon - 1.2 * h, x + 0.4 * h, horizon - 0.4 * h), fill=leaf
            )
    draw.rectangle((0, horizon, CANVAS, CANVAS), fill=ground)
    if rng.random() < 0.3:
        fence = any_colour(rng)
        for x in range(-20, CANVAS, 44):
            draw.polygon(
                [
                    (x, horizon + 30),
                    (x, horizon - 60),
                    (x + 14, horizon - 80),
                    (x + 28, horizon - 60),
                    (x + 28, horizon + 30),
                ],
                fill=fence,
            )
    _blades(draw, rng, horizon, CANVAS, int(rng.integers(60, 320)), 22.0, ground)
    return image, horizon


def _blades(
    draw: PIL.ImageDraw.ImageDraw,
    rng: Generator,
    top: float,
    bottom: float,
    count: int,
    height: float,
    colour: Colour,
) -> None:
    tones = [mix(colour, tone, share) for tone in (BLACK, WHITE) for share in (0.12, 0.25)]
    for k, (x, y, lean, h) in enumerate(rng.random((count, 4)).tolist()):
        x, y, h = x * CANVAS, top + y * (bottom - top), height * (0.5 + h)
        draw.line((x, y, x + (lean - 0.5) * h, y - h), fill=tones[k % 4], width=3)


def _street(rng: Generator) -> tuple[Image, float]:
    horizon = CANVAS * rng.uniform(0.55, 0.75)
    image = _ramp(jitter(rng, (180, 200, 220), 30), (236, 226, 214))
    draw = PIL.ImageDraw.Draw(image)
    x = -40.0
    while x < CANVAS:
        w, top, wall = rng.uniform(70, 170), rng.uniform(0, 0.6) * horizon, any_colour(rng)
        draw.rectangle((x, top, x + w, horizon), fill=wall)
        if rng.random() < 0.5:
            draw.polygon(
                [(x - 6, top), (x + w / 2, top - 0.5 * w), (x + w + 6, top)], fill=any_colour(rng)
            )
        pane = any_colour(rng)
        for i in range(int(w / 44)):
            for j in range(int((horizon - top) / 60)):
                corner = (x + 14 + 44 * i, top + 16 + 60 * j)
                draw.rectangle((*corner, corner[0] + 22, corner[1] + 32), fill=pane)
        x += w
    kerb = jitter(rng, (150, 146, 142), 40)
    draw.rectangle((0, horizon, CANVAS, CANVAS), fill=kerb)
    for k in range(-4, 14):
        draw.line((k * 60, horizon, k * 90 - 120, CANVAS), fill=mix(kerb, BLACK, 0.2), width=2)
    return image, horizon


def _studio(rng: Generator) -> tuple[Image, float]:
    image = _ramp(any_colour(rng), any_colour(rng), sideways=rng.random() < 0.5)
    draw = PIL.ImageDraw.Draw(image)
    if rng.random() < 0.5:
        _pattern(draw, rng, CANVAS, any_colour(rng))
    for _ in range(rng.integers(0, 9)):
        x, y, r = rng.uniform(0, CANVAS), rng.uniform(0, CANVAS), rng.uniform(15, 80)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=any_colour(rng))
    return image, CANVAS * 0.3


def _texture(rng: Generator) -> tuple[Image, float]:
    image = PIL.Image.new("RGB", (CANVAS, CANVAS), any_colour(rng))
    for cells in (5, 14, 60):
        image.paste(any_colour(rng), None, _clouds(rng, cells).point([v // 2 for v in range(256)]))
    return image, CANVAS * 0.3


def new_scene(rng: Generator, clutter: int) -> Image:
    paint = (_room, _room, _meadow, _meadow, _street, _studio, _texture)[rng.integers(7)]
    image, horizon = paint(rng)
    draw = PIL.ImageDraw.Draw(image)
    for y in sorted(rng.uniform(0.4 * horizon, CANVAS * 1.05, clutter).tolist()):
        _thing(draw, rng, rng.uniform(0, CANVAS), y, rng.uniform(14, 58))
    if rng.random() < 0.35:
        image.paste(any_colour(rng), None, _clouds(rng, 40).point([v // 6 for v in range(256)]))
    return image.filter(PIL.ImageFilter.BoxBlur(3)) if rng.random() < 0.25 else image


def cover(image: Image, rng: Generator, box: Sequence[float], head: Sequence[float]) -> None:
    """Cover part of the animal: its box is (left, top, right, bottom), its head (x, y, radius)."""
    draw = PIL.ImageDraw.Draw(image)
    left, top, right, bottom = box
    x, y, r = head
    kind = pick(rng, none=0.46, grass=0.18, bars=0.06, thing=0.2, leaves=0.1)
    if kind == "grass":
        line = max(y + 1.0 * r, bottom - rng.uniform(0.1, 0.5) * (bottom - y))
        colour = jitter(rng, (104, 140, 70), 40)
        _blades(draw, rng, line, max(CANVAS, line + 1), int(rng.integers(200, 420)), 42.0, colour)
    elif kind == "bars":
        gap, w, colour = rng.uniform(46, 110), rng.uniform(5, 14), any_colour(rng)
        for k in range(int(CANVAS / gap) + 1):
            at = (k + 0.3) * gap
            draw.rectangle((at, 0, at + w, CANVAS), fill=colour)
        if rng.random() < 0.5:
            draw.rectangle((0, y + 1.4 * r, CANVAS, y + 1.4 * r + w), fill=colour)
    elif kind == "thing":
        for _ in range(rng.integers(1, 3)):
            size, at = (
                rng.uniform(0.12, 0.3) * max(right - left, bottom - top),
                rng.uniform(left, right),
            )
            if (
                abs(at - x) < 1.5 * r
            ):  # stay below the face: no thing is taller than 3.4 times its size
                size = min(size, (bottom - y - 0.5 * r) / 3.1)
            _thing(draw, rng, at, bottom + 0.3 * size, size)
    elif kind == "leaves":
        side = 0.0 if rng.random() < 0.5 else float(CANVAS)
        colour = jitter(rng, (88, 124, 70), 40)
        for _ in range(rng.integers(5, 14)):
            px, py = side + rng.normal(0, 90), rng.uniform(0, CANVAS)
            if math.hypot(px - x, py - y) > 1.1 * r:
                leaf = oval_shape(
                    px, py, rng.uniform(30, 60), rng.uniform(10, 20), rng.uniform(-1.5, 1.5)
                )
                draw.polygon(list(map(tuple, leaf.tolist())), fill=jitter(rng, colour, 20))
