"""Convolutions of training: the numbers of float64, up to the rounding of their format."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tlkit.models.backbones import create_model
from tlkit.training.kernels import FastKernels, bfloat16, float32
from tlkit.training.precision import autocast

CPU = torch.device("cpu")
# bfloat16 rounds inputs and results to 8 bits. Winograd's transforms cost float32 a digit.
NEAR = {torch.bfloat16: 0.02, torch.float32: 1e-5}

SHAPES: dict[str, tuple[Any, ...]] = {
    "pointwise": (16, 24, 1, 1, 0, 1),
    "pointwise with steps": (16, 24, 1, 2, 0, 1),
    "small map": (8, 12, 3, 1, 1, 1),
    "small map with steps": (8, 12, 3, 2, 1, 1),
    "large kernel, wide border": (3, 8, 7, 3, 5, 1),
    "3x3 without a border": (8, 12, 3, 1, 0, 1),
    "3x3 with a wide border": (8, 12, 3, 1, 2, 1),
    "depthwise": (16, 16, 3, 1, 1, 16),
    "wide depthwise": (16, 16, 5, 1, 2, 16),
    "wide depthwise with steps": (16, 16, 5, 2, 2, 16),
    "depthwise of three parts a side": (16, 16, 7, 1, 3, 16),
    "depthwise of an even kernel": (16, 16, 4, 3, 1, 16),
    "depthwise with a border as wide as its kernel": (16, 16, 3, 1, 3, 16),
    "depthwise with steps": (16, 16, 3, 2, 1, 16),
    "depthwise with steps, to the last pixel": (16, 16, 5, 2, 0, 16),
    "depthwise with steps as wide as its kernel": (16, 16, 3, 3, 0, 16),
    "depthwise with steps wider than its kernel": (16, 16, 2, 3, 1, 16),
    "depthwise of one pixel with steps": (16, 16, 1, 2, 0, 16),
    "two filters a channel": (16, 32, 3, 1, 1, 16),
    "grouped": (16, 24, 3, 1, 1, 4),
    "grouped pointwise": (16, 24, 1, 1, 0, 4),
    "pointwise with a border": (16, 24, 1, 1, 1, 1),
    "pointwise, steps unlike": (16, 24, 1, (1, 2), 0, 1),
    "dense, axes unlike": (8, 12, (2, 3), (1, 2), (1, 0), 1),
    "dense of one row": (8, 12, (1, 7), 1, (0, 3), 1),
    "3x3, steps unlike": (8, 12, 3, (1, 2), 1, 1),
    "3x3, borders unlike": (8, 12, 3, 1, (0, 2), 1),
    "depthwise, axes unlike": (16, 16, (3, 2), (2, 1), (0, 1), 16),
    "wide depthwise, axes unlike": (16, 16, (3, 5), (1, 3), (1, 0), 16),
    "wide depthwise of one column": (16, 16, (7, 1), 1, (3, 0), 16),
}


def results(layer: nn.Conv2d, x: Tensor, direction: Tensor) -> list[Tensor]:
    """The output and the gradients by input, weight and bias, as float32."""
    x = x.detach().requires_grad_()  # not a clone, which would lie in memory in another way
    y = layer(x)
    assert y.dtype == (torch.bfloat16 if torch.is_autocast_enabled("cpu") else x.dtype)
    parameters = [p for p in (layer.weight, layer.bias) if p is not None]
    gradients = torch.autograd.grad((y.float() * direction).sum(), [x, *parameters])
    return [value.detach().float() for value in (y, *gradients)]


def assert_those_of_float64(layer: nn.Conv2d, x: Tensor, precision: torch.dtype) -> None:
    """The output and the gradients in a random direction, up to the rounding of `precision`."""
    direction = torch.randn_like(layer(x.float()))
    with autocast(CPU, precision):
        found = results(layer, x, direction)
    expected = results(layer.double(), x.double(), direction.double())
    for got, exact in zip(found, expected, strict=True):
        assert float((got - exact).norm() / exact.norm()) < NEAR[precision]


@pytest.fixture
def any_width(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have few channels computed as many are."""
    for least in ("_FEWER", "_MORE", "_WIDE"):
        monkeypatch.setattr(float32, least, 1)


