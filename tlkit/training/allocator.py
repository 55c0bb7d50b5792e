"""Memory for tensors: a CPU's is kept instead of given back, a card's that is full is told."""

import ctypes
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tlkit.errors import CannotTrainError

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3

_NO_MEMORY = re.compile(r"CUDA error: out of memory|CU\w+_STATUS_ALLOC_FAILED")


def keep_freed_memory() -> None:
    """Tell glibc to keep what is freed; on other systems, do nothing.

    By default glibc maps every block of more than 32 MiB anew and unmaps it when it is freed, so
    that each forward pass has the kernel clear its activations' pages again (docs/LOG.md has what
    that cost on a virtual machine).
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(_M_MMAP_THRESHOLD, 2**30)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def full_cards_told() -> Iterator[None]:
    """Turn the want of a card's memory into a CannotTrainError that says what takes less."""
    try:
        yield
    except RuntimeError as error:
        # Where it is not torch that asks the card for memory, the error is of another kind.
        if not isinstance(error, torch.OutOfMemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        raise CannotTrainError(
            "the card's memory is full; lower batch_size and raise accumulate by as much, "
            "lower image_size, or use device=cpu"
        ) from error
