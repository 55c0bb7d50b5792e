"""The head: features on a ball that turns."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from tlkit.data.cartoons.animals import Coat, Part, Traits
from tlkit.data.cartoons.colours import BLACK, PINK, TONGUE, WHITE, Colour, jitter, mix
from tlkit.data.cartoons.shapes import (
    Shape,
    closed_shape,
    oval_shape,
    ragged,
    ribbon_shape,
    rounded,
    smooth,
)


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
        return self.turn(closed_shape(*points))[:, :2]

    def depth(self, *point: float) -> float:
        return float(self.turn(closed_shape(point))[0, 2])

    def chain(self, *points: Sequence[float]) -> Shape:
        """A ribbon through (x, y, z, radius)."""
        flat = self.flat(*(point[:3] for point in points))
        radii = (point[3] for point in points)
        return ribbon_shape(*((x, y, r) for (x, y), r in zip(flat.tolist(), radii, strict=True)))

    def disc(self, centre: Sequence[float], rx: float, ry: float, lean: float = 0.0) -> Shape:
        """An oval that lies on the ball's surface at `centre`."""
        x, y, z = centre
        across = math.hypot(x, z)
        length = math.hypot(across, y)
        u = np.array([z / across, 0.0, -x / across])
        v = np.array([-x * y / across, across, -z * y / across]) / length
        oval = oval_shape(0.0, 0.0, rx, ry, lean)
        return self.turn(closed_shape(centre) + oval[:, :1] * u + oval[:, 1:] * v)[:, :2]


def _ear(
    t: Traits, coat: Coat, ball: _Ball, side: int, flare: float
) -> tuple[list[Part], list[Part]]:
    """What of one ear is behind the head and what before it.

    Side is -1 or 1; flare turns an upright ear outwards.
    """
    paint: str | Colour = coat.second if coat.dark_ears else "head"
    inside = mix(PINK, coat.base, 0.35)
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
        return [], [Part([smooth(flap, 2)], paint, shade=0.12, volume=True)]
    inner = (s * (0.62 - 0.4 * w), -0.86, 0.12)
    outer = (s * (0.62 + 0.34 * w), -0.42, 0.05)
    back = (s * 0.6, -0.6, -0.5 * w)
    tip = (s * (0.66 + 0.3 * flare), -0.8 - h, -0.05)
    if t.ears == "folded":
        crease = 0.45
        a, b, c = (
            tuple(p + crease * (q - p) for p, q in zip(at, tip, strict=True))
            for at in (inner, outer, back)
        )
        stump = [
            rounded(ball.flat(inner, a, b, outer), 0.1),
            rounded(ball.flat(outer, b, c, back), 0.1),
        ]
        drop = (s * (0.72 + 0.25 * w), -0.62 - 0.1 * h, 0.55)
        flap = rounded(ball.flat(a, b, drop), 0.22)
        return [Part(stump, paint)], [Part([flap], paint, shade=0.22)]
    cone = [(inner, outer, tip), (outer, back, tip), (back, inner, tip)]
    parts = [Part([rounded(ball.flat(*c), t.ear_round) for c in cone], paint, volume=True)]
    if ball.depth(s * 0.3, -0.2, 1.0) > 0.2:
        middle = np.mean(closed_shape(inner, outer, tip), axis=0)
        hollow = middle + 0.62 * (closed_shape(inner, outer, tip) - middle)
        parts.append(Part([rounded(ball.turn(hollow)[:, :2], t.ear_round)], inside, False))
    return parts, []


def _eye(
    t: Traits, coat: Coat, ball: _Ball, side: int, iris: Colour | None, shut: bool, lean: float
) -> list[Part]:
    x, y, z = side * 0.43 * t.head_width, -0.1 - 0.12 * min(1.0, 2 * t.muzzle), 0.86
    if ball.depth(x, y, z) < 0.25:
        return []
    r = t.eye
    if shut:
        lid = ball.chain(
            *(
                (x + side * r * u, y + 0.5 * r * (1 - u * u), z, 0.045)
                for u in (-1.0, -0.5, 0.0, 0.5, 1.0)
            )
        )
        return [Part([lid], coat.line, False)]
    glint = Part([ball.disc((x - 0.3 * r, y - 0.35 * r, z), 0.24 * r, 0.24 * r)], WHITE, False)
    if iris is None:
        return [Part([ball.disc((x, y, z), 0.62 * r, 0.7 * r)], BLACK, False), glint]
    ball_shape = ball.disc((x, y, z), r, r * 0.86, side * lean)
    pupil = ball.disc((x, y, z), 0.62 * r * t.pupil, 0.7 * r)
    return [Part([ball_shape], iris), Part([pupil], BLACK, False), glint]


