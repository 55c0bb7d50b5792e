"""What the ways to compute a convolution have in common."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[-1])


def bordered(x: Tensor, border: tuple[int, int]) -> Tensor:
    """(N, C, H, W) to (N, H, W, C) with zeros around."""
    x = x.permute(0, 2, 3, 1)
    if border == (0, 0):
        return x  # what F.pad would copy
    down, across = border
    return F.pad(x, (0, 0, across, across, down, down))
