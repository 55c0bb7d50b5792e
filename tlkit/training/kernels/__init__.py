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
            return _pool(*args, **(kwargs or {}))
        if func is F.hardtanh:
            return _hardtanh(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _pool(input: Tensor, output_size: Any) -> Tensor:
    if output_size in (1, (1, 1)) and input.ndim == 4:
        mean: Tensor = _Mean.apply(input)
        return mean
    return F.adaptive_avg_pool2d(input, output_size)


class _Mean(torch.autograd.Function):
    """The mean over the positions, whose gradient has the memory format of its input.

    torch's comes out as NCHW and is slow to mix with channels_last.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.shape = x.shape
        last = x.is_contiguous(memory_format=torch.channels_last)
        ctx.memory = torch.channels_last if last else torch.contiguous_format
        return F.adaptive_avg_pool2d(x, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        share = gradient / ctx.shape[2:].numel()
        spread: Tensor = share.expand(ctx.shape).contiguous(memory_format=ctx.memory)
        return spread


def _hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    if not inplace:
        return F.hardtanh(input, min_val, max_val)
    clamped: Tensor = _Clamped.apply(input, min_val, max_val)
    return clamped


class _Clamped(torch.autograd.Function):
    """A clamp in place, as of a ReLU6, that keeps its result for the gradient where torch keeps a
    copy of what was there before. So nothing else may be done in place on that result before the
    gradient is taken: autograd refuses it, as after torch's own ReLU in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, least: float, most: float) -> Tensor:
        ctx.least, ctx.most = least, most
        ctx.mark_dirty(x)
        ctx.save_for_backward(x.clamp_(least, most))
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        [result] = ctx.saved_tensors
        inner = torch.ops.aten.hardtanh_backward(gradient, result, ctx.least, ctx.most)
        return inner, None, None
