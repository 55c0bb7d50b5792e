"""Dense convolutions whose gradient by the weight is computed in another way."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# From a gradient, a weight, an input, steps and border.
ByWeight = Callable[[Tensor, Tensor, Tensor, tuple[int, int], tuple[int, int]], Tensor]


class Dense(torch.autograd.Function):
    """A convolution of channels_last maps in the format of its weight; `by_weight` computes the
    gradient by that."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        steps: tuple[int, int],
        border: tuple[int, int],
        by_weight: ByWeight,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.steps, ctx.border, ctx.by_weight = steps, border, by_weight
        return F.conv2d(x, weight, None, steps, border)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, gradient: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        by_x = by_weight = None
        if ctx.needs_input_grad[0]:
            by_x = torch.ops.aten.convolution_backward(
                gradient, x, weight, None, ctx.steps, ctx.border, (1, 1), False, (0, 0), 1,
                (True, False, False),
            )[0]  # fmt: skip
        if ctx.needs_input_grad[1]:
            by_weight = ctx.by_weight(gradient, weight, x, ctx.steps, ctx.border)
        return by_x, by_weight, None, None, None
