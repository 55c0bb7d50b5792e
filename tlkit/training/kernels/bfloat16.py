"""Convolutions of bfloat16.

oneDNN, which torch uses, has a fast kernel for some shapes of them and not for others: a gradient
of a depthwise one can take 200 times as long as its forward pass, and a dense one over a small map
two to three times as long as its matrix product.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tlkit.training.kernels.shapes import bordered, pair

# Positions of an output map up to which patches and a matrix product are the faster way.
_SMALL = 64

# The widest depthwise kernel for whose gradient oneDNN has a kernel of its own.
_NARROW = 3


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
    if x.ndim == 4 and len(x) and not isinstance(padding, str) and pair(dilation) == (1, 1):
        steps, border, kernel = pair(stride), pair(padding), pair(weight.shape[2:])
        within = all(edge < side for edge, side in zip(border, kernel, strict=True))
        if groups == x.shape[1] == len(weight) > 1 and within:
            y: Tensor = _Depthwise.apply(x.to(torch.bfloat16), weight, bias, steps, border)
            return y
        height, width = (
            (size + 2 * edge - side) // step + 1
            for size, edge, side, step in zip(x.shape[2:], border, kernel, steps, strict=True)
        )
        if groups == 1 and kernel == (1, 1) and border == (0, 0):
            return _product(x.permute(0, 2, 3, 1)[:, :: steps[0], :: steps[1]], weight, bias)
        if groups == 1 and height * width <= _SMALL:
            y = bordered(x.to(torch.bfloat16), border)
            patches: Tensor = _Patches.apply(y, kernel, steps, (height, width))
            return _product(patches, weight, bias)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of bfloat16, whose gradients are forward passes or narrow kernels."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        steps: tuple[int, int],
        border: tuple[int, int],
    ) -> Tensor:
        x, weight = x.contiguous(memory_format=torch.channels_last), weight.to(torch.bfloat16)
        ctx.save_for_backward(x, weight)
        ctx.steps, ctx.border = steps, border
        shift = None if bias is None else bias.to(torch.bfloat16)
        return F.conv2d(x, weight, shift, steps, border, groups=len(weight))

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        wanted = ctx.needs_input_grad
        by_x = _by_input(gradient, weight, x.shape, ctx.steps, ctx.border) if wanted[0] else None
        by_weight = _by_weight(gradient, weight, x, ctx.steps, ctx.border) if wanted[1] else None
        by_bias = gradient.sum((0, 2, 3), dtype=torch.float32) if wanted[2] else None
        return by_x, by_weight, by_bias, None, None


def _by_input(
    gradient: Tensor,
    weight: Tensor,
    shape: Sequence[int],
    steps: tuple[int, int],
    border: tuple[int, int],
) -> Tensor:
    """The gradient of a depthwise convolution by its input: for each phase of its steps one over
    the gradient, with the phase's kernel turned round."""
    if steps == (1, 1):
        return _turned(gradient, weight, border)
    count, channels, *size = shape
    every_pixel_seen = all(
        step <= side and step * (spot - 1) + side >= pixels + edge
        for step, spot, side, pixels, edge in zip(
            steps, gradient.shape[2:], weight.shape[2:], size, border, strict=True
        )
    )
    make = gradient.new_empty if every_pixel_seen else gradient.new_zeros
    result = make(count, *size, channels)
    for first, part in _phases(weight, steps):
        found = _turned(gradient, part, (0, 0)).permute(0, 2, 3, 1)
        rows, columns = (
            _places(first[i], steps[i], border[i], size[i], found.shape[1 + i]) for i in range(2)
        )
        result[:, rows[0], columns[0]] = found[:, rows[1], columns[1]]
    return result.permute(0, 3, 1, 2)


def _phases(weight: Tensor, steps: tuple[int, int]) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """A convolution with steps is a sum of such without: where each begins, and its kernel, which
    sees the pixels that lie whole steps from there."""
    for down in range(min(steps[0], weight.shape[2])):
        for across in range(min(steps[1], weight.shape[3])):
            yield (down, across), weight[:, :, down :: steps[0], across :: steps[1]]


