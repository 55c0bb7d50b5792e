"""The sheet of samples: one row a class, drawn from the training pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tlkit.data.images import UnreadablePicture
from tlkit.data.manifest import Manifest, Picture
from tlkit.data.sheets import samples_sheet


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    classes = tuple(f"class $ {index}" for index in range(12))
    pictures = []
    for label in range(len(classes)):
        for split in ("train", "val", "test"):
            path = f"{split}-{label}.png"
            Image.new("RGB", (30, 20), (20 * label, 0, 0)).save(tmp_path / path)
            pictures.append(Picture(path, label, split, f"{label:064x}"))
    return Manifest(tmp_path, classes, tuple(pictures))


def test_each_class_has_a_row_and_the_title_says_what_is_hidden(manifest: Manifest) -> None:
    asked: list[tuple[str, int]] = []

    def augmented(image: Image.Image, sha256: str, view: int) -> Image.Image:
        asked.append((sha256, view))
        return image

    figure = samples_sheet(manifest, lambda image: image, augmented, max_pixels=600)
    labels = [axis.get_ylabel() for axis in figure.axes if axis.get_ylabel()]
    assert labels == list(manifest.classes[:10])
    assert "the first 10 of 12 classes" in figure.get_suptitle()
    assert asked == [(f"{label:064x}", view) for label in range(10) for view in (0, 1)]
    figure.canvas.draw()
    assert np.asarray(figure.canvas.buffer_rgba()).std() > 0


def test_pictures_are_read_up_to_the_limit_of_the_audit(manifest: Manifest) -> None:
    with pytest.raises(UnreadablePicture, match="30x20 is over the limit of 599 pixels"):
        samples_sheet(manifest, lambda image: image, lambda image, *_: image, max_pixels=599)
