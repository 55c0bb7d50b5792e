"""Light and camera."""

import math

import numpy as np
import PIL.Image
import PIL.ImageChops
import PIL.ImageFilter
from numpy.random import Generator
from PIL.Image import Image

from tlkit.data.cartoons.painting import SIZE


def expose(picture: Image, rng: Generator) -> Image:
    """Light, colour cast, haze, gamma, blur and sensor noise, on the picture at its final size."""
    along = np.linspace(-1, 1, SIZE, dtype=np.float32)
    slope_x, slope_y = rng.uniform(-0.3, 0.3, 2).astype(np.float32)
    shade = 1 + slope_x * along[None, :] + slope_y * along[:, None]
    if rng.random() < 0.08:  # blinds
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
    blur = rng.uniform(0.0, 1.1)
    if blur > 0.4:
        picture = picture.filter(PIL.ImageFilter.BoxBlur(blur))
    # Two bytes added make triangular noise: in whole numbers, so the same on every machine.
    dice = rng.integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8).astype(np.int16)
    noise = (dice[0] + dice[1] - 255) * np.int16(rng.integers(4, 25)) // 256
    noisy = np.clip(np.asarray(picture) + noise, 0, 255)
    return PIL.Image.fromarray(noisy.astype(np.uint8))
