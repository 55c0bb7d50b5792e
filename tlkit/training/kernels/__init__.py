"""What a training step computes on a CPU, each operation in the way that is fast there.

What was measured stands in docs/LOG.md.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tlkit.training.kernels import bfloat16, float32


class FastKernels(TorchFunctionMode):
    """While in force, operations whose own way is slow run another.

    The result of a convolution is that of `conv2d` up to the rounding of its format, and so are its
    gradients; nothing else changes a number. In float32 only what is channels_last is computed in
    another way. The reference, `engine: plain`, does without.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is torch.conv2d:
            conv2d = bfloat16.conv2d if torch.is_autocast_enabled("cpu") else float32.conv2d
            return conv2d(*args, **(kwargs or {}))
        if func is F.adaptive_avg_pool2d:
            return func(_AsGiven.apply(args[0]), *args[1:], **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _AsGiven(torch.autograd.Function):
    """The same tensor, whose gradient has its memory format.

    That of a mean has none, comes out as NCHW, and is slow to mix with channels_last.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.contiguous(memory_format=torch.channels_last) if ctx.last else gradient
