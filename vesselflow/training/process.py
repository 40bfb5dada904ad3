"""What a process that trains fixes once, for all the runs that it takes."""

from __future__ import annotations

import contextlib
import ctypes

import torch


def settle_process(threads: int) -> None:
    """Fix what a worker process keeps through all its runs.

    The number of threads is fixed because the bits of a gradient depend on it. And glibc is told to
    keep large blocks: by default each tensor of 32 MB or more is mapped anew and faulted in page by
    page, which cost a third of a float32 step of the W-Net at 512 px.
    """
    torch.set_num_threads(threads)
    with contextlib.suppress(OSError, AttributeError):  # Another C library: nothing to tune.
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


#: Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
