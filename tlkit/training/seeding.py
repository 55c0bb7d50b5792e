"""Seeds and threads, so that the same command gives the same numbers."""

import os
import random

import numpy as np
import torch


def seed_everything(seed: int, threads: int) -> None:
    """Seed Python, NumPy and torch, fix the thread count and ask for repeatable kernels.

    The thread count is part of it: another one sums in another order and gives other bits.

    Args:
        seed: 0 to 2**31 - 1.
        threads: intra-op threads of torch, at least 1.
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        # cuBLAS repeats itself only with a fixed workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = False
        torch.use_deterministic_algorithms(True, warn_only=True)


def available_cores() -> int:
    """Cores that this process may run on."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows know no affinity
        return os.cpu_count() or 1
