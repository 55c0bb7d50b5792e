"""Number formats: float32 everywhere, bfloat16 where the hardware computes in it."""

import contextlib
import sys
from collections.abc import Iterator
from functools import lru_cache

import torch

from tlkit.errors import UserError
from tlkit.training.kernels import FastKernels


def resolve_device(device: str) -> torch.device:
    """`auto`, `cpu` or `cuda` to a device; `auto` says why it passes over a card.

    Raises:
        UserError: `cuda` was asked for, and torch sees none or has no code for it.
    """
    if device == "cpu":
        return torch.device("cpu")
    seen = torch.cuda.is_available()
    fault = _card_fault() if seen else "torch sees no CUDA device"
    if not fault:
        return torch.device("cuda")
    if device == "cuda":
        raise UserError(f"device=cuda: {fault}; use device=cpu or auto")
    if seen:
        _tell(f"device=auto: computing on the CPU, for {fault}")
    return torch.device("cpu")


def _card_fault() -> str:
    """Why this torch cannot compute on the card, or nothing: code for a card (sm_XY) runs on those
    of its generation from its number on, code to be compiled (compute_XY) on all later ones."""
    card, known = torch.cuda.get_device_capability(), torch.cuda.get_arch_list()
    for name in known:
        kind, _, digits = name.partition("_")
        if kind not in ("sm", "compute"):
            return ""  # ROCm, whose names tell no order
        own = divmod(int(digits.rstrip("af")), 10)
        if own <= card and (kind == "compute" or own[0] == card[0]):
            return ""
    if not known:
        return ""  # a build that does not say
    return f"this torch has code for {', '.join(known)} and the card is sm_{card[0]}{card[1]}"


@lru_cache
def _tell(what: str) -> None:
    """Once a process, which resolves its device many times."""
    print(what, file=sys.stderr)


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
