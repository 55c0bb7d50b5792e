"""What tells the species apart, and what does not."""

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.random import Generator

from tlkit.data.cartoons.colours import BLACK, COATS, WHITE, Colour, jitter, mix
from tlkit.data.cartoons.shapes import Shape


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


def pick(rng: Generator, **odds: float) -> str:
    return str(rng.choice(list(odds), p=list(odds.values())))


def cat_traits(rng: Generator) -> Traits:
    return Traits(
        ears=pick(rng, upright=0.98, folded=0.02, hanging=0.0),
        ear_length=rng.uniform(0.65, 1.0),
        ear_width=rng.uniform(0.8, 1.15),
        ear_round=rng.uniform(0.04, 0.2),
        head_width=rng.uniform(1.0, 1.2),
        cheeks=rng.uniform(0.0, 0.22),
        muzzle=rng.uniform(0.03, 0.18),
        muzzle_width=rng.uniform(0.22, 0.3),
        nose=rng.uniform(0.08, 0.13),
        eye=rng.uniform(0.2, 0.31),
        pupil=rng.uniform(0.15, 0.8),
        whiskers=rng.uniform(0.65, 1.15) * (rng.random() < 0.85),
        tail=pick(rng, thin=0.86, bushy=0.12, stub=0.02),
        legs=rng.uniform(1.1, 1.7),
        chest=rng.uniform(0.72, 0.92),
        tongue=bool(rng.random() < 0.06),
    )


def dog_traits(rng: Generator) -> Traits:
    ears = pick(rng, upright=0.12, folded=0.16, hanging=0.72)
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
        eye=rng.uniform(0.14, 0.23),
        pupil=1.0,
        whiskers=rng.uniform(0.2, 0.4) * (rng.random() < 0.06),
        tail=pick(rng, thin=0.25, bushy=0.4, curl=0.2, stub=0.15),
        legs=rng.uniform(1.2, 2.2),
        chest=rng.uniform(0.78, 1.02),
        tongue=bool(rng.random() < 0.25),
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


def new_coat(rng: Generator) -> Coat:
    base = jitter(rng, COATS[rng.integers(len(COATS))], 16)
    other = COATS[rng.integers(len(COATS))] if rng.random() < 0.5 else WHITE
    second = jitter(rng, other, 10)
    if sum(abs(p - q) for p, q in zip(base, second, strict=True)) < 110:
        second = mix(base, BLACK if sum(base) > 330 else WHITE, 0.6)
    return Coat(
        base=base,
        second=second,
        line=mix(base, BLACK, rng.uniform(0.55, 0.95)),
        pattern=pick(rng, plain=0.28, stripes=0.24, spots=0.14, patches=0.18, saddle=0.16),
        fluffy=rng.uniform(0.03, 0.1) * (rng.random() < 0.4),
        face=pick(rng, plain=0.5, mask=0.16, blaze=0.17, patch=0.17),
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
    volume: bool = False  # darker on the side away from the light
