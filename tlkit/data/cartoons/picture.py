"""One picture, from its seed, index and class."""

import math
from collections.abc import Sequence

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
from numpy.random import SeedSequence, default_rng
from numpy.typing import NDArray
from PIL.Image import Image

from tlkit.data.cartoons.animals import Part, cat_traits, dog_traits, new_coat
from tlkit.data.cartoons.bodies import animal_parts
from tlkit.data.cartoons.camera import expose
from tlkit.data.cartoons.colours import BLACK
from tlkit.data.cartoons.painting import CANVAS, Pen, bounds_of, coat_images
from tlkit.data.cartoons.scenes import cover, new_scene
from tlkit.data.cartoons.shapes import Frame


def _extent(body: Sequence[Part], pose: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The least and the greatest x and y of an animal around its head at the origin."""
    low, high = np.array((-1.2, -1.8)), np.array((1.2, 1.1))
    if pose == "portrait":  # its chest runs out of the picture
        return low, np.add(high, (0.0, 1.0))
    left, top, right, bottom = bounds_of([shape for part in body for shape in part.shapes])
    return np.minimum(low, (left, top)), np.maximum(high, (right, bottom))


def draw_picture(seed: int, index: int, label: int) -> Image:
    """Draw one picture: RGB, 256 x 256, a pure function of its arguments.

    `label` is 0 for a cat and 1 for a dog. With the same seed and index the other label gives the
    other animal in the same scene, coat, light and camera. Seed and index are 0 or more.
    """
    streams = (default_rng(s) for s in SeedSequence([seed, index]).spawn(6))
    scene_rng, coat_rng, trait_rng, pose_rng, front_rng, camera_rng = streams
    image = new_scene(scene_rng, int(scene_rng.integers(2, 9)))

    coat = new_coat(coat_rng)
    traits = (cat_traits, dog_traits)[label](trait_rng)
    body, head, pose = animal_parts(traits, coat, pose_rng)
    low, high = _extent(body, pose)
    mirror = -1.0 if front_rng.random() < 0.5 else 1.0
    fill = front_rng.uniform(0.65, 1.1) * CANVAS
    scale = max(44.0, min(0.25 * CANVAS, fill / float((high - low).max())))
    size = scale * front_rng.uniform(1.0, 1.2)
    reach = np.array((mirror, 1.0)) * scale
    near, far = np.sort(np.stack([low * reach, high * reach]), axis=0)
    place = -near + (CANVAS - (far - near)) * front_rng.uniform(0.1, 0.9, 2)
    # A head near the edge would be lost to the centre crop of the usual preprocessing.
    edge = 0.07 * CANVAS
    least = (edge + 1.3 * size, min(edge + 1.7 * size, 0.6 * CANVAS))
    most = (CANVAS - least[0], CANVAS - edge - 1.1 * size)
    x, y = np.clip(place, least, most).tolist()
    frame = Frame(x, y, scale, front_rng.uniform(-0.06, 0.06), mirror)
    box = (x + float(near[0]), y + float(near[1]), x + float(far[0]), y + float(far[1]))
    ground = box[3]
    if pose != "portrait":
        thick = 0.35 * scale
        shadow = PIL.Image.new("L", (math.ceil(box[2] - box[0]) + 40, math.ceil(2 * thick) + 40))
        PIL.ImageDraw.Draw(shadow).ellipse(
            (20, 20, shadow.width - 20, shadow.height - 20), fill=int(front_rng.integers(50, 150))
        )
        shadow = shadow.filter(PIL.ImageFilter.BoxBlur(6))
        image.paste(BLACK, (round(box[0]) - 20, round(ground - thick) - 20), shadow)

    width = float(front_rng.choice([0.0, 2.0, 3.0, 4.0])) * (0.6 + scale / 120)
    pen = Pen(image, coat_images(coat, frame, box, pose, coat_rng), coat.line, width)
    volume = front_rng.uniform(0.0, 0.35)
    pen.paint(body, frame, volume)
    tilt = float(front_rng.normal(0.0, 0.16))
    pen.paint(head, Frame(x, y, size, frame.angle + tilt, mirror), volume)
    cover(image, front_rng, box, (x, y, size))
    return expose(image.reduce(2), camera_rng)