def _muzzle(t: Traits, coat: Coat, ball: _Ball, nose: Colour) -> list[Part]:
    pale = coat.second if coat.face == "mask" else mix(coat.base, WHITE, 0.75)
    paint: str | Colour = pale if coat.pale_muzzle or coat.face == "mask" else "head"
    w, out, n = t.muzzle_width, t.muzzle, t.nose
    front = 0.92 + out
    low = 0.42 + 0.1 * out
    parts: list[Part] = []
    if t.tongue:
        jaw = ball.chain((0, low + 0.12, 0.7, 0.8 * w), (0, low + w + 0.05, front - 0.15, 0.6 * w))
        tongue = ball.chain((0, low + w, front - 0.2, 0.45 * w), (0, low + 1.9 * w, front, 0.4 * w))
        parts += [Part([jaw], mix(coat.line, TONGUE, 0.25)), Part([tongue], TONGUE)]
    if out > 0.2:
        bridge = ball.chain((0, 0.3, 0.6, 0.85 * w), (0, low - 0.05, front - 0.2, 0.95 * w))
        pads = [
            ball.chain((s * 0.3 * w, low, 0.7, w), (s * 0.3 * w, low + 0.05, front - 0.25, w))
            for s in (-1, 1)
        ]
        parts.append(Part([bridge, *pads], paint, volume=True))
        tip = (0.0, low - 0.75 * w, front - 0.05)
    else:
        chin = ball.chain((0, low + 0.22, 0.78 + out, 0.75 * w))
        pads = [ball.chain((s * 0.8 * w, low, 0.72 + out, w)) for s in (-1, 1)]
        parts.append(Part([chin], paint))
        parts.append(Part(pads, paint, outline=out > 0.08))
        tip = (0.0, low - 0.8 * w, front + 0.05)
    _, y, z = tip
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
        ((cx, cy),) = ball.flat(tip).tolist()
        parts.append(Part([oval_shape(cx, cy, n * (0.55 + 0.45 * ball.cos_yaw), 0.75 * n)], nose))
        parts.append(
            Part([oval_shape(cx - 0.2 * n, cy - 0.3 * n, 0.3 * n, 0.15 * n)], WHITE, False)
        )
    else:
        corners = ball.flat(
            (-n, y - 0.4 * n, z - 0.04), (n, y - 0.4 * n, z - 0.04), (0, y + 0.8 * n, z)
        )
        parts.append(Part([rounded(corners, 0.25)], nose))
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
        ink = mix(coat.base, coat.line, 0.7)
        for x in (-0.3, 0.0, 0.3):
            if ball.depth(x, -0.8, 0.6) > 0.15:
                stripe = ball.chain((x, -0.93, 0.3, 0.08), (0.75 * x, -0.5, 0.82, 0.03))
                parts.append(Part([stripe], ink, False))
        for s in (-1, 1):
            for y in (0.1, 0.35):
                if ball.depth(s * 0.9, y, 0.4) > 0.1:
                    stripe = ball.chain(
                        (s * 0.98 * t.head_width, y, 0.1, 0.07), (s * 0.7, y + 0.05, 0.65, 0.03)
                    )
                    parts.append(Part([stripe], ink, False))
    return parts


def head_parts(t: Traits, coat: Coat, rng: Generator, yaw: float, asleep: bool) -> list[Part]:
    ball = _Ball(yaw, rng.uniform(-0.2, 0.3))
    near = 1 if yaw < 0 else -1
    width = t.head_width * abs(ball.cos_yaw) + 1.0 * abs(ball.sin_yaw)
    cheek = width * (1.0 + t.cheeks)
    half = [
        (0.0, -0.97),
        (0.55 * width, -0.93),
        (0.98 * width, -0.45),
        (1.06 * cheek, 0.12),
        (0.98 * cheek, 0.5),
        (0.62 * width, 0.9),
        (0.0, 1.0),
    ]
    outline = smooth(closed_shape(*half, *((-x, y) for x, y in half[-2:0:-1])))
    if coat.fluffy:
        outline = ragged(outline, 1.2 * coat.fluffy, rng)

    flare = rng.uniform(-0.4, 0.9)
    ears = {side: _ear(t, coat, ball, side, flare) for side in (-1, 1)}
    dot_eyes = rng.random() < 0.3 and sum(coat.base) > 250
    shut = asleep or rng.random() < 0.05
    hues = [(196, 180, 60), (120, 160, 70), (110, 160, 190), (196, 120, 40), (120, 74, 40)]
    iris = None if dot_eyes else jitter(rng, hues[rng.integers(len(hues))], 16)
    lean = rng.uniform(0.0, 0.35)
    nose = BLACK if rng.random() < 0.5 else mix(PINK, coat.line, rng.uniform(0.1, 0.7))

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
        ink = mix(coat.base, paler, rng.uniform(0.5, 1.0))
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