@pytest.mark.usefixtures("any_width")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_what_follows_may_change_an_output_in_place(
    shape: tuple[Any, ...], precision: torch.dtype
) -> None:
    channels, width, kernel, stride, padding, groups = shape
    layer = nn.Conv2d(channels, width, kernel, stride, padding, groups=groups, bias=False)
    x = torch.randn(2, channels, 9, 9).contiguous(memory_format=torch.channels_last)
    with autocast(CPU, precision):
        expected = layer(x).relu()
        got = layer(x).relu_()
    assert torch.equal(got, expected)
    assert got.is_contiguous(memory_format=torch.channels_last)
    got.float().sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.usefixtures("any_width")
@pytest.mark.parametrize("precision", NEAR)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_outputs_and_gradients_are_those_of_float64(
    shape: str, bias: bool, precision: torch.dtype
) -> None:
    torch.manual_seed(0)
    inward, outward, kernel, stride, padding, groups = SHAPES[shape]
    layer = nn.Conv2d(inward, outward, kernel, stride, padding, groups=groups, bias=bias)
    x = torch.randn(3, inward, 9, 7).to(memory_format=torch.channels_last)
    assert_those_of_float64(layer, x, precision)


@pytest.mark.usefixtures("any_width")
@pytest.mark.parametrize("precision", NEAR)
@pytest.mark.parametrize("shape", ["small map", "3x3 without a border", "depthwise", "pointwise"])
@pytest.mark.parametrize("layout", ["channels first", "half of the channels"])
def test_inputs_may_lie_in_memory_in_any_way(
    layout: str, shape: str, precision: torch.dtype
) -> None:
    torch.manual_seed(0)
    inward, outward, kernel, stride, padding, groups = SHAPES[shape]
    layer = nn.Conv2d(inward, outward, kernel, stride, padding, groups=groups)
    x = torch.randn(3, 2 * inward, 9, 7).to(precision)  # a cast would put it in order
    if layout == "half of the channels":
        x = x.to(memory_format=torch.channels_last)[:, inward:]
    else:
        x = x[:, :inward].contiguous()
    assert not x.is_contiguous(memory_format=torch.channels_last)
    assert_those_of_float64(layer, x, precision)


@pytest.mark.usefixtures("any_width")
@pytest.mark.parametrize("size", [(4, 4), (5, 13), (8, 12)])
def test_maps_of_any_size_are_covered_by_tiles(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3, padding=1)
    x = torch.randn(2, 3, *size).to(memory_format=torch.channels_last)
    assert_those_of_float64(layer, x, torch.float32)


@pytest.mark.usefixtures("any_width")
@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("wanted", ["input", "weight"])
def test_one_gradient_alone_is_that_of_both(wanted: str, steps: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 9, 7).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(6, 4, 3, 3).requires_grad_()
    with autocast(CPU, torch.float32):
        both = torch.autograd.grad(F.conv2d(x, weight, None, steps, 1).square().sum(), [x, weight])
        (weight if wanted == "input" else x).requires_grad_(False)
        alone = x if wanted == "input" else weight
        y = F.conv2d(x, weight, None, steps, 1)
    [gradient] = torch.autograd.grad(y.square().sum(), [alone])
    assert torch.equal(gradient, both[0 if wanted == "input" else 1])


def test_a_large_map_and_a_dilated_kernel_are_left_to_torch() -> None:
    torch.manual_seed(0)
    for layer, size in (
        (nn.Conv2d(8, 8, 3, padding=1), 20),
        (nn.Conv2d(8, 8, 3, dilation=2), 9),
        (nn.Conv2d(8, 8, 3, padding="same"), 6),
    ):
        x = torch.randn(2, 8, size, size)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = layer(x)
        with autocast(CPU, torch.bfloat16):
            assert torch.equal(layer(x), expected)


