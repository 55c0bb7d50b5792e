"""Backbones: names, sizes, the head, preprocessing, and the layers that Grad-CAM looks at."""

import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn

from tlkit.errors import UserError
from tlkit.models.backbones import create_model, data_config, to_channels_last, undecayed
from tlkit.models.baseline import BaselineCNN
from tlkit.models.units import _any_to_grid, cam_target


def small(backbone: str, image_size: int | None = 64, dropout: float = 0.2) -> nn.Module:
    return create_model(backbone, num_classes=3, dropout=dropout, image_size=image_size)


@pytest.mark.parametrize(
    ("backbone", "near"), [("resnt50", "resnet50"), ("ResNet18", "resnet18"), ("vit_tiny", "vit")]
)
def test_an_unknown_name_is_refused_with_near_names(backbone: str, near: str) -> None:
    with pytest.raises(UserError, match=f"backbone={backbone} is not .*near names: .*{near}"):
        small(backbone)


def test_a_name_like_no_other_is_refused_too() -> None:
    with pytest.raises(UserError, match=r"backbone=xqzzy is not a model .*list_models"):
        small("xqzzy")


def test_an_unknown_tag_is_refused_with_the_tags_there_are() -> None:
    with pytest.raises(UserError, match=r"resnet18\.nonsense .*tags of resnet18: .*a1_in1k"):
        small("resnet18.nonsense")


@pytest.mark.parametrize(
    ("backbone", "names"),
    [
        ("test_vit", {"pos_embed", "cls_token"}),
        ("test_resnet", set()),
        ("swin_tiny_patch4_window7_224", {"layers.0.blocks.0.attn.relative_position_bias_table"}),
    ],
)
def test_what_embeds_positions_is_not_decayed(backbone: str, names: set[str]) -> None:
    model = small(backbone, None)
    found = undecayed(model)
    assert names <= found
    assert bool(found) == bool(names)


def test_a_name_may_carry_its_tag() -> None:
    assert small("test_resnet.r160_in1k")(torch.randn(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize("backbone", ["deit_tiny_distilled_patch16_224", "resnetv2_18"])
def test_a_head_that_is_not_one_linear_layer_is_refused(backbone: str) -> None:
    with pytest.raises(UserError, match=f"backbone={backbone} ends in .*one linear layer"):
        small(backbone, None)


def test_a_head_beside_the_classifier_is_refused() -> None:
    with pytest.raises(UserError, match="backbone=volo_d1_224 has a second head"):
        small("volo_d1_224", None)


@pytest.mark.parametrize(
    ("backbone", "image_size", "allowed"),
    [
        ("test_vit", 100, "multiples of 16"),
        ("swin_tiny_patch4_window7_224", 50, "multiples of 4"),
        ("test_convnext", 8, "multiples of 32"),
        ("test_resnet", 0, r"\(.*\); leave it out for its own size, \d+"),
        ("mvitv2_tiny", 48, "multiples of 32"),
    ],
)
def test_a_size_that_does_not_fit_is_refused(backbone: str, image_size: int, allowed: str) -> None:
    with pytest.raises(UserError, match=f"image_size={image_size} does not fit .*{allowed}"):
        small(backbone, image_size)


def test_patches_that_lie_over_one_another_allow_sizes_that_are_no_multiples() -> None:
    assert small("pvt_v2_b0", 96)(torch.randn(2, 3, 96, 96)).shape == (2, 3)


@pytest.mark.parametrize("backbone", ["test_resnet", "test_convnext", "test_vit"])
def test_dropout_acts_on_the_head_alone(backbone: str) -> None:
    torch.manual_seed(0)
    model = small(backbone, dropout=0.5)
    pictures = torch.randn(4, 3, 64, 64)
    still = model.eval()(pictures)
    assert torch.equal(still, model(pictures))
    classifier = model.get_classifier()  # type: ignore[operator]
    classifier.train()
    assert not torch.equal(model(pictures), model(pictures))
    # The mean over many drops of the same features is what eval mode gives.
    features = torch.randn(1, classifier.in_features)
    mean = classifier(features.expand(50_000, -1)).mean(0)
    torch.testing.assert_close(mean, classifier.eval()(features)[0], atol=0.05, rtol=0.05)


def test_the_state_dict_is_plain_timm() -> None:
    plain = timm.create_model("test_efficientnet", num_classes=3)
    plain.load_state_dict(small("test_efficientnet").state_dict(), strict=True)


@pytest.mark.parametrize(
    ("backbone", "image_size", "expected"),
    [
        ("test_resnet", None, 160),
        ("test_resnet", 96, 96),
        ("test_vit", None, 160),
        ("test_vit", 96, 96),
    ],
)
def test_preprocessing_survives_json_and_honours_the_size(
    backbone: str, image_size: int | None, expected: int
) -> None:
    model = small(backbone, image_size)
    config = json.loads(json.dumps(data_config(model)))
    assert config["input_size"] == [3, expected, expected]
    picture = Image.fromarray(
        np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)
    )
    transform = create_transform(**config, is_training=False)
    pictures: Tensor = transform(picture)[None]
    assert pictures.shape == (1, 3, expected, expected)
    assert model.eval()(pictures).shape == (1, 3)


def test_preprocessing_is_the_backbones_own() -> None:
    config = data_config(small("tf_efficientnet_lite0", None))
    assert config == {
        "input_size": [3, 224, 224],
        "interpolation": "bicubic",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "crop_pct": 0.875,
        "crop_mode": "center",
    }


@pytest.mark.parametrize(
    ("backbone", "channels", "side"),
    [
        ("test_resnet", 96, 2),
        ("test_efficientnet", 256, 2),
        ("tf_efficientnet_lite0", 1280, 2),
        ("mobilenetv3_small_050", 288, 2),
        ("test_convnext", 64, 2),
        ("regnetx_002", 368, 2),
        ("test_vit", 64, 4),
        ("test_vit4", 96, 4),
        ("test_vit2", 64, 4),
        ("swin_tiny_patch4_window7_224", 768, 2),
        ("test_byobnet", 256, 2),
        ("test_mambaout", 64, 2),
        ("test_vit_relpos", 96, 4),
    ],
)
@pytest.mark.parametrize("image_size", [64, 32])
def test_cam_target_gives_a_grid_that_the_logits_depend_on(
    backbone: str, channels: int, side: int, image_size: int
) -> None:
    torch.manual_seed(0)
    model = small(backbone, image_size).eval()
    grid, gradient = _grid_and_gradient(model, image_size)
    expected = max(1, side * image_size // 64)
    assert grid.shape == (2, channels, expected, expected)
    assert gradient.abs().sum() > 0


def _grid_and_gradient(model: nn.Module, image_size: int) -> tuple[Tensor, Tensor]:
    layer, to_grid = cam_target(model)
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    logits = model(torch.randn(2, 3, image_size, image_size))
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), seen)
    return (seen[0], gradient) if to_grid is None else (to_grid(seen[0]), to_grid(gradient))


