"""Outlines as polygons, and the frame that places them."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Shape = NDArray[np.float64]
"""(n, 2): the corners of a polygon. (n, 3): x, y and radius of a chain of discs."""


_TURN = [2 * math.pi * k / 32 for k in range(32)]
CIRCLE = np.array([(math.cos(a), math.sin(a)) for a in _TURN])


def closed_shape(*points: Sequence[float]) -> Shape:
    return np.array(points, dtype=np.float64)


def smooth(corners: Shape, rounds: int = 3) -> Shape:
    """Cut the corners of a closed polygon (Chaikin 1974)."""
    for _ in range(rounds):
        after = np.concatenate([corners[1:], corners[:1]])
        cut = np.empty((2 * len(corners), 2))
        cut[0::2] = 0.75 * corners + 0.25 * after
        cut[1::2] = 0.25 * corners + 0.75 * after
        corners = cut
    return corners


def rounded(corners: Shape, share: float) -> Shape:
    """Round each corner off over a share of its two sides: 0 is sharp, 0.5 is all round."""
    before, after = np.roll(corners, 1, axis=0), np.roll(corners, -1, axis=0)
    near = corners + share * (before - corners)
    far = corners + share * (after - corners)
    middle = 0.5 * corners + 0.25 * (near + far)
    return np.stack([near, middle, far], axis=1).reshape(-1, corners.shape[1])


def ribbon_shape(*points: Sequence[float]) -> Shape:
    """A smooth stroke through (x, y, radius), as a dense chain of discs."""
    path = closed_shape(*points)
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


def oval_shape(x: float, y: float, rx: float, ry: float, angle: float = 0.0) -> Shape:
    c, s = math.cos(angle), math.sin(angle)
    u, v = rx * CIRCLE[:, 0], ry * CIRCLE[:, 1]
    return np.stack([x + c * u - s * v, y + s * u + c * v], axis=1)


def ragged(outline: Shape, depth: float, rng: Generator) -> Shape:
    """Turn a smooth outline into tufts of fur that stand out by up to `depth`."""
    centre = outline.mean(axis=0)
    reach = 1 + depth * rng.uniform(-0.2, 1.0, len(outline)) * (np.arange(len(outline)) % 2)
    return np.asarray(centre + (outline - centre) * reach[:, None], dtype=np.float64)


class Frame(NamedTuple):
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
