"""What a process that trains fixes once, for all the runs that it takes."""

from __future__ import annotations

import torch

from vesselflow.feed.memory import keep_freed_memory


def settle_process(threads: int) -> None:
    """Fix what a worker process keeps through all its runs.

    The number of threads is fixed because the bits of a gradient depend on it; memory is kept
    because steps need the same blocks again and again.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
