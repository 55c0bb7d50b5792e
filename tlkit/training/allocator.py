"""Memory for large tensors on a CPU, kept instead of given back and faulted in again."""

import ctypes
import platform

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


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
