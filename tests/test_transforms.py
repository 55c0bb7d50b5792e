"""Preprocessing and views: timm's own numbers, and the purity of a view."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision.transforms import v2
from torchvision.transforms.functional import (
    InterpolationMode,
    center_crop,
    pil_to_tensor,
    rotate,
)

from tlkit.data import transforms
from tlkit.data.transforms import (
    AUGMENTATION_REVISION,
    Preprocessing,
    Views,
    _Colours,
    _RotatedCentre,
    _view_seed,
)
from tlkit.models.backbones import create_model, data_config


def picture(seed: int = 0, size: tuple[int, int] = (90, 70)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 10, size[0] // 10, 3))
    return Image.fromarray(pixels.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def preprocessing(name: str = "test_resnet", size: int = 48) -> Preprocessing:
    model = create_model(name, num_classes=2, dropout=0.0, image_size=size)
    return Preprocessing(json.loads(json.dumps(data_config(model))))


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "tf_efficientnet_lite0", "resnet50"])
def test_evaluation_is_timm_own_transform(name: str) -> None:
    config = timm.data.resolve_data_config({}, model=timm.create_model(name))
    expected = create_transform(**config, is_training=False)(picture())
    ours = preprocessing(name, config["input_size"][1])
    assert torch.equal(ours(picture()), expected)


@pytest.mark.parametrize("augment", ["recipe", "trivial"])
def test_a_view_is_a_pure_function_of_seed_view_and_content(augment: str) -> None:
    views = Views(preprocessing(), augment, seed=3)
    torch.manual_seed(1)
    first = views(picture(), "aa", 0)
    views(picture(1), "bb", 5)
    torch.manual_seed(2)
    assert torch.equal(views(picture(), "aa", 0), first)
    others = [
        views(picture(), "aa", 1),
        views(picture(), "ab", 0),
        Views(preprocessing(), augment, seed=4)(picture(), "aa", 0),
    ]
    assert not any(torch.equal(other, first) for other in others)
    # Outputs of views are stored, and found again by these three alone.
    assert _view_seed(3, 0, "aa") == 3_806_187_025_492_833_402
    assert AUGMENTATION_REVISION == 3  # raised when one of them looks different


def test_a_view_leaves_the_global_generator_alone() -> None:
    views = Views(preprocessing(), "recipe", seed=0)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    views(picture(), "aa", 0)
    assert torch.equal(torch.rand(1), expected)


def test_without_augmentation_a_view_is_plain() -> None:
    plain = preprocessing()
    assert torch.equal(Views(plain, "none", seed=0)(picture(), "aa", 7), plain(picture()))
    for augment in ("none", "recipe", "trivial"):
        assert torch.equal(Views(plain, augment, seed=0)(picture(), "aa", None), plain(picture()))


def test_of_threads_that_render_at_once_each_waits_for_the_generator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    locked = []

    def render(rendered: Image.Image) -> Image.Image:
        locked.append(transforms._generator.locked())
        return rendered

    monkeypatch.setitem(transforms._AUGMENTATIONS, "recipe", lambda _: (lambda x: x, render))
    Views(preprocessing(), "recipe", seed=0).picture(picture(), "aa", 0)
    assert locked == [True]
    assert not transforms._generator.locked()


def test_bytes_come_back_whichever_way_they_lie_in_memory() -> None:
    plain = preprocessing()
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    expected = (pixels / 255 - plain._moments[0]) / plain._moments[1]
    for form in (torch.contiguous_format, torch.channels_last):
        found = plain.from_bytes(pixels.contiguous(memory_format=form))
        assert found.is_contiguous(memory_format=form)
        torch.testing.assert_close(found, expected)
        assert torch.equal(plain.to_bytes(found), pixels)


def test_colours_between_two_bytes_become_the_nearer_one() -> None:
    pixels = torch.tensor([0.4, 99.6, 254.6]).view(3, 1, 1).expand(3, 4, 4) / 255
    assert transforms._to_picture(pixels).getpixel((0, 0)) == (0, 100, 255)


def test_what_an_augmentation_brings_in_is_grey() -> None:
    white = Image.new("RGB", (60, 60), "white")
    views = Views(preprocessing(size=60), "trivial", seed=0)
    darkest = [np.asarray(view).min() for view in views.pictures(white, "aa", range(40))]
    assert 128 in darkest


def test_the_recipe_stays_within_its_bounds() -> None:
    # A grey picture, which flips and rotations leave alone: brightness moves it by 10 % at most.
    grey = Image.new("RGB", (90, 90), (120, 120, 120))
    views = Views(preprocessing(), "recipe", seed=0)
    seen = [np.asarray(views.picture(grey, "aa", view))[24, 24] for view in range(60)]
    assert 107 <= min(pixel.min() for pixel in seen) < 115
    assert 125 < max(pixel.max() for pixel in seen) <= 133


@pytest.mark.parametrize("size", [(120, 70), (40, 30)])
def test_a_rotation_is_torchvisions_cropped(size: tuple[int, int]) -> None:
    pixels = pil_to_tensor(picture(size=size)).float() / 255
    rotation, height, width = _RotatedCentre(10, (47, 48)), min(47, size[1]), min(48, size[0])
    for angle in (-10.0, -3.2, 0.0, 7.3):
        # Its fill would not blend with the picture at the edge; zeros do.
        rotated = rotate(pixels - 0.5, angle, InterpolationMode.BILINEAR) + 0.5
        expected = center_crop(rotated, [height, width])
        ours = rotation.transform(pixels, {"angle": angle})
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)


def test_a_view_does_not_depend_on_the_number_of_threads() -> None:
    """A picture large enough for torch to spread a sum over its threads."""
    views = Views(preprocessing(size=320), "recipe", seed=0)
    large, before, seen = picture(size=(500, 400)), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            seen.append([np.asarray(view) for view in views.pictures(large, "aa", range(12))])
    finally:
        torch.set_num_threads(before)
    assert all(np.array_equal(one, other) for one, other in zip(*seen[:2], strict=True))
    assert all(np.array_equal(one, other) for one, other in zip(*seen[1:], strict=True))


def test_colours_are_those_of_torchvision() -> None:
    pixels = pil_to_tensor(picture()).float() / 255
    for seed in range(6):
        changed = []
        for kind in (v2.ColorJitter, _Colours):
            torch.manual_seed(seed)
            changed.append(kind(brightness=0.4, contrast=0.9, saturation=0.4)(pixels))
        torch.testing.assert_close(*changed, rtol=0, atol=1e-6)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_a_view_is_near_what_pillow_makes_of_it(crop_mode: str) -> None:
    # Which rounds down at each step, four times. The picture ends in grey, for at its edge Pillow
    # does not blend with what is beyond.
    wide = Image.new("RGB", (120, 80), (128, 128, 128))
    wide.paste(picture(size=(90, 50)), (15, 15))
    plain = Preprocessing({**preprocessing().config, "crop_mode": crop_mode})
    width, height = plain.resize(wide).size
    by_pillow = v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomRotation(10, InterpolationMode.BILINEAR, fill=128),
            v2.CenterCrop((min(48, height), min(48, width))),
            v2.ColorJitter(brightness=0.1, contrast=0.1, saturation=0.1),
            plain.crop,
        ]
    )
    for view in range(5):
        torch.manual_seed(_view_seed(0, view, "aa"))
        expected = np.asarray(by_pillow(plain.resize(wide))).astype(int)
        ours = np.asarray(Views(plain, "recipe", seed=0).picture(wide, "aa", view)).astype(int)
        assert np.abs(ours - expected).max() <= 4


def test_where_the_crop_pads_colours_leave_the_padding_alone() -> None:
    plain = Preprocessing({**preprocessing().config, "crop_mode": "border"})
    wide = picture(size=(120, 60))
    padding = np.asarray(plain.picture(wide))[0, 0]
    views = Views(plain, "recipe", seed=0)
    for view in range(5):
        assert np.array_equal(np.asarray(views.picture(wide, "aa", view))[0, 0], padding)


def test_the_recipe_flips_about_half_of_the_views() -> None:
    half = Image.new("RGB", (90, 90))
    half.paste((255, 255, 255), (45, 0, 90, 90))
    views = Views(preprocessing(), "recipe", seed=0)
    flipped = [
        np.asarray(views.picture(half, "aa", view))[24, 4].mean() > 128 for view in range(100)
    ]
    assert 30 < sum(flipped) < 70
