"""Convolutions of 3x3 in float32 by a quarter of the multiplications.

Winograd's minimal filtering F(4x4, 3x3): Lavin and Gray, "Fast Algorithms for Convolutional Neural
Networks", CVPR 2016 (arXiv:1509.09308). Of a tile d of 6x6 pixels and a kernel g the 4x4 outputs
are

    A^T ((G g G^T) * (B^T d B)) A

with a product * element by element, which summed over channels is a product of matrices for each of
the 36 elements. The gradients are the adjoint of that, by the same three products.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Outputs and pixels of a tile along an axis.
_OUT, _IN = 4, 6


def _nested(rows: list[list[float]]) -> Tensor:
    """A transform of both axes at once, of the elements row by row."""
    matrix = torch.tensor(rows, dtype=torch.float32)
    return torch.kron(matrix, matrix)


_OF_PIXELS = _nested(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)  # B^T
_OF_KERNELS = _nested(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ]
)  # G
_OF_SUMS = _nested(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)  # A^T


class Winograd(torch.autograd.Function):
    """A convolution of 3x3 without steps: (N, C, H, W) and (out, C, 3, 3) to (N, out, h, w), all
    float32; the result lies in memory as channels_last."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, border: tuple[int, int]) -> Tensor:
        count, _, *size = x.shape
        height, width = (side + 2 * edge - 2 for side, edge in zip(size, border, strict=True))
        down, across = -(-height // _OUT), -(-width // _OUT)
        around = F.pad(
            x.permute(0, 2, 3, 1),
            (
                *(0, 0),
                *(border[1], across * _OUT + 2 - size[1] - border[1]),
                *(border[0], down * _OUT + 2 - size[0] - border[0]),
            ),
        )
        pixels = _transformed(_OF_PIXELS, _tiles(around, _OUT, down, across).flatten(0, 2))
        kernels = _transformed(_OF_KERNELS, weight.permute(0, 2, 3, 1))
        sums = torch.bmm(pixels.transpose(0, 1), kernels.permute(1, 2, 0))
        outputs = _transformed(_OF_SUMS, sums.transpose(0, 1))
        y = outputs.view(count, down, across, _OUT, _OUT, -1).transpose(2, 3)
        y = y.reshape(count, down * _OUT, across * _OUT, -1)[:, :height, :width]
        by_x, by_weight, _ = ctx.needs_input_grad
        ctx.save_for_backward(pixels if by_weight else None, kernels if by_x else None)
        ctx.around, ctx.size, ctx.border = around.shape, size, border
        y = y.contiguous().permute(0, 3, 1, 2)
        # The same memory, but no view: what follows may want to change it in place.
        return y.new_empty(0).set_(y.untyped_storage(), y.storage_offset(), y.shape, y.stride())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        pixels, kernels = ctx.saved_tensors
        count, rows, columns, channels = ctx.around
        down, across = rows // _OUT, columns // _OUT
        height, width = gradient.shape[2:]
        outputs = F.pad(
            gradient.permute(0, 2, 3, 1), (0, 0, 0, across * _OUT - width, 0, down * _OUT - height)
        ).reshape(count, down, _OUT, across, _OUT, -1)
        sums = _transformed(_OF_SUMS.t(), outputs.transpose(2, 3).flatten(0, 2))
        by_x = by_weight = None
        if kernels is not None:
            found = torch.bmm(sums.transpose(0, 1), kernels.transpose(0, 1)).transpose(0, 1)
            tiles = _transformed(_OF_PIXELS.t(), found)
            around = _added(tiles.view(count, down, across, _IN, _IN, channels))
            top, left = ctx.border
            inner = around[:, top : top + ctx.size[0], left : left + ctx.size[1]]
            by_x = inner.permute(0, 3, 1, 2)
        if pixels is not None:
            found = torch.bmm(sums.permute(1, 2, 0), pixels.transpose(0, 1)).transpose(0, 1)
            of_kernels = _transformed(_OF_KERNELS.t(), found)
            by_weight = of_kernels.view(-1, 3, 3, channels).permute(0, 3, 1, 2)
        return by_x, by_weight, None


def _transformed(matrix: Tensor, tiles: Tensor) -> Tensor:
    """(M, K) and (T, ..., C) of K elements a tile to (T, M, C)."""
    elements = tiles.reshape(len(tiles), -1, tiles.shape[-1])
    return torch.bmm(matrix.expand(len(tiles), -1, -1), elements)


def _tiles(x: Tensor, step: int, down: int, across: int) -> Tensor:
    """(N, H, W, C) to a view of what begins every `step` pixels, (N, down, across, 6, 6, C)."""
    image, row, column, _ = x.stride()
    size = (len(x), down, across, _IN, _IN, x.shape[3])
    return x.as_strided(
        size, (image, step * row, step * column, row, column, 1), x.storage_offset()
    )


def _added(tiles: Tensor) -> Tensor:
    """Tiles (N, down, across, 6, 6, C) that begin every four pixels to their sum, (N, H, W, C)."""
    count, down, across, *_, channels = tiles.shape
    result = tiles.new_zeros(count, down * _OUT + 2, across * _OUT + 2, channels)
    # Of every second tile along an axis none touches another.
    for top in range(min(down, 2)):
        for left in range(min(across, 2)):
            some = tiles[:, top::2, left::2]
            corner = result[:, top * _OUT :, left * _OUT :]
            _tiles(corner, 2 * _OUT, *some.shape[1:3]).add_(some)
    return result
