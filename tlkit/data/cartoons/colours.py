"""The palette, and colours drawn from it."""

from numpy.random import Generator

Colour = tuple[int, int, int]
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


def mix(a: Colour, b: Colour, share: float) -> Colour:
    r, g, b_ = (round(p + share * (q - p)) for p, q in zip(a, b, strict=True))
    return r, g, b_


def jitter(rng: Generator, colour: Colour, width: float) -> Colour:
    light = rng.uniform(-width, width)
    r, g, b = (min(255, max(0, round(c + light + rng.uniform(-width, width) / 2))) for c in colour)
    return r, g, b


def any_colour(rng: Generator) -> Colour:
    """Half the time a coat colour, so that scene and animal share their colours."""
    if rng.random() < 0.5:
        return jitter(rng, COATS[rng.integers(len(COATS))], 22)
    r, g, b = (int(c) for c in rng.integers(40, 240, 3))
    grey = (r + g + b) // 3
    return mix((r, g, b), (grey, grey, grey), rng.uniform(0.1, 0.8))