@pytest.mark.usefixtures("any_width")
def test_what_float32_has_no_kernel_for_is_left_to_torch() -> None:
    for layer in (
        nn.Conv2d(8, 8, 3, dilation=2),
        nn.Conv2d(8, 8, 3, padding="same"),
        nn.Conv2d(8, 8, 3, padding=1).double(),
    ):
        x = torch.randn(2, 8, 9, 9).to(layer.weight.dtype, memory_format=torch.channels_last)
        expected = layer(x)
        with autocast(CPU, torch.float32):
            assert torch.equal(layer(x), expected)


@pytest.mark.usefixtures("any_width")
def test_the_layout_of_the_plain_engine_is_left_to_torch() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(4, 4, 3, padding=1), torch.randn(2, 4, 8, 8)
    expected = layer(x)
    with autocast(CPU, torch.float32):
        assert torch.equal(layer(x), expected)
        by_tiles = layer(x.to(memory_format=torch.channels_last))
    assert not torch.equal(by_tiles, expected)


@pytest.mark.parametrize(
    ("kernel", "steps"), [(5, 1), (5, 2), (7, 1), (4, 3), ((3, 5), (2, 1)), ((6, 4), (1, 3))]
)
def test_a_wide_depthwise_kernel_over_a_large_map_is_computed_in_parts(
    kernel: int, steps: int
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 16, kernel, steps, 2, groups=16)
    x = torch.randn(2, 16, 19, 17).to(memory_format=torch.channels_last)
    with pytest.MonkeyPatch.context() as patched:
        patched.delattr(bfloat16, "_by_pairs")
        assert_those_of_float64(layer, x, torch.bfloat16)


@pytest.mark.parametrize("precision", NEAR)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_clamp_has_the_bits_of_torchs_own(in_place: bool, precision: torch.dtype) -> None:
    torch.manual_seed(0)
    edges = torch.tensor([-1.0, 0.0, 0.5, 6.0, 7.0, float("inf"), float("-inf"), float("nan")])
    given = torch.cat([edges, torch.randn(56) * 4]).view(2, 8, 2, 2).to(precision)
    layer = nn.ReLU6(inplace=in_place)

    def both(fast: bool) -> tuple[Tensor, Tensor]:
        x = given.clone().requires_grad_()
        before = x * 1
        with autocast(CPU, precision, fast_kernels=fast):
            y = layer(before)
        assert (y.data_ptr() == before.data_ptr()) == in_place
        # In place it is what was given that changed, for whoever still uses that.
        [gradient] = torch.autograd.grad(before if in_place else y, [x], torch.ones_like(y))
        return y.detach(), gradient

    for got, expected in zip(both(True), both(False), strict=True):
        assert torch.equal(got.nan_to_num(99), expected.nan_to_num(99))


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
def test_the_gradient_of_a_pool_has_the_format_of_its_input(memory: torch.memory_format) -> None:
    x = torch.randn(2, 8, 3, 5).contiguous(memory_format=memory).requires_grad_()
    formats: list[bool] = []
    y = x * 2
    y.register_hook(lambda gradient: formats.append(gradient.is_contiguous(memory_format=memory)))
    with autocast(CPU, torch.float32):
        nn.AdaptiveAvgPool2d(1)(y).sum().backward()
    assert formats == [True]
    assert x.grad is not None
    assert torch.allclose(x.grad, torch.full_like(x, 2 / 15))


@pytest.mark.parametrize(
    ("size", "output"), [((2, 8, 6, 4), 2), ((2, 8, 6, 4), (1, 2)), ((8, 6, 4), 1)]
)
def test_other_pools_are_left_to_torch(
    size: tuple[int, ...], output: int | tuple[int, int]
) -> None:
    x = torch.randn(size).requires_grad_()
    expected = F.adaptive_avg_pool2d(x, output)
    with autocast(CPU, torch.float32):
        got = F.adaptive_avg_pool2d(x, output)
    assert torch.equal(got, expected)
    gradients = [torch.autograd.grad(y.square().sum(), [x])[0] for y in (got, expected)]
    assert torch.equal(*gradients)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext"])
