"""Seeds and threads, so that the same command gives the same numbers."""

import os
import random
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int, threads: int, device: torch.device) -> None:
    """Seed Python, NumPy and torch, fix the thread count and ask for repeatable kernels.

    The thread count is part of it: another one sums in another order and gives other bits. On a
    GPU repeatable kernels are asked for, as far as torch has them, and float32 is float32.

    Args:
        seed: 0 to 2**31 - 1.
        threads: intra-op threads of torch, at least 1.
        device: what will compute; a CPU repeats itself without being asked.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    if device.type == "cuda":
        # cuBLAS repeats itself only with a fixed workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Or every new tensor would be filled, for the sake of those who read what nobody wrote.
        deterministic: Any = torch.utils.deterministic  # whose settings torch's types do not know
        deterministic.fill_uninitialized_memory = False
        _compute_in_full_float32()


def _compute_in_full_float32() -> None:
    """No TF32, which has 10 of float32's 23 bits and is torch's default for convolutions: what is
    trained and what is served would differ, and `engine: plain` be no reference.

    Both by torch's older settings and by those that replace them: where the two disagree, reading
    the older ones, as Inductor does, raises.
    """
    backends: Any = torch.backends  # torch's types know nothing of the newer ones
    backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")
    for operations in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul):
        operations.fp32_precision = "ieee"


def available_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows know no affinity
        return os.cpu_count() or 1
