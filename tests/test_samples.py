"""Samples of each class, from the training pictures."""

from pathlib import Path

import pytest
from PIL import Image

from tlkit.data.images import UnreadablePicture
from tlkit.data.manifest import Manifest, Picture
from tlkit.data.samples import samples


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


def test_each_class_is_seen_plain_and_in_its_first_views(manifest: Manifest) -> None:
    asked: list[tuple[str, int]] = []

    def augmented(image: Image.Image, sha256: str, view: int) -> Image.Image:
        asked.append((sha256, view))
        return image.rotate(180 + view)

    def plain(image: Image.Image) -> Image.Image:
        return image.resize((15, 10))

    found = samples(manifest, plain, augmented, views=5, max_pixels=600)
    assert list(found) == list(manifest.classes[:10])
    assert asked == [(f"{label:064x}", view) for label in range(10) for view in (0, 1)]
    for label, pictures in enumerate(found.values()):
        ((plain, *views),) = pictures
        assert plain.shape == (10, 15, 3)
        assert (plain[..., 0] == 20 * label).all()
        assert [view.shape for view in views] == [(20, 30, 3)] * 2


def test_pictures_are_read_up_to_the_limit_of_the_audit(manifest: Manifest) -> None:
    with pytest.raises(UnreadablePicture, match="30x20 is over the limit of 599 pixels"):
        samples(manifest, lambda image: image, lambda image, *_: image, views=1, max_pixels=599)


@pytest.mark.parametrize("views", [0, 1])
def test_no_view_is_shown_that_is_not_trained_on(manifest: Manifest, views: int) -> None:
    found = samples(
        manifest, lambda image: image, lambda image, *_: image, views=views, max_pixels=600
    )
    assert {len(renditions) for pictures in found.values() for renditions in pictures} == {
        1 + views
    }
