"""Cartoon cats against cartoon dogs, drawn from a seed: a data set that needs no network.

What tells the classes apart is what tells the animals apart (ears, muzzle and nose, pupils,
whiskers, tail, legs), each drawn from a distribution that overlaps with the other species'. All
else (coat, pose, place, scene, light, camera) comes from streams that do not know the class.
"""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import PIL.Image
import PIL.ImageChops
import PIL.ImageDraw
import PIL.ImageFilter
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray
from tqdm import tqdm

from tlkit.errors import UserError

CLASSES = ("cat", "dog")
COUNTS = {"train": 1000, "val": 200, "test": 200}
SIZE = 256

# Goes up whenever a picture of the same seed comes out in other bytes.
VERSION = 1

_MARKER = ".synthetic.json"
_CANVAS = 2 * SIZE  # drawn at twice the size and averaged down, which smooths the edges

Image = PIL.Image.Image
Colour = tuple[int, int, int]
Shape = NDArray[np.float64]
"""(n, 2): the corners of a polygon. (n, 3): x, y and radius of a chain of discs."""

WHITE: Colour = (244, 242, 236)
BLACK: Colour = (24, 20, 22)
PINK: Colour = (226, 140, 148)
TONGUE: Colour = (222, 96, 112)
COATS: tuple[Colour, ...] = (
    (52, 49, 52),
    (92, 90, 96),
    (140, 140, 146),
    (196, 194, 192),
    (238, 233, 222),
    (232, 206, 160),
    (214, 160, 92),
    (206, 122, 54),
    (150, 96, 58),
    (98, 64, 44),
    (120, 130, 146),
)

# --- Shapes ---------------------------------------------------------------------------------------

_TURN = [2 * math.pi * k / 32 for k in range(32)]
_CIRCLE = np.array([(math.cos(a), math.sin(a)) for a in _TURN])


def _shape(*points: Sequence[float]) -> Shape:
    return np.array(points, dtype=np.float64)


def _smooth(corners: Shape, rounds: int = 3) -> Shape:
    """Cut the corners of a closed polygon (Chaikin 1974)."""
    for _ in range(rounds):
        after = np.concatenate([corners[1:], corners[:1]])
        cut = np.empty((2 * len(corners), 2))
        cut[0::2] = 0.75 * corners + 0.25 * after
        cut[1::2] = 0.25 * corners + 0.75 * after
        corners = cut
    return corners


def _rounded(corners: Shape, share: float) -> Shape:
    """Round each corner off over a share of its two sides: 0 is sharp, 0.5 is all round."""
    before, after = np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0)
    near = corners + share * (before - corners)
    far = corners + share * (after - corners)
    middle = 0.5 * corners + 0.25 * (near + far)
    return np.stack([near, middle, far], axis=1).reshape(-1, corners.shape[1])


def _ribbon(*points: Sequence[float]) -> Shape:
    """A smooth stroke through (x, y, radius), as a dense chain of discs."""
    path = _shape(*points)
    for _ in range(2):
        cut = np.empty((2 * len(path), 3))
        cut[0], cut[-1] = path[0], path[-1]
        cut[1:-1:2] = 0.75 * path[:-1] + 0.25 * path[1:]
        cut[2:-1:2] = 0.25 * path[:-1] + 0.75 * path[1:]
        path = cut
    ways = np.sqrt(((path[1:, :2] - path[:-1, :2]) ** 2).sum(axis=1))
    along = np.concatenate([[0.0], np.cumsum(ways)])
    # A fifth of the radius apart, discs leave no scallops that could be seen.
    count = min(48, max(4, math.ceil(along[-1] / (0.2 * path[:, 2].mean()))))
    steps = np.linspace(0.0, along[-1], count)
    return np.stack([np.interp(steps, along, path[:, k]) for k in range(3)], axis=1)


