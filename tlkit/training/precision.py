"""Number formats: float32 everywhere, bfloat16 where the hardware computes in it."""

import contextlib
from collections.abc import Iterator

import torch

from tlkit.errors import UserError
from tlkit.training.kernels import FastKernels


def resolve_device(device: str) -> torch.device:
    """`auto`, `cpu` or `cuda` to a device.

    Raises:
        UserError: `cuda` was asked for and torch sees none.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: torch sees no CUDA device; use device=cpu or auto")
    return torch.device(device)


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """`auto`, `fp32` or `bf16` to the dtype that layers compute in.

    `auto` means bfloat16 only with instructions for it (on a CPU AMX or AVX-512 BF16, on a GPU
    compute capability 8): emulated it is many times slower than float32.
    """
    if precision == "auto":
        fast = _gpu_has_bf16() if device.type == "cuda" else _cpu_has_bf16()
        return torch.bfloat16 if fast else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def _gpu_has_bf16() -> bool:
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def _cpu_has_bf16() -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):
        return bool(torch.cpu._is_amx_tile_supported())
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


@contextlib.contextmanager
def autocast(
    device: torch.device, dtype: torch.dtype, *, fast_kernels: bool = True
) -> Iterator[None]:
    """The context in which forward passes run.

    Args:
        fast_kernels: whether a CPU computes by `training.kernels`, where torch's own are slow.
    """
    with contextlib.ExitStack() as stack:
        if dtype != torch.float32:
            stack.enter_context(torch.autocast(device.type, dtype=dtype))
        if fast_kernels and device.type == "cpu":
            stack.enter_context(FastKernels())
        yield
