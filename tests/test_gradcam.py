"""Grad-CAM against the grad-cam package, and that it leaves the model as it found it."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import timm
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from tlkit.evaluation.gradcam import grad_cam
from tlkit.heat_maps import NoHeatMaps, heat_maps
from tlkit.models.backbones import create_model

# Model, layer and to_grid; Any since timm's modules have attributes that nn.Module lacks.
Case = tuple[Any, Any, Callable[[Tensor], Tensor] | None]
CLASSES = 5
SIZE = 64


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plain_cnn(inplace: bool = False) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace),
        nn.Conv2d(8, 12, 3, stride=2),
        nn.ReLU(inplace),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )


def tokens_to_grid(tokens: Tensor) -> Tensor:
    """(N, 1 + side * side, C) with a class token in front to (N, C, side, side)."""
    side = int((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].transpose(1, 2).reshape(len(tokens), -1, side, side)


def channels_first(grid: Tensor) -> Tensor:
    return grid.permute(0, 3, 1, 2)


def make(family: str) -> Case:
    torch.manual_seed(0)
    if family == "plain":
        cnn = plain_cnn()
        return cnn, cnn[3], None
    if family == "swin":
        swin: Any = timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=SIZE,
            window_size=4,
            embed_dim=16,
            depths=(1, 1, 1),
            num_heads=(1, 2, 2),
            num_classes=CLASSES,
        )
        return swin, swin.layers[-1], channels_first
    if family == "vit":
        vit: Any = timm.create_model("test_vit", img_size=SIZE, num_classes=CLASSES)
        return vit, vit.blocks[-1].norm1, tokens_to_grid
    model = timm.create_model(
        {"regnet": "regnetx_002"}.get(family, f"test_{family}"), num_classes=CLASSES
    )
    last = {"resnet": "layer4", "efficientnet": "bn2", "convnext": "stages.3", "regnet": "s4"}
    return model, model.get_submodule(last[family]), None


FAMILIES = ("plain", "resnet", "efficientnet", "convnext", "regnet", "vit", "swin")


def pictures(n: int = 3, height: int = SIZE, width: int = SIZE) -> Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(1))


def reference(case: Case, inputs: Tensor, targets: list[int] | None) -> Tensor:
    model, layer, to_grid = case
    wanted = None if targets is None else [ClassifierOutputTarget(target) for target in targets]
    with GradCAM(model=model, target_layers=[layer], reshape_transform=to_grid) as package:
        return torch.from_numpy(package(input_tensor=inputs, targets=wanted))


@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_grad_cam_package_in_batches_and_one_by_one(family: str) -> None:
    case = model, layer, to_grid = make(family)
    inputs, targets = pictures(), [4, 0, 2]
    expected = reference(case, inputs, targets)
    assert expected.amax() > 0.5, "a map of zeros would prove nothing"
    model.requires_grad_(False)

    batch = grad_cam(model, layer, inputs, torch.tensor(targets), to_grid)
    singles = [
        grad_cam(model, layer, inputs[i : i + 1], torch.tensor(targets[i : i + 1]), to_grid)
        for i in range(len(inputs))
    ]

    assert batch.dtype == torch.float32
    torch.testing.assert_close(batch, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(torch.cat(singles), expected, rtol=0, atol=1e-4)


def test_picture_that_is_not_square_and_no_multiple_of_the_grid() -> None:
    case = model, layer, _ = make("plain")
    inputs = pictures(2, 61, 83)
    heat = grad_cam(model, layer, inputs, torch.tensor([1, 3]))
    assert heat.shape == (2, 61, 83)
    torch.testing.assert_close(heat, reference(case, inputs, [1, 3]), rtol=0, atol=1e-4)


def test_without_targets_it_explains_the_predicted_class() -> None:
    case = model, layer, _ = make("resnet")
    inputs = pictures()
    predicted = model.eval()(inputs).argmax(dim=1)
    heat = grad_cam(model, layer, inputs, None)
    assert torch.equal(heat, grad_cam(model, layer, inputs, predicted))
    torch.testing.assert_close(heat, reference(case, inputs, None), rtol=0, atol=1e-4)


def test_in_place_operation_after_the_layer() -> None:
    model, twin = plain_cnn(inplace=True), plain_cnn(inplace=False)
    twin.load_state_dict(model.state_dict())
    inputs, targets = pictures(), torch.tensor([0, 1, 2])
    expected = reference((twin, twin[3], None), inputs, targets.tolist())
    for trainable in (True, False):
        model.requires_grad_(trainable)
        heat = grad_cam(model, model[3], inputs, targets)
        torch.testing.assert_close(heat, expected, rtol=0, atol=1e-4)


def test_leaves_the_model_as_found() -> None:
    model, layer, _ = make("resnet")
    model.train()
    model.get_submodule("layer1").eval()
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(index % 2 == 0)
        if index % 4 == 0:
            parameter.grad = torch.full_like(parameter, 0.5)
    modes = {name: module.training for name, module in model.named_modules()}
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    state = copy.deepcopy(model.state_dict())
    inputs = pictures().requires_grad_()

    heat = grad_cam(model, layer, inputs, torch.tensor([0, 1, 2]))

    assert not heat.requires_grad
    assert inputs.grad is None
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == trainable
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        assert (parameter.grad is None) if grad is None else torch.equal(parameter.grad, grad)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not any(module._forward_hooks for module in model.modules())


def test_runs_in_eval_mode() -> None:
    model, layer, _ = make("plain")
    inputs, targets = pictures(), torch.tensor([0, 1, 2])
    in_eval = grad_cam(model.eval(), layer, inputs, targets)
    assert torch.equal(grad_cam(model.train(), layer, inputs, targets), in_eval)


class Broken(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        raise RuntimeError("broken head")


def test_cleans_up_after_an_error() -> None:
    model, layer, _ = make("plain")
    model.append(Broken())
    model.train()
    model[1].eval()
    with pytest.raises(RuntimeError, match="broken head"):
        grad_cam(model, layer, pictures(), None)
    assert not layer._forward_hooks
    assert model.training
    assert not model[1].training
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_works_where_gradients_are_off(context: type) -> None:
    model, layer, _ = make("plain")
    inputs, targets = pictures(), torch.tensor([0, 1, 2])
    expected = grad_cam(model, layer, inputs, targets)
    with context():
        # Copies made in here are inference tensors under inference_mode.
        heat = grad_cam(model, layer, inputs.clone(), targets.clone())
        assert not torch.is_grad_enabled()
    assert torch.equal(heat, expected)


def test_map_without_positive_evidence_is_zero() -> None:
    model, layer, _ = make("plain")
    with torch.no_grad():
        # The layer's outputs are positive and each class counts them against itself.
        model[3].bias.fill_(10)
        model[-1].weight.fill_(-1)
    heat = grad_cam(model, layer, pictures(), None)
    assert torch.equal(heat, torch.zeros(3, SIZE, SIZE))


def test_values_lie_between_0_and_1() -> None:
    model, layer, _ = make("plain")
    heat = grad_cam(model, layer, pictures(), None)
    assert heat.min() >= 0
    assert heat.max() <= 1
    assert heat.amax(dim=(1, 2)).min() > 0.99


def test_refuses_what_does_not_fit() -> None:
    model, layer, _ = make("plain")
    with pytest.raises(ValueError, match="ran 0 times"):
        grad_cam(model, nn.Conv2d(3, 3, 1), pictures(), None)
    with pytest.raises(ValueError, match=r"targets have shape \(2,\): needs \(3,\)"):
        grad_cam(model, layer, pictures(), torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="targets run from 0 to 5: needs 0 to 4"):
        grad_cam(model, layer, pictures(), torch.tensor([0, 5, 1]))
    vit, norm, _ = make("vit")
    with pytest.raises(ValueError, match=r"needs \(N, C, h, w\) after to_grid"):
        grad_cam(vit, norm, pictures(1), None)


@pytest.mark.parametrize("name", ["xcit_nano_12_p16_224", "convit_tiny"])
def test_networks_whose_class_token_comes_late_have_maps(name: str) -> None:
    torch.manual_seed(0)
    size = 224 if name == "convit_tiny" else 64
    model = create_model(name, num_classes=2, dropout=0.0, image_size=size).eval()
    maps = heat_maps(model, torch.randn(2, 3, size, size), torch.tensor([0, 1]))
    assert maps.shape == (2, size, size)
    assert bool(maps.any())


def test_a_card_that_is_full_is_no_network_without_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(model: nn.Module) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("tlkit.heat_maps.cam_target", fail)
    with pytest.raises(torch.OutOfMemoryError):
        heat_maps(nn.Flatten(), torch.zeros(1, 3, 4, 4), torch.tensor([0]))


def test_a_network_without_a_last_map_says_so() -> None:
    model = create_model("coat_lite_tiny", num_classes=2, dropout=0.0, image_size=64).eval()
    with pytest.raises(NoHeatMaps, match="no heat maps"):
        heat_maps(model, torch.randn(1, 3, 64, 64), torch.tensor([0]))