def test_cam_target_keeps_the_place_of_each_patch() -> None:
    model = small("test_vit", 64)
    _, to_grid = cam_target(model)
    assert to_grid is not None
    tokens = torch.arange(17.0)[None, :, None].expand(1, 17, 2)
    # One class token in front, then the patches row by row.
    assert torch.equal(to_grid(tokens)[0, 1], torch.arange(1.0, 17.0).reshape(4, 4))


def test_cam_target_keeps_rows_and_columns() -> None:
    maps = torch.arange(6.0).view(1, 2, 3, 1)  # (N, H, W, C), as swin has them
    _, to_grid = cam_target(small("small_swin", 64))
    assert to_grid is not None
    assert torch.equal(to_grid(maps)[0, 0], maps[0, :, :, 0])
    # Of a family that is not known the class tokens may join before this layer, or later.
    to_grid = _any_to_grid(2, 1)
    patches = torch.arange(16.0)[None, :, None].expand(1, 16, 2)
    with_token = torch.cat([torch.full((1, 1, 2), -1.0), patches], dim=1)
    for tokens in (patches, with_token):
        assert torch.equal(to_grid(tokens)[0, 1], torch.arange(16.0).reshape(4, 4))
    assert torch.equal(to_grid(torch.zeros(1, 3, 3, 2)), torch.zeros(1, 2, 3, 3))
    assert torch.equal(to_grid(torch.zeros(1, 2, 3, 3)), torch.zeros(1, 2, 3, 3))


def test_cam_target_of_the_baseline_is_its_last_relu() -> None:
    grid, gradient = _grid_and_gradient(BaselineCNN(3, 0.1).eval(), 32)
    assert grid.shape == (2, 128, 8, 8)
    assert grid.min() == 0
    assert gradient.abs().sum() > 0


def test_weights_of_other_dimensions_keep_their_layout() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv3d(2, 4, 3))
    before = model[1].weight.stride()
    to_channels_last(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert model[1].weight.stride() == before