def _places(first: int, step: int, border: int, size: int, found: int) -> tuple[slice, slice]:
    """Where a phase's gradient goes along an axis, and what of it: the rest is of the border."""
    skipped = max(0, -((first - border) // step))
    begin = first - border + skipped * step
    count = max(0, min(found - skipped, -((begin - size) // step)))
    return slice(begin, begin + count * step, step), slice(skipped, skipped + count)


def _turned(gradient: Tensor, weight: Tensor, border: tuple[int, int]) -> Tensor:
    """The gradient by the input where there are no steps: over the gradient, the kernel turned
    round."""
    rest = [side - 1 - edge for side, edge in zip(weight.shape[2:], border, strict=True)]
    return F.conv2d(gradient, weight.flip(2, 3), padding=rest, groups=len(weight))


def _by_weight(
    gradient: Tensor,
    weight: Tensor,
    x: Tensor,
    steps: tuple[int, int],
    border: tuple[int, int],
) -> Tensor:
    """The gradient of a depthwise convolution by its weight, float32: a wide kernel in parts."""

    def by_part(
        part: Tensor, kernel: Tensor, steps: tuple[int, int], border: tuple[int, int]
    ) -> Tensor:
        result: Tensor = torch.ops.aten.convolution_backward(
            gradient, part, kernel, None, steps, border, (1, 1), False, (0, 0), len(weight),
            (False, True, False),
        )[1]  # fmt: skip
        return result.float()

    # Of a map of one pixel oneDNN's kernel with steps gives rubbish on a CPU with AMX.
    if max(weight.shape[2:]) <= _NARROW and (steps == (1, 1) or x.shape[2:].numel() > 1):
        return by_part(x, weight, steps, border)
    around = bordered(x, border)
    rows, columns = gradient.shape[2:]
    result = torch.empty(weight.shape)
    for (down, across), kernel in _phases(weight, steps):
        pixels = around[:, down :: steps[0], across :: steps[1]]
        into = result[:, :, down :: steps[0], across :: steps[1]]
        height, width = kernel.shape[2:]
        for top in _starts(height):
            for left in _starts(width):
                part = kernel[:, :, top : top + _NARROW, left : left + _NARROW]
                high, wide = part.shape[2:]
                seen = pixels[:, top : top + rows - 1 + high, left : left + columns - 1 + wide]
                into[:, :, top : top + high, left : left + wide] = by_part(
                    seen.contiguous().permute(0, 3, 1, 2), part, (1, 1), (0, 0)
                )
    return result


def _starts(size: int) -> list[int]:
    """Where the parts of a kernel begin, which may overlap: one of another size is slow."""
    return [*range(0, size - _NARROW, _NARROW), max(size - _NARROW, 0)]


def _product(patches: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, h, w, kernel elements) and (out, C, *kernel) to (N, out, h, w), which lie in memory as
    channels_last."""
    rows = patches.reshape(-1, patches.shape[3])  # F.linear of a strided tensor is slow
    y = F.linear(rows, weight.permute(0, 2, 3, 1).flatten(1), bias)
    return y.view(*patches.shape[:3], -1).permute(0, 3, 1, 2)


class _Patches(torch.autograd.Function):
    """(N, H, W, C) to what a kernel sees at each of its positions, (N, h, w, kernel elements)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: tuple[int, int], steps: tuple[int, int], out: tuple[int, int]
    ) -> Tensor:
        ctx.shape, ctx.kernel, ctx.steps = x.shape, kernel, steps
        x = x.contiguous()  # of what is not channels_last the patches lie elsewhere
        count, _, _, channels = x.shape
        image, row, column, _ = x.stride()
        # A row of a kernel lies together in memory, so that it is copied as one.
        windows = x.as_strided(
            (count, *out, kernel[0], kernel[1] * channels),
            (image, steps[0] * row, steps[1] * column, row, 1),
        )
        return windows.flatten(3)

    @staticmethod
    @once_differentiable
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