def _oval(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Shape:
    c, s = math.cos(angle), math.sin(angle)
    u, v = rx * _CIRCLE[:, 0], ry * _CIRCLE[:, 1]
    return np.stack([x + c * u - s * v, y + s * u + c * v], axis=1)


def _ragged(outline: Shape, depth: float, rng: Generator) -> Shape:
    """Turn a smooth outline into tufts of fur that stand out by up to `depth`."""
    centre = outline.mean(axis=0)
    reach = 1 + depth * rng.uniform(-0.2, 1.0, len(outline)) * (np.arange(len(outline)) % 2)
    return np.asarray(centre + (outline - centre) * reach[:, None], dtype=np.float64)


class _Frame(NamedTuple):
    """Where a drawing in local units lands on the canvas: turned, scaled, mirrored, moved."""

    x: float
    y: float
    scale: float
    angle: float = 0.0
    mirror: float = 1.0

    def __call__(self, shape: Shape) -> Shape:
        c, s = self.scale * math.cos(self.angle), self.scale * math.sin(self.angle)
        u, v = self.mirror * shape[:, 0], shape[:, 1]
        columns = [self.x + c * u - s * v, self.y + s * u + c * v]
        if shape.shape[1] == 3:
            columns.append(self.scale * shape[:, 2])
        return np.stack(columns, axis=1)


# --- Colours --------------------------------------------------------------------------------------


def _mix(a: Colour, b: Colour, share: float) -> Colour:
    r, g, b_ = (round(p + share * (q - p)) for p, q in zip(a, b, strict=True))
    return r, g, b_


def _jitter(rng: Generator, colour: Colour, width: float) -> Colour:
    light = rng.uniform(-width, width)
    r, g, b = (min(255, max(0, round(c + light + rng.uniform(-width, width) / 2))) for c in colour)
    return r, g, b


def _any_colour(rng: Generator) -> Colour:
    """Half the time a coat colour, so that scene and animal share their colours."""
    if rng.random() < 0.5:
        return _jitter(rng, COATS[rng.integers(len(COATS))], 22)
    r, g, b = (int(c) for c in rng.integers(40, 240, 3))
    grey = (r + g + b) // 3
    return _mix((r, g, b), (grey, grey, grey), rng.uniform(0.1, 0.8))


# --- The animal: what tells the species apart, and what does not -----------------------------------


@dataclass(frozen=True)
class Traits:
    """What a species is known by. Lengths in head radii."""

    ears: str  # upright, folded or hanging
    ear_length: float
    ear_width: float
    ear_round: float
    head_width: float
    cheeks: float
    muzzle: float  # how far it reaches beyond the face
    muzzle_width: float
    nose: float
    eye: float
    pupil: float  # its width over its height: 1 is round
    whiskers: float
    tail: str  # thin, bushy, curl or stub
    legs: float
    chest: float
    tongue: bool


def _pick(rng: Generator, **odds: float) -> str:
    return str(rng.choice(list(odds), p=list(odds.values())))


def _cat(rng: Generator) -> Traits:
    return Traits(
        ears=_pick(rng, upright=0.96, folded=0.04, hanging=0.0),
        ear_length=rng.uniform(0.65, 1.0),
        ear_width=rng.uniform(0.8, 1.15),
        ear_round=rng.uniform(0.04, 0.2),
        head_width=rng.uniform(1.0, 1.2),
        cheeks=rng.uniform(0.0, 0.22),
        muzzle=rng.uniform(0.03, 0.18),
        muzzle_width=rng.uniform(0.22, 0.3),
        nose=rng.uniform(0.08, 0.13),
        eye=rng.uniform(0.22, 0.32),
        pupil=rng.uniform(0.15, 0.75),
        whiskers=rng.uniform(0.7, 1.2) * (rng.random() < 0.9),
        tail=_pick(rng, thin=0.86, bushy=0.12, stub=0.02),
        legs=rng.uniform(1.1, 1.7),
        chest=rng.uniform(0.72, 0.92),
        tongue=bool(rng.random() < 0.04),
    )


def _dog(rng: Generator) -> Traits:
    ears = _pick(rng, upright=0.15, folded=0.18, hanging=0.67)
    return Traits(
        ears=ears,
        ear_length=rng.uniform(0.6, 1.1),
        ear_width=rng.uniform(0.65, 1.0),
        ear_round=rng.uniform(0.08, 0.3),
        head_width=rng.uniform(0.86, 1.08),
        cheeks=rng.uniform(0.0, 0.12),
        muzzle=rng.uniform(0.5 if ears == "upright" else 0.36, 0.95),
        muzzle_width=rng.uniform(0.34, 0.46),
        nose=rng.uniform(0.17, 0.26),
        eye=rng.uniform(0.14, 0.22),
        pupil=1.0,
        whiskers=rng.uniform(0.2, 0.4) * (rng.random() < 0.05),
        tail=_pick(rng, thin=0.25, bushy=0.4, curl=0.2, stub=0.15),
        legs=rng.uniform(1.2, 2.2),
        chest=rng.uniform(0.78, 1.02),
        tongue=bool(rng.random() < 0.33),
    )


@dataclass(frozen=True)
class Coat:
    base: Colour
    second: Colour
    line: Colour
    pattern: str  # plain, stripes, spots, patches or saddle
    fluffy: float
    face: str  # plain, mask, blaze or patch
    pale_muzzle: bool
    pale_chest: bool
    socks: bool
    dark_ears: bool
    tail_tip: bool


def _coat(rng: Generator) -> Coat:
    base = _jitter(rng, COATS[rng.integers(len(COATS))], 16)
    other = COATS[rng.integers(len(COATS))] if rng.random() < 0.5 else WHITE
    second = _jitter(rng, other, 10)
    if sum(abs(p - q) for p, q in zip(base, second, strict=True)) < 110:
        second = _mix(base, BLACK if sum(base) > 330 else WHITE, 0.6)
    return Coat(
        base=base,
        second=second,
        line=_mix(base, BLACK, rng.uniform(0.55, 0.95)),
        pattern=_pick(rng, plain=0.28, stripes=0.24, spots=0.14, patches=0.18, saddle=0.16),
        fluffy=rng.uniform(0.03, 0.1) * (rng.random() < 0.4),
        face=_pick(rng, plain=0.5, mask=0.16, blaze=0.17, patch=0.17),
        pale_muzzle=bool(rng.random() < 0.45),
        pale_chest=bool(rng.random() < 0.4),
        socks=bool(rng.random() < 0.35),
        dark_ears=bool(rng.random() < 0.3),
        tail_tip=bool(rng.random() < 0.3),
    )


@dataclass(frozen=True)
class Part:
    """Shapes that are filled together: one outline runs round their union."""

    shapes: Sequence[Shape]
    paint: str | Colour  # "body" and "head" stand for the coat with its markings
    outline: bool = True
    shade: float = 0.0  # 0 is none, 1 is black
    volume: bool = field(default=False)  # darker on the side away from the light


# --- The head: features on a ball that turns --------------------------------------------------------


class _Ball:
    """A head as a ball of radius 1: x to its left, y down, z to where it looks."""

    def __init__(self, yaw: float, pitch: float) -> None:
        self.sin_yaw, self.cos_yaw = math.sin(yaw), math.cos(yaw)
        self.sin_pitch, self.cos_pitch = math.sin(pitch), math.cos(pitch)

    def turn(self, points: Shape) -> Shape:
        """Turn (n, 3) points; the third column is then the depth towards the viewer."""
        x, y, z = points.T
        x, z = x * self.cos_yaw + z * self.sin_yaw, z * self.cos_yaw - x * self.sin_yaw
        y, z = y * self.cos_pitch + z * self.sin_pitch, z * self.cos_pitch - y * self.sin_pitch
        return np.stack([x, y, z], axis=1)

    def flat(self, *points: Sequence[float]) -> Shape:
        return self.turn(_shape(*points))[:, :2]

    def depth(self, *point: float) -> float:
        return float(self.turn(_shape(point))[0, 2])

    def chain(self, *points: Sequence[float]) -> Shape:
        """A ribbon through (x, y, z, radius)."""
        flat = self.flat(*(point[:3] for point in points))
        radii = (point[3] for point in points)
        return _ribbon(*((x, y, r) for (x, y), r in zip(flat.tolist(), radii, strict=True)))

    def disc(self, centre: Sequence[float], rx: float, ry: float, lean: float = 0.0) -> Shape:
        """An oval that lies on the ball's surface at `centre`."""
        x, y, z = centre
        across = math.hypot(x, z)
        length = math.hypot(across, y)
        u = np.array([z / across, 0.0, -x / across])
        v = np.array([-x * y / across, across, -z * y / across]) / length
        oval = _oval(0.0, 0.0, rx, ry, lean)
        return self.turn(_shape(centre) + oval[:, :1] * u + oval[:, 1:] * v)[:, :2]


def _ear(
    t: Traits, coat: Coat, ball: _Ball, side: int, flare: float
) -> tuple[list[Part], list[Part]]:
    """What of one ear is behind the head and what before it.

    Side is -1 or 1; flare turns an upright ear outwards.
    """
    paint: str | Colour = coat.second if coat.dark_ears else "head"
    inside = _mix(PINK, coat.base, 0.35)
    w, h, s = t.ear_width, t.ear_length, side * t.head_width
    if t.ears == "hanging":
        flap = ball.flat(
            (s * 0.45, -0.92, 0.15),
            (s * 0.85, -0.8, -0.2),
            (s * (1.05 + 0.1 * w), -0.2, -0.3),
            (s * (1.0 + 0.25 * w), -0.35 + h, -0.1),
            (s * (0.85 + 0.1 * w), -0.1 + h * 1.15, 0.15),
            (s * (1.05 - 0.35 * w), -0.2 + h * 0.8, 0.35),
            (s * 0.74, -0.3, 0.35),
        )
        return [], [Part([_smooth(flap, 2)], paint, shade=0.12, volume=True)]
    inner = (s * (0.62 - 0.4 * w), -0.86, 0.12)
    outer = (s * (0.62 + 0.34 * w), -0.42, 0.05)
    back = (s * 0.6, -0.6, -0.5 * w)
    tip = (s * (0.66 + 0.3 * flare), -0.8 - h, -0.05)
    if t.ears == "folded":
        crease = 0.45
        a, b, c = (tuple(p + crease * (q - p) for p, q in zip(at, tip, strict=True))
                   for at in (inner, outer, back))  # fmt: skip
        stump = [_rounded(ball.flat(inner, a, b, outer), 0.1),
                 _rounded(ball.flat(outer, b, c, back), 0.1)]  # fmt: skip
        drop = (s * (0.72 + 0.25 * w), -0.62 - 0.1 * h, 0.55)
        flap = _rounded(ball.flat(a, b, drop), 0.22)
        return [Part(stump, paint)], [Part([flap], paint, shade=0.22)]
    cone = [(inner, outer, tip), (outer, back, tip), (back, inner, tip)]
    parts = [Part([_rounded(ball.flat(*c), t.ear_round) for c in cone], paint, volume=True)]
    if ball.depth(s * 0.3, -0.2, 1.0) > 0.2:
        middle = np.mean(_shape(inner, outer, tip), axis=0)
        hollow = middle + 0.62 * (_shape(inner, outer, tip) - middle)
        parts.append(Part([_rounded(ball.turn(hollow)[:, :2], t.ear_round)], inside, False))
    return parts, []


def _eye(
    t: Traits, coat: Coat, ball: _Ball, side: int, iris: Colour | None, shut: bool, lean: float
) -> list[Part]:
    x, y, z = side * 0.43 * t.head_width, -0.1 - 0.12 * min(1.0, 2 * t.muzzle), 0.86
    if ball.depth(x, y, z) < 0.25:
        return []
    r = t.eye
    if shut:
        lid = ball.chain(*((x + side * r * u, y + 0.5 * r * (1 - u * u), z, 0.045)
                           for u in (-1.0, -0.5, 0.0, 0.5, 1.0)))  # fmt: skip
        return [Part([lid], coat.line, False)]
    glint = Part([ball.disc((x - 0.3 * r, y - 0.35 * r, z), 0.24 * r, 0.24 * r)], WHITE, False)
    if iris is None:
        return [Part([ball.disc((x, y, z), 0.62 * r, 0.7 * r)], BLACK, False), glint]
    ball_shape = ball.disc((x, y, z), r, r * 0.86, side * lean)
    pupil = ball.disc((x, y, z), 0.62 * r * t.pupil, 0.7 * r)
    return [Part([ball_shape], iris), Part([pupil], BLACK, False), glint]


def _muzzle(t: Traits, coat: Coat, ball: _Ball, nose: Colour) -> list[Part]:
    pale = coat.second if coat.face == "mask" else _mix(coat.base, WHITE, 0.75)
    paint: str | Colour = pale if coat.pale_muzzle or coat.face == "mask" else "head"
    w, out, n = t.muzzle_width, t.muzzle, t.nose
    front = 0.92 + out
    low = 0.42 + 0.1 * out
    parts: list[Part] = []
    if t.tongue:
        jaw = ball.chain((0, low + 0.12, 0.7, 0.8 * w), (0, low + w + 0.05, front - 0.15, 0.6 * w))
        tongue = ball.chain((0, low + w, front - 0.2, 0.45 * w), (0, low + 1.9 * w, front, 0.4 * w))
        parts += [Part([jaw], _mix(coat.line, TONGUE, 0.25)), Part([tongue], TONGUE)]
    if out > 0.2:
        bridge = ball.chain((0, 0.3, 0.6, 0.85 * w), (0, low - 0.05, front - 0.2, 0.95 * w))
        pads = [ball.chain((s * 0.3 * w, low, 0.7, w), (s * 0.3 * w, low + 0.05, front - 0.25, w))
                for s in (-1, 1)]  # fmt: skip
        parts.append(Part([bridge, *pads], paint, volume=True))
        tip = (0.0, low - 0.75 * w, front - 0.05)
    else:
        chin = ball.chain((0, low + 0.22, 0.78 + out, 0.75 * w))
        pads = [ball.chain((s * 0.8 * w, low, 0.72 + out, w)) for s in (-1, 1)]
        parts.append(Part([chin], paint))
        parts.append(Part(pads, paint, outline=out > 0.08))
        tip = (0.0, low - 0.8 * w, front + 0.05)
    x, y, z = tip
    for s in (-1, 1):
        if ball.depth(s * 0.55, 0.2, 0.8) > 0.1:
            smile = ball.chain(
                (0, y + 0.9 * n, z, 0.03),
                (0, low + 0.45 * w, front, 0.03),
                (s * 0.55 * w, low + 0.85 * w, front - 0.1, 0.03),
                (s * 1.35 * w, low + 0.5 * w, 0.78 + 0.4 * out, 0.025),
            )
            parts.append(Part([smile], coat.line, False))
    if out > 0.2:
        (cx, cy), = ball.flat(tip).tolist()  # fmt: skip
        parts.append(Part([_oval(cx, cy, n * (0.55 + 0.45 * ball.cos_yaw), 0.75 * n)], nose))
        parts.append(Part([_oval(cx - 0.2 * n, cy - 0.3 * n, 0.3 * n, 0.15 * n)], WHITE, False))
    else:
        corners = ball.flat((-n, y - 0.4 * n, z - 0.04), (n, y - 0.4 * n, z - 0.04),
                            (0, y + 0.8 * n, z))  # fmt: skip
        parts.append(Part([_rounded(corners, 0.25)], nose))
    return parts


def _face_marks(t: Traits, coat: Coat, ball: _Ball) -> list[Part]:
    parts = []
    if coat.face == "mask":
        parts.append(Part([ball.disc((0.0, 0.25, 0.9), 0.72, 0.6)], coat.second, False))
    elif coat.face == "blaze":
        blaze = ball.chain((0, -0.9, 0.4, 0.1), (0, -0.4, 0.9, 0.16), (0, 0.3, 0.95, 0.3))
        parts.append(Part([blaze], coat.second, False))
    elif coat.face == "patch" and ball.depth(0.43, -0.12, 0.86) > 0.2:
        disc = ball.disc((0.43 * t.head_width, -0.15, 0.82), 0.42, 0.46)
        parts.append(Part([disc], coat.second, False))
    if coat.pattern == "stripes":
        ink = _mix(coat.base, coat.line, 0.7)
        for x in (-0.3, 0.0, 0.3):
            if ball.depth(x, -0.8, 0.6) > 0.15:
                stripe = ball.chain((x, -0.93, 0.3, 0.08), (0.75 * x, -0.5, 0.82, 0.03))
                parts.append(Part([stripe], ink, False))
        for s in (-1, 1):
            for y in (0.1, 0.35):
                if ball.depth(s * 0.9, y, 0.4) > 0.1:
                    stripe = ball.chain((s * 0.98 * t.head_width, y, 0.1, 0.07),
                                        (s * 0.7, y + 0.05, 0.65, 0.03))  # fmt: skip
                    parts.append(Part([stripe], ink, False))
    return parts


def _head(t: Traits, coat: Coat, rng: Generator, yaw: float, asleep: bool) -> list[Part]:
    ball = _Ball(yaw, rng.uniform(-0.2, 0.3))
    near = 1 if yaw < 0 else -1
    width = t.head_width * abs(ball.cos_yaw) + 1.0 * abs(ball.sin_yaw)
    cheek = width * (1.0 + t.cheeks)
    half = [(0.0, -0.97), (0.55 * width, -0.93), (0.98 * width, -0.45), (1.06 * cheek, 0.12),
            (0.98 * cheek, 0.5), (0.62 * width, 0.9), (0.0, 1.0)]  # fmt: skip
    outline = _smooth(_shape(*half, *((-x, y) for x, y in half[-2:0:-1])))
    if coat.fluffy:
        outline = _ragged(outline, 1.2 * coat.fluffy, rng)

    flare = rng.uniform(-0.4, 0.9)
    ears = {side: _ear(t, coat, ball, side, flare) for side in (-1, 1)}
    dot_eyes = rng.random() < 0.3 and sum(coat.base) > 250
    shut = asleep or rng.random() < 0.05
    hues = [(196, 180, 60), (120, 160, 70), (110, 160, 190), (196, 120, 40), (120, 74, 40)]
    iris = None if dot_eyes else _jitter(rng, hues[rng.integers(len(hues))], 16)
    lean = rng.uniform(0.0, 0.35)
    nose = BLACK if rng.random() < 0.5 else _mix(PINK, coat.line, rng.uniform(0.1, 0.7))

    (far_back, far_front), (near_back, near_front) = ears[-near], ears[near]
    if abs(yaw) > 0.3:
        far_back, far_front = far_back + far_front, []
    parts = far_back + near_back
    parts = [*parts, Part([outline], "head", volume=True), *_face_marks(t, coat, ball)]
    for side in (-near, near):
        parts += _eye(t, coat, ball, side, iris, shut, lean)
    parts += _muzzle(t, coat, ball, nose)
    parts += far_front + near_front
    if t.whiskers:
        paler = WHITE if sum(coat.base) < 420 else BLACK
        ink = _mix(coat.base, paler, rng.uniform(0.5, 1.0))
        for s in (-1, 1):
            for y in (0.28, 0.42, 0.56):
                whisker = ball.chain(
                    (s * 0.3, 0.35 + 0.3 * (y - 0.3), 0.9, 0.03),
                    (s * (0.4 + 0.5 * t.whiskers), y, 0.8, 0.026),
                    (s * (0.5 + t.whiskers), 2.2 * y - 0.5, 0.5, 0.015),
                )
                if ball.depth(s * 0.5, 0.35, 0.9) > 0.2:
                    parts.append(Part([whisker], ink, False))
    return parts


# --- The body: poses around a head at the origin ----------------------------------------------------


def _tail(t: Traits, coat: Coat, rng: Generator, x: float, y: float, up: bool) -> list[Part]:
    """A tail that begins at (x, y) and goes to negative x."""
    lift = rng.uniform(0.5, 1.2) if up else rng.uniform(-0.3, 0.2)
    if t.tail == "stub":
        path = [(x, y, 0.26), (x - 0.4, y - 0.3, 0.2)]
    elif t.tail == "curl":
        path = [(x, y, 0.28), (x - 0.5, y - 0.8, 0.32), (x + 0.2, y - 1.5, 0.3),
                (x + 0.8, y - 0.9, 0.22), (x + 0.45, y - 0.5, 0.14)]  # fmt: skip
    elif t.tail == "bushy":
        path = [(x, y, 0.2), (x - 0.7, y - 0.3 * lift, 0.34), (x - 1.4, y - 1.1 * lift, 0.44),
                (x - 1.8, y - 2.0 * lift, 0.12)]  # fmt: skip
    else:
        w, hook = rng.uniform(0.13, 0.2), rng.uniform(-0.8, 0.9)
        path = [(x, y, 1.2 * w), (x - 0.8, y + 0.1, w), (x - 1.5, y - 0.6 * lift, w),
                (x - 1.4 - 0.3 * hook, y - 1.7 * lift, w), (x - 1.4 - hook, y - 2.3 * lift, 0.8 * w)]  # fmt: skip
    tail = _ribbon(*path)
    parts = [Part([tail], "body", volume=True)]
    if coat.tail_tip and t.tail != "stub":
        parts.append(Part([tail[-len(tail) // 4 :]], coat.second, False))
    return parts


def _leg(
    coat: Coat, x: float, top: float, ground: float, bend: float, w: float, shade: float = 0.0
) -> list[Part]:
    middle = (top + ground) / 2
    leg = _ribbon((x, top, 1.25 * w), (x + bend, middle, w), (x, ground - w, 0.85 * w))
    paw = _oval(x + 0.12, ground - 0.62 * w, 1.3 * w, 0.72 * w)
    paint: str | Colour = coat.second if coat.socks else "body"
    return [Part([leg, paw], "body", shade=shade), Part([paw], paint, False, shade)]


def _portrait(t: Traits, coat: Coat, rng: Generator) -> list[Part]:
    w = rng.uniform(1.0, 1.35)
    half = [(0.5 * w, 0.4), (0.85 * w, 1.3), (1.3 * w, 2.2), (1.45 * w, 4.0), (1.5 * w, 12.0)]
    chest = _smooth(_shape(*half, *((-x, y) for x, y in half[::-1])))
    if coat.fluffy:
        chest = _ragged(chest, coat.fluffy, rng)
    bib = [Part([_oval(0.0, 2.0, 0.5 * w, 0.95)], coat.second, False)] if coat.pale_chest else []
    return [Part([chest], "body", volume=True), *bib]


def _sitting_front(t: Traits, coat: Coat, rng: Generator) -> list[Part]:
    w, ground = t.chest * rng.uniform(1.0, 1.3), 2.4 + t.legs
    trunk = _smooth(_shape((-0.5, 0.5), (-0.9 * w, 1.5), (-1.2 * w, ground - 0.8),
                           (-0.9 * w, ground), (0.9 * w, ground), (1.2 * w, ground - 0.8),
                           (0.9 * w, 1.5), (0.5, 0.5)))  # fmt: skip
    if coat.fluffy:
        trunk = _ragged(trunk, coat.fluffy, rng)
    parts = _tail(t, coat, rng, -0.8 * w, ground - 0.35, up=bool(rng.random() < 0.5))
    parts.append(Part([trunk], "body", volume=True))
    if coat.pale_chest:
        parts.append(Part([_oval(0.0, 1.7, 0.5 * w, 0.95)], coat.second, False))
    for s in (-1, 1):
        parts.append(Part([_oval(s * w, ground - 0.65, 0.5, 0.68)], "body", volume=True))
        parts.append(Part([_oval(s * 1.1 * w, ground - 0.12, 0.42, 0.2)], "body"))
    for s in (-1, 1):
        parts += _leg(coat, s * 0.36 * w, 1.9, ground, 0.03 * s, 0.27)
    return parts


def _sitting_side(t: Traits, coat: Coat, rng: Generator) -> list[Part]:
    ground = 2.3 + t.legs
    hip = -1.5 - 0.3 * rng.random()
    parts = _tail(t, coat, rng, hip - 0.5, ground - 0.35, up=bool(rng.random() < 0.5))
    parts += _leg(coat, 0.15, 1.6, ground, 0.05, 0.26, shade=0.25)
    trunk = _ribbon((-0.1, 0.3, 0.68), (-0.35, 1.4, t.chest), (hip, ground - 1.0, 1.0))
    parts.append(Part([trunk], "body", volume=True))
    if coat.pale_chest:
        parts.append(Part([_oval(0.12, 1.5, 0.3, 0.7, 0.2)], coat.second, False))
    parts += _leg(coat, -0.2, 1.7, ground, 0.06, 0.28)
    parts.append(Part([_oval(hip + 0.1, ground - 0.75, 0.8, 0.75)], "body", volume=True))
    parts.append(Part([_oval(hip + 0.65, ground - 0.17, 0.62, 0.22)], "body"))
    return parts


def _standing(t: Traits, coat: Coat, rng: Generator) -> list[Part]:
    long = rng.uniform(2.3, 3.4)
    drop = rng.uniform(0.7, 1.25)
    back = drop + 0.1
    ground = drop + 0.75 + t.legs
    front, hip = -0.85, -0.85 - long
    parts = _tail(t, coat, rng, hip - 0.45, back - 0.25, up=bool(rng.random() < 0.75))
    step = rng.uniform(0.0, 0.5)
    parts += _leg(coat, front + 0.25 + step, drop + 0.5, ground - 0.12, 0.05, 0.25, shade=0.3)
    parts += _leg(coat, hip + 0.4 - step, drop + 0.5, ground - 0.12, -0.2, 0.26, shade=0.3)
    trunk = _ribbon((front, drop + 0.15, t.chest), ((front + hip) / 2, back + 0.1, 0.88 * t.chest),
                    (hip, back + 0.1, 0.85))  # fmt: skip
    neck = _ribbon((0.0, 0.2, 0.62), (front + 0.1, drop, 0.75))
    parts.append(Part([trunk, neck], "body", volume=True))
    if coat.pale_chest:
        parts.append(Part([_oval(front + 0.55, drop + 0.5, 0.25, 0.5, 0.4)], coat.second, False))
    parts += _leg(coat, front - 0.1 - step / 2, drop + 0.5, ground, 0.06, 0.28)
    parts += _leg(coat, hip - 0.1 + step / 2, drop + 0.45, ground, -0.2, 0.3)
    return parts


def _lying(t: Traits, coat: Coat, rng: Generator) -> list[Part]:
    long, ground = rng.uniform(2.2, 3.2), rng.uniform(1.6, 2.2)
    hip = -0.7 - long
    w = 0.9 * t.chest
    parts = _tail(t, coat, rng, hip - 0.5, ground - 0.3, up=bool(rng.random() < 0.3))
    trunk = _ribbon((0.0, 0.4, 0.6), (-0.7, ground - w, w), (hip, ground - 0.95 * w, 0.95 * w))
    parts.append(Part([_ribbon((-0.3, ground - 0.2, 0.25), (1.2, ground - 0.3, 0.22))], "body",
                      shade=0.25))  # fmt: skip
    parts.append(Part([trunk], "body", volume=True))
    parts.append(Part([_oval(hip + 0.25, ground - 0.65, 0.9, 0.68)], "body", volume=True))
    parts.append(Part([_oval(hip + 1.0, ground - 0.16, 0.6, 0.2)], "body"))
    arm = _ribbon(
        (-0.5, ground - 0.45, 0.36), (0.3, ground - 0.26, 0.27), (0.95, ground - 0.2, 0.22)
    )
    parts.append(Part([arm], "body"))
    if coat.socks:
        parts.append(Part([arm[-len(arm) // 5 :]], coat.second, False))
    return parts


def _curled(t: Traits, coat: Coat, rng: Generator) -> list[Part]:
    heap = _smooth(_shape((0.6, 0.9), (-0.2, -0.3), (-1.6, -0.9), (-3.2, -0.5), (-3.8, 0.6),
                          (-2.6, 1.15), (-0.6, 1.2)))  # fmt: skip
    if coat.fluffy:
        heap = _ragged(heap, 0.7 * coat.fluffy, rng)
    haunch = _oval(-2.5, 0.45, 0.95, 0.72, -0.2)
    wrap = _ribbon((-3.4, 0.8, 0.25), (-2.2, 1.2, 0.24), (-0.9, 1.15, 0.2))
    tail = [Part([wrap], "body", volume=True)] if t.tail != "stub" else []
    paw = _ribbon((-0.9, 1.0, 0.25), (0.7, 1.0, 0.24))
    return [Part([heap], "body", volume=True), Part([haunch], "body", volume=True), *tail,
            Part([paw], "body")]  # fmt: skip


def _animal(t: Traits, coat: Coat, rng: Generator) -> tuple[list[Part], list[Part], str]:
    """Body, head and the name of the pose, all around a head at the origin."""
    poses = {"portrait": _portrait, "front": _sitting_front, "side": _sitting_side,
             "standing": _standing, "lying": _lying, "curled": _curled}  # fmt: skip
    pose = _pick(rng, portrait=0.24, front=0.2, side=0.18, standing=0.2, lying=0.14, curled=0.04)
    facing = {"portrait": 0.0, "front": 0.0, "side": 0.35, "standing": 0.5, "lying": 0.35}
    yaw = float(np.clip(rng.normal(facing.get(pose, 0.2), 0.36), -0.9, 1.3))
    return poses[pose](t, coat, rng), _head(t, coat, rng, yaw, asleep=pose == "curled"), pose


# --- Painting ---------------------------------------------------------------------------------------


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


def _bounds(shapes: Sequence[Shape]) -> tuple[float, float, float, float]:
    least, most = [], []
    for shape in shapes:
        reach = shape[:, 2:] if shape.shape[1] == 3 else 0.0
        least.append((shape[:, :2] - reach).min(axis=0))
        most.append((shape[:, :2] + reach).max(axis=0))
    (left, top), (right, bottom) = np.min(least, axis=0).tolist(), np.max(most, axis=0).tolist()
    return left, top, right, bottom


class _Pen:
    """Paints parts onto a canvas, in the order given."""

    def __init__(self, canvas: Image, coats: Mapping[str, Image], line: Colour, width: float) -> None:
        self.canvas, self.coats, self.line, self.width = canvas, coats, line, width
        self.draw = PIL.ImageDraw.Draw(canvas)

    def paint(self, parts: Sequence[Part], frame: _Frame, volume: float) -> None:
        """Paint parts given in the frame's units; `volume` is how dark their far side gets."""
        for part in parts:
            shapes = [frame(shape) for shape in part.shapes]
            if part.outline and self.width:
                _fill(self.draw, shapes, self.line, self.width)
            if not isinstance(part.paint, str):
                dimmed = _mix(part.paint, BLACK, part.shade)
                _fill(self.draw, shapes, dimmed)
            else:
                shadow = volume if part.volume else 0.0
                self._clothe(shapes, self.coats[part.paint], part.shade, shadow, 0.14 * frame.scale)

    def _clothe(
        self, shapes: Sequence[Shape], coat: Image, shade: float, shadow: float, depth: float
    ) -> None:
        left, top, right, bottom = _bounds(shapes)
        x, y = max(0, math.floor(left)), max(0, math.floor(top))
        box = (x, y, min(_CANVAS, math.ceil(right) + 1), min(_CANVAS, math.ceil(bottom) + 1))
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


def _coat_images(
    coat: Coat, frame: _Frame, box: Sequence[float], pose: str, rng: Generator
) -> dict[str, Image]:
    """The coat with its markings within the animal's box: one for the body, one for the head."""
    head = PIL.Image.new("RGB", (_CANVAS, _CANVAS), coat.base)
    draw = PIL.ImageDraw.Draw(head)
    step = frame.scale

    corner, extent = np.array(box[:2]), np.array(box[2:]) - box[:2]
    area = float(extent[0] * extent[1]) / step**2

    def scatter(count: float) -> list[list[float]]:
        places: list[list[float]] = (corner + extent * rng.random((int(count) + 1, 2))).tolist()
        return places

    tones = [_mix(coat.base, tone, 0.09) for tone in (BLACK, WHITE)]
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
            blob = _CIRCLE[::4] * (step * rng.uniform(0.4, 1.1, (8, 1))) + (x, y)
            draw.polygon(list(map(tuple, _smooth(blob, 2).tolist())), fill=coat.second)
    body = head.copy()
    draw = PIL.ImageDraw.Draw(body)
    if coat.pattern == "stripes":
        ink, gap = _mix(coat.base, coat.line, 0.7), rng.uniform(0.4, 0.7)
        upright = pose in ("standing", "lying", "curled", "side")
        for k in range(-14, 14):
            sway = rng.uniform(-0.2, 0.2, 4)
            w = gap * rng.uniform(0.16, 0.3)
            line = [
                (k * gap + s, v) for s, v in zip(sway.tolist(), (-2.0, 0.5, 2.5, 5.0), strict=True)
            ]
            ribbon = _ribbon(*((u, v, w) if upright else (v - 2.0, u, w) for u, v in line))
            for x, y, r in frame(ribbon).tolist():
                draw.ellipse((x - r, y - r, x + r, y + r), fill=ink)
    elif coat.pattern == "saddle":
        top = rng.uniform(0.9, 1.7)
        wave = [(0.8 * k, top + rng.uniform(-0.25, 0.25)) for k in range(-10, 8)]
        corners = frame(_shape(*wave, (7.0, -9.0), (-9.0, -9.0)))
        draw.polygon(list(map(tuple, corners.tolist())), fill=coat.second)
    return {"head": head, "body": body}


# --- The scene --------------------------------------------------------------------------------------


def _clouds(rng: Generator, cells: int) -> Image:
    """Smooth noise over the canvas, 0 to 255."""
    grid = rng.integers(0, 256, (cells, cells), dtype=np.uint8)
    return PIL.Image.fromarray(grid).resize((_CANVAS, _CANVAS), PIL.Image.Resampling.BICUBIC)


def _ramp(a: Colour, b: Colour, sideways: bool = False) -> Image:
    ramp = PIL.Image.linear_gradient("L").resize((_CANVAS, _CANVAS))
    mask = ramp.transpose(PIL.Image.Transpose.ROTATE_90) if sideways else ramp
    return PIL.Image.composite(
        PIL.Image.new("RGB", ramp.size, b), PIL.Image.new("RGB", ramp.size, a), mask
    )


def _thing(draw: PIL.ImageDraw.ImageDraw, rng: Generator, x: float, y: float, r: float) -> None:
    """A piece of clutter of radius r that stands at (x, y)."""
    colour = _any_colour(rng)
    other = _mix(colour, BLACK if rng.random() < 0.6 else WHITE, rng.uniform(0.25, 0.6))
    kind = rng.integers(8)
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
            draw.ellipse((tip[0] - 0.3 * r, tip[1] - 0.4 * r, tip[0] + 0.3 * r, tip[1] + 0.4 * r),
                         fill=_jitter(rng, (84, 128, 70), 40))  # fmt: skip
        draw.polygon([(x - 0.7 * r, y - r), (x + 0.7 * r, y - r), (x + 0.5 * r, y),
                      (x - 0.5 * r, y)], fill=colour)  # fmt: skip
    elif kind == 3:  # tent, hat or roof: pointed like an ear
        for s in (-0.7, 0.7) if rng.random() < 0.5 else (0.0,):
            draw.polygon([(x + (s - 0.6) * r, y), (x + (s + 0.6) * r, y),
                          (x + (s + rng.uniform(-0.4, 0.4)) * r, y - rng.uniform(1, 2) * r)],
                         fill=colour, outline=other, width=line)  # fmt: skip
    elif kind == 4:  # cushion
        pillow = _smooth(
            _shape((x - r, y), (x + r, y), (x + r, y - 1.3 * r), (x - r, y - 1.3 * r)), 2
        )
        draw.polygon(list(map(tuple, pillow.tolist())), fill=colour, outline=other, width=line)
    elif kind == 5:  # lamp
        draw.line((x, y, x, y - 3 * r), fill=other, width=max(3, round(0.12 * r)))
        draw.polygon([(x - 0.4 * r, y - 3.4 * r), (x + 0.4 * r, y - 3.4 * r), (x + 0.9 * r, y - 2.2 * r),
                      (x - 0.9 * r, y - 2.2 * r)], fill=colour)  # fmt: skip
    elif kind == 6:  # stone, bush or heap: round like a sleeping animal
        bumps = _CIRCLE[::3] * (rng.uniform(0.7, 1.1, (11, 1)) * (1.3 * r, 0.9 * r))
        bush = _smooth(bumps + (x, y - 0.7 * r), 2)
        draw.polygon(list(map(tuple, bush.tolist())), fill=colour, outline=other, width=line)
    else:  # vase with drooping leaves: hanging like an ear
        for s in (-1, 1):
            leaf = _oval(x + 0.7 * s * r, y - 1.4 * r, 0.3 * r, 0.8 * r, -0.4 * s)
            draw.polygon(list(map(tuple, leaf.tolist())), fill=other)
        draw.ellipse(
            (x - 0.6 * r, y - 1.6 * r, x + 0.6 * r, y), fill=colour, outline=other, width=line
        )


def _pattern(draw: PIL.ImageDraw.ImageDraw, rng: Generator, bottom: float, ink: Colour) -> None:
    """Wallpaper or tiles from the top down to `bottom`."""
    gap = rng.uniform(24, 80)
    kind = rng.integers(4)
    size = gap * rng.uniform(0.15, 0.4)
    for i in range(int(_CANVAS / gap) + 1):
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
    wall, floor = _any_colour(rng), _any_colour(rng)
    horizon = _CANVAS * rng.uniform(0.5, 0.78)
    image = _ramp(_mix(wall, WHITE, 0.2), _mix(wall, BLACK, 0.15), sideways=rng.random() < 0.5)
    draw = PIL.ImageDraw.Draw(image)
    if rng.random() < 0.6:
        _pattern(draw, rng, horizon, _mix(wall, _any_colour(rng), rng.uniform(0.15, 0.5)))
    for _ in range(rng.integers(0, 3)):  # windows, pictures, shelves
        x, y = rng.uniform(0, _CANVAS), rng.uniform(0, horizon * 0.6)
        w, h = rng.uniform(50, 150), rng.uniform(40, 150)
        frame, pane = _any_colour(rng), _any_colour(rng)
        draw.rectangle((x, y, x + w, y + h), fill=pane, outline=frame, width=8)
        if rng.random() < 0.6:
            draw.line((x + w / 2, y, x + w / 2, y + h), fill=frame, width=6)
            draw.line((x, y + h / 2, x + w, y + h / 2), fill=frame, width=6)
    draw.rectangle((0, horizon, _CANVAS, _CANVAS), fill=floor)
    draw.rectangle((0, horizon - 8, _CANVAS, horizon), fill=_mix(floor, WHITE, 0.4))
    seam = _mix(floor, BLACK, 0.18)
    if rng.random() < 0.6:
        for k in range(-8, 17):  # boards that run towards the viewer
            draw.line((k * 64, _CANVAS, 256 + (k * 64 - 256) * 0.4, horizon), fill=seam, width=2)
    if rng.random() < 0.5:
        y = (horizon + _CANVAS) / 2
        draw.ellipse((40, y - 50, _CANVAS - 40, y + 60), fill=_any_colour(rng))
    if rng.random() < 0.45:  # a sofa or a table behind
        x, w = rng.uniform(-60, 250), rng.uniform(200, 380)
        top, colour = horizon - rng.uniform(60, 160), _any_colour(rng)
        draw.rounded_rectangle((x, top, x + w, horizon + 50), 26, fill=colour)
        draw.rounded_rectangle(
            (x, top + 60, x + w, horizon + 40), 18, fill=_mix(colour, WHITE, 0.15)
        )
    return image, horizon


def _meadow(rng: Generator) -> tuple[Image, float]:
    horizon = _CANVAS * rng.uniform(0.3, 0.7)
    sky = _jitter(rng, ((160, 196, 226), (236, 206, 180), (186, 190, 198))[rng.integers(3)], 24)
    ground = _jitter(rng, ((110, 146, 74), (160, 150, 92), (214, 198, 160), (226, 230, 236),
                           (104, 96, 70))[rng.integers(5)], 24)  # fmt: skip
    image = _ramp(_mix(sky, WHITE, 0.1), _mix(sky, WHITE, 0.5))
    draw = PIL.ImageDraw.Draw(image)
    for _ in range(rng.integers(0, 4)):
        x, y, r = rng.uniform(0, _CANVAS), rng.uniform(20, horizon), rng.uniform(20, 50)
        for k in range(4):
            draw.ellipse((x + k * r * 0.8, y - r * (k % 2 + 1) / 2, x + k * r * 0.8 + 1.6 * r, y + r / 2),
                         fill=_mix(sky, WHITE, 0.8))  # fmt: skip
    for _ in range(rng.integers(0, 4)):  # hills, pointed and round
        x, w, h = rng.uniform(0, _CANVAS), rng.uniform(80, 260), rng.uniform(40, 170)
        colour = _mix(ground, sky, rng.uniform(0.2, 0.7))
        if rng.random() < 0.5:
            draw.polygon([(x - w, horizon), (x, horizon - h), (x + w, horizon)], fill=colour)
        else:
            draw.ellipse((x - w, horizon - h, x + w, horizon + h), fill=colour)
    for _ in range(rng.integers(0, 5)):  # trees
        x, h = rng.uniform(0, _CANVAS), rng.uniform(60, 190)
        draw.line((x, horizon + 10, x, horizon - 0.6 * h), fill=(92, 70, 54), width=10)
        leaf = _jitter(rng, (84, 116, 66), 34)
        if rng.random() < 0.5:
            draw.polygon([(x - 0.35 * h, horizon - 0.3 * h), (x, horizon - 1.2 * h),
                          (x + 0.35 * h, horizon - 0.3 * h)], fill=leaf)  # fmt: skip
        else:
            draw.ellipse(
                (x - 0.4 * h, horizon - 1.2 * h, x + 0.4 * h, horizon - 0.4 * h), fill=leaf
            )
    draw.rectangle((0, horizon, _CANVAS, _CANVAS), fill=ground)
    if rng.random() < 0.3:
        fence = _any_colour(rng)
        for x in range(-20, _CANVAS, 44):
            draw.polygon([(x, horizon + 30), (x, horizon - 60), (x + 14, horizon - 80),
                          (x + 28, horizon - 60), (x + 28, horizon + 30)], fill=fence)  # fmt: skip
    _blades(draw, rng, horizon, _CANVAS, int(rng.integers(60, 320)), 22.0, ground)
    return image, horizon


def _blades(
    draw: PIL.ImageDraw.ImageDraw, rng: Generator, top: float, bottom: float, count: int,
    height: float, colour: Colour,
) -> None:  # fmt: skip
    tones = [_mix(colour, tone, share) for tone in (BLACK, WHITE) for share in (0.12, 0.25)]
    for k, (x, y, lean, h) in enumerate(rng.random((count, 4)).tolist()):
        x, y, h = x * _CANVAS, top + y * (bottom - top), height * (0.5 + h)
        draw.line((x, y, x + (lean - 0.5) * h, y - h), fill=tones[k % 4], width=3)


def _street(rng: Generator) -> tuple[Image, float]:
    horizon = _CANVAS * rng.uniform(0.55, 0.75)
    image = _ramp(_jitter(rng, (180, 200, 220), 30), (236, 226, 214))
    draw = PIL.ImageDraw.Draw(image)
    x = -40.0
    while x < _CANVAS:
        w, top, wall = rng.uniform(70, 170), rng.uniform(0, 0.6) * horizon, _any_colour(rng)
        draw.rectangle((x, top, x + w, horizon), fill=wall)
        if rng.random() < 0.5:
            draw.polygon([(x - 6, top), (x + w / 2, top - 0.5 * w), (x + w + 6, top)],
                         fill=_any_colour(rng))  # fmt: skip
        pane = _any_colour(rng)
        for i in range(int(w / 44)):
            for j in range(int((horizon - top) / 60)):
                corner = (x + 14 + 44 * i, top + 16 + 60 * j)
                draw.rectangle((*corner, corner[0] + 22, corner[1] + 32), fill=pane)
        x += w
    kerb = _jitter(rng, (150, 146, 142), 40)
    draw.rectangle((0, horizon, _CANVAS, _CANVAS), fill=kerb)
    for k in range(-4, 14):
        draw.line((k * 60, horizon, k * 90 - 120, _CANVAS), fill=_mix(kerb, BLACK, 0.2), width=2)
    return image, horizon


def _studio(rng: Generator) -> tuple[Image, float]:
    image = _ramp(_any_colour(rng), _any_colour(rng), sideways=rng.random() < 0.5)
    draw = PIL.ImageDraw.Draw(image)
    if rng.random() < 0.5:
        _pattern(draw, rng, _CANVAS, _any_colour(rng))
    for _ in range(rng.integers(0, 9)):
        x, y, r = rng.uniform(0, _CANVAS), rng.uniform(0, _CANVAS), rng.uniform(15, 80)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_any_colour(rng))
    return image, _CANVAS * 0.3


def _texture(rng: Generator) -> tuple[Image, float]:
    image = PIL.Image.new("RGB", (_CANVAS, _CANVAS), _any_colour(rng))
    for cells in (5, 14, 60):
        image.paste(_any_colour(rng), None, _clouds(rng, cells).point([v // 2 for v in range(256)]))
    return image, _CANVAS * 0.3


def _scene(rng: Generator, clutter: int) -> Image:
    paint = (_room, _room, _meadow, _meadow, _street, _studio, _texture)[rng.integers(7)]
    image, horizon = paint(rng)
    draw = PIL.ImageDraw.Draw(image)
    for y in sorted(rng.uniform(horizon, _CANVAS * 1.05, clutter).tolist()):
        _thing(draw, rng, rng.uniform(0, _CANVAS), y, rng.uniform(16, 62))
    if rng.random() < 0.35:
        image.paste(_any_colour(rng), None, _clouds(rng, 40).point([v // 6 for v in range(256)]))
    return image.filter(PIL.ImageFilter.BoxBlur(3)) if rng.random() < 0.25 else image


def _foreground(image: Image, rng: Generator, box: Sequence[float], head: Sequence[float]) -> None:
    """Cover part of the animal: its box is (left, top, right, bottom), its head (x, y, radius)."""
    draw = PIL.ImageDraw.Draw(image)
    left, top, right, bottom = box
    x, y, r = head
    kind = _pick(rng, none=0.48, grass=0.17, bars=0.08, thing=0.16, leaves=0.11)
    if kind == "grass":
        line = max(y + 1.0 * r, bottom - rng.uniform(0.1, 0.5) * (bottom - y))
        colour = _jitter(rng, (104, 140, 70), 40)
        _blades(draw, rng, line, max(_CANVAS, line + 1), int(rng.integers(200, 420)), 42.0, colour)
    elif kind == "bars":
        gap, w, colour = rng.uniform(46, 110), rng.uniform(5, 14), _any_colour(rng)
        for k in range(int(_CANVAS / gap) + 1):
            at = (k + 0.3) * gap
            draw.rectangle((at, 0, at + w, _CANVAS), fill=colour)
        if rng.random() < 0.5:
            draw.rectangle((0, y + 1.4 * r, _CANVAS, y + 1.4 * r + w), fill=colour)
    elif kind == "thing":
        for _ in range(rng.integers(1, 3)):
            size, at = rng.uniform(0.12, 0.3) * max(right - left, bottom - top), rng.uniform(left, right)
            if abs(at - x) < 1.5 * r:  # stay below the face: no thing is taller than 3.4 times its size
                size = min(size, (bottom - y - 0.5 * r) / 3.1)
            _thing(draw, rng, at, bottom + 0.3 * size, size)
    elif kind == "leaves":
        side = 0.0 if rng.random() < 0.5 else float(_CANVAS)
        colour = _jitter(rng, (88, 124, 70), 40)
        for _ in range(rng.integers(5, 14)):
            px, py = side + rng.normal(0, 90), rng.uniform(0, _CANVAS)
            if math.hypot(px - x, py - y) > 1.1 * r:
                leaf = _oval(
                    px, py, rng.uniform(30, 60), rng.uniform(10, 20), rng.uniform(-1.5, 1.5)
                )
                draw.polygon(list(map(tuple, leaf.tolist())), fill=_jitter(rng, colour, 20))


# --- Light and camera -------------------------------------------------------------------------------


def _expose(picture: Image, rng: Generator) -> Image:
    """Light, colour cast, haze, gamma, blur and sensor noise, on the picture at its final size."""
    along = np.linspace(-1, 1, SIZE, dtype=np.float32)
    slope_x, slope_y = rng.uniform(-0.3, 0.3, 2).astype(np.float32)
    shade = 1 + slope_x * along[None, :] + slope_y * along[:, None]
    if rng.random() < 0.1:  # blinds
        gap, lean = rng.uniform(18, 50), rng.uniform(-0.6, 0.6)
        rows = (np.arange(SIZE)[:, None] + lean * np.arange(SIZE)[None, :]) % gap
        shade *= np.where(rows < gap * 0.45, np.float32(rng.uniform(0.6, 0.85)), np.float32(1))
    if rng.random() < 0.3:  # vignette
        shade *= 1 - np.float32(0.25) * (along[None, :] ** 2 + along[:, None] ** 2)
    peak = float(shade.max())
    light = PIL.Image.fromarray(np.rint(shade * np.float32(255 / peak)).astype(np.uint8))
    picture = PIL.ImageChops.multiply(picture, PIL.Image.merge("RGB", (light, light, light)))

    haze = rng.uniform(0.1, 0.4) if rng.random() < 0.3 else 0.0
    veil, gain = rng.uniform(60, 200), rng.uniform(0.75, 1.2) * peak
    gamma = math.exp(rng.uniform(-0.35, 0.35))
    curve = []
    for cast in rng.uniform(0.86, 1.14, 3).tolist():
        levels = (min(255.0, (1 - haze) * cast * gain * v + haze * veil) for v in range(256))
        curve += [round(255 * (level / 255) ** gamma) for level in levels]
    picture = picture.point(curve)
    if rng.random() < 0.06:
        picture = picture.convert("L").convert("RGB")
    blur = rng.uniform(0.0, 1.2)
    if blur > 0.4:
        picture = picture.filter(PIL.ImageFilter.BoxBlur(blur))
    # Two bytes added make triangular noise: in whole numbers, so the same on every machine.
    dice = rng.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8).astype(np.int16)
    noise = (dice[0] + dice[1] - 255) * np.int16(rng.integers(4, 29)) // 256
    noisy = np.clip(np.asarray(picture) + noise, 0, 255)
    return PIL.Image.fromarray(noisy.astype(np.uint8))


# --- Pictures and folders ---------------------------------------------------------------------------


def _extent(body: Sequence[Part], pose: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the greatest x and y of an animal around its head at the origin."""
    low, high = np.array((-1.2, -1.8)), np.array((1.2, 1.1))
    if pose == "portrait":  # its chest runs out of the picture
        return low, high + (0.0, 1.0)
    left, top, right, bottom = _bounds([shape for part in body for shape in part.shapes])
    return np.minimum(low, (left, top)), np.maximum(high, (right, bottom))


def draw_picture(seed: int, index: int, label: int) -> Image:
    """Draw one picture: RGB, 256 x 256, a pure function of its arguments.

    `label` is 0 for a cat and 1 for a dog. With the same seed and index the other label gives the
    other animal in the same scene, coat, light and camera. Seed and index are 0 or more.
    """
    streams = (default_rng(s) for s in SeedSequence([seed, index]).spawn(6))
    scene_rng, coat_rng, trait_rng, pose_rng, front_rng, camera_rng = streams
    image = _scene(scene_rng, int(scene_rng.integers(1, 7)))

    coat = _coat(coat_rng)
    traits = (_cat, _dog)[label](trait_rng)
    body, head, pose = _animal(traits, coat, pose_rng)
    low, high = _extent(body, pose)
    mirror = -1.0 if front_rng.random() < 0.5 else 1.0
    fill = front_rng.uniform(0.65, 1.1) * _CANVAS
    scale = max(42.0, min(0.25 * _CANVAS, fill / float((high - low).max())))
    size = scale * front_rng.uniform(1.0, 1.2)
    reach = np.array((mirror, 1.0)) * scale
    near, far = np.sort(np.stack([low * reach, high * reach]), axis=0)
    place = -near + (_CANVAS - (far - near)) * front_rng.uniform(0.1, 0.9, 2)
    # A head near the edge would be lost to the centre crop of the usual preprocessing.
    edge = 0.07 * _CANVAS
    least = (edge + 1.3 * size, min(edge + 1.7 * size, 0.6 * _CANVAS))
    most = (_CANVAS - least[0], _CANVAS - edge - 1.1 * size)
    x, y = np.clip(place, least, most).tolist()
    frame = _Frame(x, y, scale, front_rng.uniform(-0.06, 0.06), mirror)
    left, top, right, ground = (*(place * 0 + (x, y) + near), *((x, y) + far))
    box = (float(left), float(top), float(right), float(ground))
    if pose != "portrait":
        thick = 0.35 * scale
        shadow = PIL.Image.new("L", (math.ceil(box[2] - box[0]) + 40, math.ceil(2 * thick) + 40))
        PIL.ImageDraw.Draw(shadow).ellipse(
            (20, 20, shadow.width - 20, shadow.height - 20), fill=int(front_rng.integers(50, 150))
        )
        shadow = shadow.filter(PIL.ImageFilter.BoxBlur(6))
        image.paste(BLACK, (round(box[0]) - 20, round(ground - thick) - 20), shadow)

    width = float(front_rng.choice([0.0, 2.0, 3.0, 4.0])) * (0.6 + scale / 120)
    pen = _Pen(image, _coat_images(coat, frame, box, pose, coat_rng), coat.line, width)
    volume = front_rng.uniform(0.0, 0.35)
    pen.paint(body, frame, volume)
    tilt = float(front_rng.normal(0.0, 0.16))
    pen.paint(head, _Frame(x, y, size, frame.angle + tilt, mirror), volume)
    _foreground(image, front_rng, box, (x, y, size))
    return _expose(image.reduce(2), camera_rng)