def test_a_network_learns_in_the_same_direction(name: str) -> None:
    """All gradients of a network together, against those of torch's own bfloat16."""
    torch.manual_seed(0)
    model = create_model(name, num_classes=2, dropout=0.0, image_size=64).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # the last of a block begins at 0
            module.weight.data.uniform_(0.5, 1.5)
    x, labels = torch.randn(8, 3, 64, 64), torch.tensor([0, 1] * 4)

    def gradient(precision: torch.dtype, fast: bool) -> Tensor:
        model.zero_grad()
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            if fast:
                with FastKernels():
                    logits = model(x)
            else:
                logits = model(x)
        F.cross_entropy(logits.float(), labels).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    exact = gradient(torch.float32, False)

    def error(fast: bool) -> float:
        return float((gradient(torch.bfloat16, fast) - exact).norm() / exact.norm())

    assert error(True) < 1.5 * error(False) + 0.01


def test_a_strided_depthwise_kernel_over_one_pixel_has_a_right_gradient() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(16, 16, 3, 2, 1, groups=16)
    x = torch.randn(4, 16, 1, 1).to(memory_format=torch.channels_last)
    assert_those_of_float64(layer, x, torch.bfloat16)


@pytest.mark.parametrize("size", [(0, 8, 5, 5), (8, 5, 5)])
def test_no_picture_and_one_without_a_batch_are_left_to_torch(size: tuple[int, ...]) -> None:
    layer, x = nn.Conv2d(8, 4, 3, padding=1), torch.randn(size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = layer(x)
    with autocast(CPU, torch.bfloat16):
        y = layer(x)
    assert torch.equal(y, expected)
    y.float().sum().backward()


@pytest.mark.usefixtures("any_width")
@pytest.mark.parametrize("precision", NEAR)
def test_arguments_may_have_their_names(precision: torch.dtype) -> None:
    x = torch.randn(2, 8, 7, 7).to(memory_format=torch.channels_last)
    weight, bias = torch.randn(4, 8, 3, 3), torch.randn(4)
    with autocast(CPU, precision):
        named = F.conv2d(input=x, weight=weight, bias=bias, padding=1)
        assert torch.equal(named, F.conv2d(x, weight, bias, 1, 1))
        named = F.adaptive_avg_pool2d(input=x, output_size=1)
        assert torch.equal(named, F.adaptive_avg_pool2d(x, 1))
        named = F.hardtanh(input=x.clone(), min_val=0, max_val=6, inplace=True)
        assert torch.equal(named, F.hardtanh(x, 0, 6))


@pytest.mark.usefixtures("any_width")
@pytest.mark.parametrize("precision", NEAR)
def test_one_number_in_brackets_stands_for_both_axes(precision: torch.dtype) -> None:
    x = torch.randn(2, 8, 7, 7).to(memory_format=torch.channels_last)
    weight = torch.randn(4, 8, 3, 3)
    with autocast(CPU, precision):
        assert torch.equal(F.conv2d(x, weight, None, [2], [1]), F.conv2d(x, weight, None, 2, 1))


@pytest.mark.usefixtures("any_width")
@pytest.mark.parametrize(
    ("precision", "steps", "groups"),
    [
        (torch.float32, 1, 1),
        (torch.float32, 2, 1),
        (torch.bfloat16, 2, 1),
        (torch.bfloat16, 1, 8),
    ],
)
def test_a_gradient_of_a_gradient_is_refused(
    precision: torch.dtype, steps: int, groups: int
) -> None:
    x = torch.randn(2, 8, 9, 9).to(memory_format=torch.channels_last).requires_grad_()
    layer = nn.Conv2d(8, 8, 3, steps, padding=1, groups=groups)
    with autocast(CPU, precision):
        y = layer(x)
    [gradient] = torch.autograd.grad(y.float().square().sum(), [x], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.square().sum().backward()
