"""The body: poses around a head at the origin."""

import numpy as np
from numpy.random import Generator

from tlkit.data.cartoons.animals import Coat, Part, Traits, pick
from tlkit.data.cartoons.colours import Colour
from tlkit.data.cartoons.heads import head_parts
from tlkit.data.cartoons.shapes import closed_shape, oval_shape, ragged, ribbon_shape, smooth


def _tail(t: Traits, coat: Coat, rng: Generator, x: float, y: float, up: bool) -> list[Part]:
    """A tail that begins at (x, y) and goes to negative x."""
    lift = rng.uniform(0.5, 1.2) if up else rng.uniform(-0.3, 0.2)
    if t.tail == "stub":
        path = [(x, y, 0.26), (x - 0.4, y - 0.3, 0.2)]
    elif t.tail == "curl":
        path = [
            (x, y, 0.28),
            (x - 0.5, y - 0.8, 0.32),
            (x + 0.2, y - 1.5, 0.3),
            (x + 0.8, y - 0.9, 0.22),
            (x + 0.45, y - 0.5, 0.14),
        ]
    elif t.tail == "bushy":
        path = [
            (x, y, 0.2),
            (x - 0.7, y - 0.3 * lift, 0.34),
            (x - 1.4, y - 1.1 * lift, 0.44),
            (x - 1.8, y - 2.0 * lift, 0.12),
        ]
    else:
        w, hook = rng.uniform(0.13, 0.2), rng.uniform(-0.8, 0.9)
        path = [
            (x, y, 1.2 * w),
            (x - 0.8, y + 0.1, w),
            (x - 1.5, y - 0.6 * lift, w),
            (x - 1.4 - 0.3 * hook, y - 1.7 * lift, w),
            (x - 1.4 - hook, y - 2.3 * lift, 0.8 * w),
        ]
    tail = ribbon_shape(*path)
    parts = [Part([tail], "body", volume=True)]
    if coat.tail_tip and t.tail != "stub":
        parts.append(Part([tail[-len(tail) // 4 :]], coat.second, False))
    return parts


def _leg(
    coat: Coat, x: float, top: float, ground: float, bend: float, w: float, shade: float = 0.0
) -> list[Part]:
    middle = (top + ground) / 2
    leg = ribbon_shape((x, top, 1.25 * w), (x + bend, middle, w), (x, ground - w, 0.85 * w))
    paw = oval_shape(x + 0.12, ground - 0.62 * w, 1.3 * w, 0.72 * w)
    paint: str | Colour = coat.second if coat.socks else "body"
    return [Part([leg, paw], "body", shade=shade), Part([paw], paint, False, shade)]


def _portrait(t: Traits, coat: Coat, rng: Generator) -> list[Part]:
    w = rng.uniform(1.0, 1.35)
    half = [(0.5 * w, 0.4), (0.85 * w, 1.3), (1.3 * w, 2.2), (1.45 * w, 4.0), (1.5 * w, 12.0)]
    chest = smooth(closed_shape(*half, *((-x, y) for x, y in half[::-1])))
    if coat.fluffy:
        chest = ragged(chest, coat.fluffy, rng)
    bib = (
        [Part([oval_shape(0.0, 2.0, 0.5 * w, 0.95)], coat.second, False)] if coat.pale_chest else []
    )
    return [Part([chest], "body", volume=True), *bib]


def _sitting_front(t: Traits, coat: Coat, rng: Generator) -> list[Part]:
    w, ground = t.chest * rng.uniform(1.0, 1.3), 2.4 + t.legs
    trunk = smooth(
        closed_shape(
            (-0.5, 0.5),
            (-0.9 * w, 1.5),
            (-1.2 * w, ground - 0.8),
            (-0.9 * w, ground),
            (0.9 * w, ground),
            (1.2 * w, ground - 0.8),
            (0.9 * w, 1.5),
            (0.5, 0.5),
        )
    )
    if coat.fluffy:
        trunk = ragged(trunk, coat.fluffy, rng)
    parts = _tail(t, coat, rng, -0.8 * w, ground - 0.35, up=bool(rng.random() < 0.5))
    parts.append(Part([trunk], "body", volume=True))
    if coat.pale_chest:
        parts.append(Part([oval_shape(0.0, 1.7, 0.5 * w, 0.95)], coat.second, False))
    for s in (-1, 1):
        parts.append(Part([oval_shape(s * w, ground - 0.65, 0.5, 0.68)], "body", volume=True))
        parts.append(Part([oval_shape(s * 1.1 * w, ground - 0.12, 0.42, 0.2)], "body"))
    for s in (-1, 1):
        parts += _leg(coat, s * 0.36 * w, 1.9, ground, 0.03 * s, 0.27)
    return parts


def _sitting_side(t: Traits, coat: Coat, rng: Generator) -> list[Part]:
    ground = 2.3 + t.legs
    hip = -1.5 - 0.3 * rng.random()
    parts = _tail(t, coat, rng, hip - 0.5, ground - 0.35, up=bool(rng.random() < 0.5))
    parts += _leg(coat, 0.15, 1.6, ground, 0.05, 0.26, shade=0.25)
    trunk = ribbon_shape((-0.1, 0.3, 0.68), (-0.35, 1.4, t.chest), (hip, ground - 1.0, 1.0))
    parts.append(Part([trunk], "body", volume=True))
    if coat.pale_chest:
        parts.append(Part([oval_shape(0.12, 1.5, 0.3, 0.7, 0.2)], coat.second, False))
    parts += _leg(coat, -0.2, 1.7, ground, 0.06, 0.28)
    parts.append(Part([oval_shape(hip + 0.1, ground - 0.75, 0.8, 0.75)], "body", volume=True))
    parts.append(Part([oval_shape(hip + 0.65, ground - 0.17, 0.62, 0.22)], "body"))
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
    trunk = ribbon_shape(
        (front, drop + 0.15, t.chest),
        ((front + hip) / 2, back + 0.1, 0.88 * t.chest),
        (hip, back + 0.1, 0.85),
    )
    neck = ribbon_shape((0.0, 0.2, 0.62), (front + 0.1, drop, 0.75))
    parts.append(Part([trunk, neck], "body", volume=True))
    if coat.pale_chest:
        parts.append(
            Part([oval_shape(front + 0.55, drop + 0.5, 0.25, 0.5, 0.4)], coat.second, False)
        )
    parts += _leg(coat, front - 0.1 - step / 2, drop + 0.5, ground, 0.06, 0.28)
    parts += _leg(coat, hip - 0.1 + step / 2, drop + 0.45, ground, -0.2, 0.3)
    return parts


def _lying(t: Traits, coat: Coat, rng: Generator) -> list[Part]:
    long, ground = rng.uniform(2.2, 3.2), rng.uniform(1.6, 2.2)
    hip = -0.7 - long
    w = 0.9 * t.chest
    parts = _tail(t, coat, rng, hip - 0.5, ground - 0.3, up=bool(rng.random() < 0.3))
    trunk = ribbon_shape((0.0, 0.4, 0.6), (-0.7, ground - w, w), (hip, ground - 0.95 * w, 0.95 * w))
    parts.append(
        Part(
            [ribbon_shape((-0.3, ground - 0.2, 0.25), (1.2, ground - 0.3, 0.22))],
            "body",
            shade=0.25,
        )
    )
    parts.append(Part([trunk], "body", volume=True))
    parts.append(Part([oval_shape(hip + 0.25, ground - 0.65, 0.9, 0.68)], "body", volume=True))
    parts.append(Part([oval_shape(hip + 1.0, ground - 0.16, 0.6, 0.2)], "body"))
    arm = ribbon_shape(
        (-0.5, ground - 0.45, 0.36), (0.3, ground - 0.26, 0.27), (0.95, ground - 0.2, 0.22)
    )
    parts.append(Part([arm], "body"))
    if coat.socks:
        parts.append(Part([arm[-len(arm) // 5 :]], coat.second, False))
    return parts


def _curled(t: Traits, coat: Coat, rng: Generator) -> list[Part]:
    heap = smooth(
        closed_shape(
            (0.6, 0.9),
            (-0.2, -0.3),
            (-1.6, -0.9),
            (-3.2, -0.5),
            (-3.8, 0.6),
            (-2.6, 1.15),
            (-0.6, 1.2),
        )
    )
    if coat.fluffy:
        heap = ragged(heap, 0.7 * coat.fluffy, rng)
    haunch = oval_shape(-2.5, 0.45, 0.95, 0.72, -0.2)
    wrap = ribbon_shape((-3.4, 0.8, 0.25), (-2.2, 1.2, 0.24), (-0.9, 1.15, 0.2))
    tail = [Part([wrap], "body", volume=True)] if t.tail != "stub" else []
    paw = ribbon_shape((-0.9, 1.0, 0.25), (0.7, 1.0, 0.24))
    return [
        Part([heap], "body", volume=True),
        Part([haunch], "body", volume=True),
        *tail,
        Part([paw], "body"),
    ]


def animal_parts(t: Traits, coat: Coat, rng: Generator) -> tuple[list[Part], list[Part], str]:
    """Body, head and the name of the pose, all around a head at the origin."""
    poses = {
        "portrait": _portrait,
        "front": _sitting_front,
        "side": _sitting_side,
        "standing": _standing,
        "lying": _lying,
        "curled": _curled,
    }
    pose = pick(rng, portrait=0.24, front=0.2, side=0.18, standing=0.2, lying=0.14, curled=0.04)
    facing = {"portrait": 0.0, "front": 0.0, "side": 0.35, "standing": 0.45, "lying": 0.3}
    yaw = float(np.clip(rng.normal(facing.get(pose, 0.2), 0.34), -0.9, 1.15))
    return poses[pose](t, coat, rng), head_parts(t, coat, rng, yaw, asleep=pose == "curled"), pose
