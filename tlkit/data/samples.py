"""Sample pictures: what the network is shown, before and after augmentation."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from tlkit.data.images import read_picture
from tlkit.data.manifest import Manifest, Picture

MAX_CLASSES = 10
PER_CLASS = 3
MAX_VIEWS = 2


def samples(
    manifest: Manifest,
    plain: Callable[[Image], Image],
    augmented: Callable[[Image, str, int], Image],
    *,
    views: int,
    max_pixels: int,
) -> dict[str, list[list[NDArray[np.uint8]]]]:
    """Training pictures of the first MAX_CLASSES classes, at most PER_CLASS of each, taken at even
    steps: each one plain, then as its first views, at most MAX_VIEWS, uint8 (H, W, 3).

    Args:
        plain: renders an RGB picture as for evaluation.
        augmented: renders view `v` of an RGB picture from its content hash and `v`.
        views: how many are trained on; 0 where pictures are not augmented.
        max_pixels: what the audit let pass.
    """

    def renditions(picture: Picture) -> list[NDArray[np.uint8]]:
        image = read_picture(manifest.root / picture.path, max_pixels)
        numbers = range(min(views, MAX_VIEWS))
        shown = [augmented(image, picture.sha256, view) for view in numbers]
        return [np.asarray(each) for each in (plain(image), *shown)]

    return {
        name: [renditions(picture) for picture in _spread(manifest, name)]
        for name in manifest.classes[:MAX_CLASSES]
    }


def _spread(manifest: Manifest, name: str) -> list[Picture]:
    label = manifest.classes.index(name)
    members = [picture for picture in manifest.of("train") if picture.label == label]
    step = max(1, len(members) // PER_CLASS)
    return members[::step][:PER_CLASS]
