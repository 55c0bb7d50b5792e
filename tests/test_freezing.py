"""Freezing, proved by training: what is frozen stays equal bit for bit, the rest moves."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tlkit.errors import UserError
from tlkit.models.backbones import create_model
from tlkit.models.baseline import BaselineCNN
from tlkit.models.cut import split
from tlkit.models.freezing import freeze, from_the_top, train_mode, trained_names
from tlkit.models.units import units

BACKBONES = [
    "test_resnet",
    "test_efficientnet",
    "mobilenetv3_small_050",
    "test_convnext",
    "regnetx_002",
    "test_vit",
    "small_swin",
]
SIZE = 32


def make(backbone: str) -> nn.Module:
    torch.manual_seed(0)
    model = create_model(backbone, num_classes=3, dropout=0.5, image_size=SIZE)
    for name, parameter in model.named_parameters():
        if name.endswith(".gamma"):
            # The layer scale of a fresh convnext, 1e-6, makes steps too small for float32.
            nn.init.constant_(parameter, 0.1)
    return model


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    # Far from zero mean and unit variance, so that a running statistic that is let go moves.
    return 3 + 2 * torch.randn(4, 3, SIZE, SIZE, generator=generator), torch.arange(4) % 3


def entries(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def moved(before: dict[str, Tensor], model: nn.Module) -> set[str]:
    after = model.state_dict()
    return {name for name in before if not torch.equal(before[name], after[name])}


def train(model: nn.Module, trained: Callable[[Tensor], Tensor]) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    pictures, labels = batch()
    for _ in range(2):
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(trained(pictures), labels))
        optimizer.step()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_moves_the_trained_entries_and_no_other(backbone: str) -> None:
    model = make(backbone)
    for depth in (0, 2, len(units(model))):
        freeze(model, depth)
        train_mode(model, depth)
        names = trained_names(model, depth)
        before = entries(model)
        train(model, model)
        assert moved(before, model) == names
        parameters = {n for n, _ in model.named_parameters() if n in names}
        assert parameters == {n for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_training_the_suffix_alone_is_training_the_model(backbone: str) -> None:
    whole, cut = make(backbone), make(backbone)
    prefix, suffix = split(cut, 2)
    for model in (whole, cut):
        freeze(model, 2)
    train_mode(whole, 2)
    suffix.train()
    torch.manual_seed(2)
    train(whole, whole)
    torch.manual_seed(2)
    train(cut, lambda pictures: suffix(prefix(pictures)))
    assert not moved(entries(whole), cut)


@pytest.mark.parametrize("backbone", ["test_resnet", "small_swin"])
def test_nothing_random_is_left_in_the_frozen_part(backbone: str) -> None:
    model = make(backbone)
    drops = [m for m in model.modules() if type(m).__name__ in ("Dropout", "DropPath")]
    prefix, _ = split(model, 2)
    frozen = [m for m in prefix.modules() if type(m).__name__ in ("Dropout", "DropPath")]
    train_mode(model, 2)
    assert not any(module.training for module in frozen)
    if backbone == "small_swin":
        assert frozen
        assert any(module.training for module in drops)
    pictures, _ = batch()
    assert torch.equal(prefix(pictures), prefix(pictures))


def test_train_mode_can_be_taken_back() -> None:
    model = make("test_resnet")
    train_mode(model, 0)
    train_mode(model, len(units(model)))
    assert all(module.training for module in model.modules())


def test_asking_for_names_touches_nothing() -> None:
    model = make("test_resnet").train()
    trained_names(model, 0)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_names_at_depth_0_are_the_classifier() -> None:
    assert trained_names(make("test_convnext"), 0) == {"head.fc.weight", "head.fc.bias"}
    assert trained_names(make("test_resnet"), 0) == {"fc.weight", "fc.bias"}


def test_the_tail_is_trained_from_depth_1() -> None:
    names = trained_names(make("test_efficientnet"), 1)
    assert {"conv_head.weight", "bn2.weight", "bn2.running_mean", "classifier.weight"} <= names
    assert "conv_stem.weight" not in names
    assert "cls_token" not in trained_names(make("test_vit"), 6)
    assert {"cls_token", "pos_embed"} <= trained_names(make("test_vit"), 7)


@pytest.mark.parametrize("function", [freeze, train_mode, trained_names])
def test_a_depth_that_is_not_there_is_refused(function) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="has 5 units"):
        function(make("test_resnet"), 6)


@pytest.mark.parametrize(
    ("backbone", "last"), [("test_resnet", "layer4"), ("test_efficientnet", "blocks.4")]
)
def test_still_batch_norms_keep_their_statistics_and_learn_their_scales(
    backbone: str, last: str
) -> None:
    torch.manual_seed(0)
    model = create_model(backbone, num_classes=2, dropout=0.5, image_size=32)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # timm starts the last one of a block at 0
            nn.init.ones_(module.weight)
    freeze(model, 2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    train_mode(model, 2, moving_statistics=False)
    assert model.get_classifier().training
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(torch.randn(4, 3, 32, 32)), torch.tensor([0, 1, 0, 1])).backward()
        optimizer.step()
    moved = {n for n, value in model.state_dict().items() if not torch.equal(value, before[n])}
    assert moved
    assert not {name for name in moved if "running" in name or "batches" in name}
    norms = {n for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    top = {name for name in norms if name.startswith(last)}
    assert top
    assert {f"{name}.weight" for name in top} <= moved


@pytest.mark.parametrize(
    ("backbone", "parts"),
    [
        ("test_resnet", ["head", "top 1", "top 2", "all units"]),
        ("resnet18", ["head", "top 1", "top 2", "top 4", "all units"]),
        ("test_byobnet", ["head", "all units"]),
    ],
)
def test_the_parts_from_the_top_each_hold_the_ones_before(backbone: str, parts: list[str]) -> None:
    model = make(backbone)
    found = from_the_top(model)
    assert [name for name, _ in found] == parts
    assert found[0][1] == trained_names(model, 0)
    assert found[-1][1] == set(model.state_dict())
    for (_, above), (_, below) in itertools.pairwise(found):
        assert above < below


def test_the_parts_of_the_baseline_begin_with_its_last_block() -> None:
    model = BaselineCNN(3, 0.1)
    found = from_the_top(model)
    assert [name for name, _ in found] == ["head", "block 3", "block 2", "block 1"]
    added = [below - above for (_, above), (_, below) in itertools.pairwise(found)]
    for names, block in zip(added, ("blocks.2.", "blocks.1.", "blocks.0."), strict=True):
        assert names == {name for name in model.state_dict() if name.startswith(block)}
    assert found[-1][1] == set(model.state_dict())
