"""Convolutions of a training step in bfloat16 on a CPU, each in the way that is fast there.

oneDNN, which torch uses, has matrix units (AMX) at work in some of its kernels and not in others. A
gradient of a wide depthwise convolution takes 6 to 200 times as long as in float32, and a dense one
over a small map two to three times as long as its matrix product. What was measured stands in
docs/LOG.md.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Positions of an output map up to which patches and a matrix product are the faster way.
_SMALL = 64


class FastConvolutions(TorchFunctionMode):
    """While in force, every `conv2d` of bfloat16 autocast runs as the fastest way for its shape.

    The result is that of `conv2d`, up to the rounding of bfloat16, and so are its gradients.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        call = conv2d if func is torch.conv2d else func
        return call(*args, **(kwargs or {}))


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """As `torch.nn.functional.conv2d` under autocast: (N, C, H, W) in, (N, out, h, w) out."""
    if groups == x.shape[1] > 1:
        with torch.autocast("cpu", enabled=False):
            shift = None if bias is None else bias.float()
            y = F.conv2d(x.float(), weight.float(), shift, stride, padding, dilation, groups)
        return y.to(torch.bfloat16)
    if groups == 1 and not isinstance(padding, str) and _pair(dilation) == (1, 1):
        steps, border = _pair(stride), _pair(padding)
        kernel = weight.shape[2:]
        height, width = (
            (size + 2 * edge - side) // step + 1
            for size, edge, side, step in zip(x.shape[2:], border, kernel, steps, strict=True)
        )
        if tuple(kernel) == (1, 1) and border == (0, 0):
            return _product(x.permute(0, 2, 3, 1)[:, :: steps[0], :: steps[1]], weight, bias)
        if height * width <= _SMALL:
            y = x.to(torch.bfloat16).permute(0, 2, 3, 1)
            y = F.pad(y, (0, 0, border[1], border[1], border[0], border[0]))
            patches: Tensor = _Patches.apply(y, tuple(kernel), steps, (height, width))
            return _product(patches, weight, bias)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _product(patches: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, h, w, kernel elements) and (out, C, *kernel) to (N, out, h, w), which lie in memory as
    channels_last."""
    rows = patches.reshape(-1, patches.shape[3])  # F.linear of a strided tensor is slow
    y = F.linear(rows, weight.permute(0, 2, 3, 1).flatten(1), bias)
    return y.view(*patches.shape[:3], -1).permute(0, 3, 1, 2)


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


class _Patches(torch.autograd.Function):
    """(N, H, W, C) to what a kernel sees at each of its positions, (N, h, w, kernel elements)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: tuple[int, int], steps: tuple[int, int], out: tuple[int, int]
    ) -> Tensor:
        ctx.shape, ctx.kernel, ctx.steps = x.shape, kernel, steps
        count, _, _, channels = x.shape
        image, row, column, _ = x.stride()
        # A row of a kernel lies together in memory, so that it is copied as one.
        windows = x.as_strided(
            (count, *out, kernel[0], kernel[1] * channels),
            (image, steps[0] * row, steps[1] * column, row, 1),
        )
        return windows.flatten(3)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        (down, across), channels = ctx.steps, ctx.shape[3]
        _, height, width, _ = gradient.shape
        parts = gradient.reshape(*gradient.shape[:3], *ctx.kernel, channels)
        # In float32: a pixel is in as many sums as a kernel has elements.
        result = gradient.new_zeros(ctx.shape, dtype=torch.float32)
        for i in range(ctx.kernel[0]):
            for j in range(ctx.kernel[1]):
                result[:, i : i + down * height : down, j : j + across * width : across] += parts[
                    :, :, :, i, j
                ]
        return result.to(gradient.dtype), None, None, None
