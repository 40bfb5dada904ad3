"""What a process does with memory that it frees."""

from __future__ import annotations

import contextlib
import ctypes


def keep_freed_memory() -> None:
    """Let this process keep large blocks that it frees, for the next ones.

    By default glibc maps each block of 32 MB or more anew and gives what is free at the end of the
    heap back; the kernel then clears every page again. That cost a third of a float32 step of the
    W-Net at 512 px, and a quarter of reading a volume. Other C libraries have no such switch.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


#: Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
