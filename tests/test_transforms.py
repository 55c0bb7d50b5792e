"""Preprocessing and views: timm's own numbers, and the purity of a view."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torchvision.transforms.functional import InterpolationMode, rotate

from tlkit.data.transforms import Preprocessing, Views, _recipe
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


def test_the_recipe_stays_within_its_bounds() -> None:
    # A grey picture, which flips and rotations leave alone: brightness moves it by 10 % at most.
    grey = Image.new("RGB", (90, 90), (120, 120, 120))
    views = Views(preprocessing(), "recipe", seed=0)
    seen = [np.asarray(views.picture(grey, "aa", view))[24, 24] for view in range(60)]
    assert 107 <= min(pixel.min() for pixel in seen) < 115
    assert 125 < max(pixel.max() for pixel in seen) <= 133


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_a_rotation_is_torchvisions_cropped_as_for_evaluation(crop_mode: str) -> None:
    plain = Preprocessing({**preprocessing().config, "crop_mode": crop_mode})
    [_, rotation, _, crop] = _recipe(plain).transforms
    for angle in (-10.0, -3.2, 0.0, 7.3):
        resized = plain.resize(picture(size=(120, 70)))
        rotated = rotate(resized, angle, InterpolationMode.BILINEAR, fill=128)
        ours = crop(rotation.transform(resized, {"angle": angle}))
        assert np.array_equal(np.asarray(ours), np.asarray(plain.crop(rotated)))


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
