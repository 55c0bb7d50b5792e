"""Convolutions of float32 in channels_last.

oneDNN computes them at the rate of matrix products but for the gradients by the weight, which take
up to twice as long; and one of 3x3 can do with a quarter of the multiplications.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tlkit.training.kernels.dense import Dense
from tlkit.training.kernels.shapes import bordered, pair
from tlkit.training.kernels.winograd import Winograd

# Channels, the fewer and the more of those of input and output, and pixels of a map's side, from
# which the transforms of 3x3 convolutions cost less than they save.
_FEWER, _MORE, _SIDE = 32, 64, 4

# Channels from which products are the faster way to a gradient by the weight.
_WIDE = 128


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | str | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    """As `torch.nn.functional.conv2d`: (N, C, H, W) in, (N, out, h, w) out."""
    x = input
    if (
        x.dtype == weight.dtype == torch.float32
        and x.is_contiguous(memory_format=torch.channels_last)
        and not x.is_contiguous()  # a map of one pixel has either layout
        and not isinstance(padding, str)
        and pair(dilation) == (1, 1)
        and groups == 1
    ):
        steps, border, kernel = pair(stride), pair(padding), pair(weight.shape[2:])
        fewer, more = sorted(weight.shape[:2])
        side = min(size + 2 * edge - 2 for size, edge in zip(x.shape[2:], border, strict=True))
        pays = fewer >= _FEWER and more >= _MORE and side >= _SIDE
        y: Tensor | None = None
        if kernel == (3, 3) and steps == (1, 1) and max(border) < 3 and pays:
            y = Winograd.apply(x, weight, border)
        elif fewer >= _WIDE:
            y = Dense.apply(x, weight, steps, border, _by_weight)
        if y is not None:
            return y if bias is None else y + bias.view(-1, 1, 1)
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def _by_weight(
    gradient: Tensor,
    weight: Tensor,
    x: Tensor,
    steps: tuple[int, int],
    border: tuple[int, int],
) -> Tensor:
    """The gradient by the weight: a product for each element of the kernel."""
    around = bordered(x, border)
    (height, width), (rows, columns) = gradient.shape[2:], weight.shape[2:]
    (down, across), channels = steps, x.shape[1]
    of_outputs = gradient.permute(1, 0, 2, 3).flatten(1)
    result = torch.empty(len(weight), rows, columns, channels)
    for i in range(rows):
        for j in range(columns):
            seen = around[:, i : i + down * height : down, j : j + across * width : across]
            torch.mm(of_outputs, seen.reshape(-1, channels), out=result[:, i, j])
    return result.permute(0, 3, 1, 2)
