"""Convolutions of bfloat16.

oneDNN, which torch uses, has a fast kernel for some shapes of them and not for others: a gradient
of a depthwise one can take 200 times as long as its forward pass, and a dense one over a small map
two to three times as long as its matrix product.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from tlkit.training.kernels.dense import Dense
from tlkit.training.kernels.shapes import bordered, pair

# Positions of a map up to which products are the faster way to a gradient by the weight.
_SMALL = 64

# The widest depthwise kernel for whose gradient oneDNN has a kernel of its own.
_NARROW = 3


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """As `torch.nn.functional.conv2d` under autocast: (N, C, H, W) in, (N, out, h, w) out."""
    x = input
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
            return _pointwise(x.permute(0, 2, 3, 1)[:, :: steps[0], :: steps[1]], weight, bias)
        if groups == 1 and height * width <= _SMALL:
            x = x.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
            y = Dense.apply(x, weight.to(torch.bfloat16), steps, border, _by_product)
            return y if bias is None else y + bias.to(torch.bfloat16).view(-1, 1, 1)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _pointwise(positions: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, h, w, C) and (out, C, 1, 1) to (N, out, h, w), which lie in memory as channels_last."""
    rows = positions.reshape(-1, positions.shape[3])  # F.linear of a strided tensor is slow
    y = F.linear(rows, weight.flatten(1), bias)
    return y.view(*positions.shape[:3], -1).permute(0, 3, 1, 2)


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution of bfloat16, whose gradients are forward passes, narrow kernels or
    products of matrices."""

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
    """The gradient of a depthwise convolution by its weight, float32: of a wide kernel by products
    over a small map, and else in parts."""

    def by_part(
        part: Tensor, kernel: Tensor, steps: tuple[int, int], border: tuple[int, int]
    ) -> Tensor:
        result: Tensor = torch.ops.aten.convolution_backward(
            gradient, part, kernel, None, steps, border, (1, 1), False, (0, 0), len(weight),
            (False, True, False),
        )[1]  # fmt: skip
        return result.float()

    positions, pixels = gradient.shape[2:].numel(), x.shape[2:].numel()
    narrow = max(weight.shape[2:]) <= _NARROW
    if not narrow and positions * pixels <= _SMALL**2:
        return _by_pairs(gradient, weight, x, steps, border)
    # Of a map of one pixel oneDNN's kernel with steps gives rubbish on a CPU with AMX.
    if narrow and (steps == (1, 1) or pixels > 1):
        return by_part(x, weight, steps, border)
    around = bordered(x, border)
    rows, columns = gradient.shape[2:]
    result = torch.empty(weight.shape)
    for (down, across), kernel in _phases(weight, steps):
        phase = around[:, down :: steps[0], across :: steps[1]]
        into = result[:, :, down :: steps[0], across :: steps[1]]
        height, width = kernel.shape[2:]
        for top in _starts(height):
            for left in _starts(width):
                part = kernel[:, :, top : top + _NARROW, left : left + _NARROW]
                high, wide = part.shape[2:]
                seen = phase[:, top : top + rows - 1 + high, left : left + columns - 1 + wide]
                into[:, :, top : top + high, left : left + wide] = by_part(
                    seen.contiguous().permute(0, 3, 1, 2), part, (1, 1), (0, 0)
                )
    return result


def _by_pairs(
    gradient: Tensor,
    weight: Tensor,
    x: Tensor,
    steps: tuple[int, int],
    border: tuple[int, int],
) -> Tensor:
    """The same by products of matrices: for each channel of all positions with all pixels, of which
    each element of the kernel then takes those that it joins."""
    by_channel = [map_.permute(1, 2, 3, 0).flatten(1, 2).contiguous() for map_ in (gradient, x)]
    products = torch.bmm(by_channel[0], by_channel[1].transpose(1, 2)).flatten(1)
    kernel = pair(weight.shape[2:])
    joined = _joined(pair(x.shape[2:]), pair(gradient.shape[2:]), kernel, steps, border)
    return (products @ joined).float().view(weight.shape)


@lru_cache(maxsize=64)
def _joined(
    pixels: tuple[int, int],
    positions: tuple[int, int],
    kernel: tuple[int, int],
    steps: tuple[int, int],
    border: tuple[int, int],
) -> Tensor:
    """1 where an element of a kernel joins a position and a pixel, and else 0: bfloat16 (positions
    times pixels, elements)."""
    axes = []
    for i in range(2):
        position = torch.arange(positions[i])[:, None, None]
        pixel = torch.arange(pixels[i])[:, None]
        axes.append(position * steps[i] + torch.arange(kernel[i]) - border[i] == pixel)
    down, across = axes
    both = down[:, None, :, None, :, None] & across[None, :, None, :, None, :]
    return both.flatten(0, 3).flatten(1).to(torch.bfloat16)


def _starts(size: int) -> list[int]:
    """Where the parts of a kernel begin, which may overlap: one of another size is slow."""
    return [*range(0, size - _NARROW, _NARROW), max(size - _NARROW, 0)]


def _by_product(
    gradient: Tensor,
    weight: Tensor,
    x: Tensor,
    steps: tuple[int, int],
    border: tuple[int, int],
) -> Tensor:
    """The gradient of a dense convolution by its weight: a product of the gradient and what the
    kernel sees at each position."""
    out, channels, *kernel = weight.shape
    around = bordered(x, border).contiguous()
    image, row, column, _ = around.stride()
    # A row of a kernel lies together in memory, so that it is copied as one.
    windows = around.as_strided(
        (len(x), *gradient.shape[2:], kernel[0], kernel[1] * channels),
        (image, steps[0] * row, steps[1] * column, row, 1),
    )
    rows = gradient.permute(0, 2, 3, 1).flatten(0, 2)
    product = rows.t() @ windows.reshape(len(rows), -1)
    return product.view(out, *kernel, channels).permute(0, 3, 1, 2)
