"""Ragged groups of keypoints as a few dense blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

#: Groups of a block: int64 (g,).
Block = Tensor


@dataclass(frozen=True)
class Part:
    """Some keypoints of each group of a block.

    Attributes:
        rows: int64 (g, k): indices of keypoints; arbitrary valid ones where there is none.
        absent: bool (g, k): where there is none; None where all are there.
    """

    rows: Tensor
    absent: Tensor | None


def blocks(group: Tensor, each: int, numbers: int) -> Iterator[tuple[Block, Iterator[Part]]]:
    """Pack groups of keypoints into blocks of at most `numbers` numbers.

    Groups of like size go together, so that little is padded; one that is too large by itself comes
    in several parts.

    Args:
        group: int64 (K,), at least one: the group of each keypoint, in any order.
        each: Numbers that one keypoint takes.
        numbers: The bound; one keypoint of one group is always taken.

    Yields:
        The groups of a block, and its parts; groups without keypoints are left out.
    """
    order = torch.argsort(group, stable=True)
    present, counts = torch.unique_consecutive(group[order], return_counts=True)
    starts = counts.cumsum(0) - counts
    by_size = torch.argsort(counts, descending=True, stable=True)
    present, counts, starts = present[by_size], counts[by_size], starts[by_size]
    sizes = counts.tolist()
    begin = 0
    while begin < len(sizes):
        step = max(1, min(sizes[begin], numbers // each))
        end = min(len(sizes), begin + max(1, numbers // (each * step)))
        full = sizes[end - 1] == sizes[begin]
        inside = slice(begin, end)
        yield (
            present[inside],
            _parts(order, starts[inside], counts[inside], sizes[begin], step, full),
        )
        begin = end


def _parts(
    order: Tensor, starts: Tensor, counts: Tensor, most: int, step: int, full: bool
) -> Iterator[Part]:
    for first in range(0, most, step):
        place = torch.arange(first, min(most, first + step), device=order.device)
        rows = starts[:, None] + place
        if full:
            yield Part(order[rows], None)
        else:
            absent = place >= counts[:, None]
            yield Part(order[rows.clamp(max=len(order) - 1)], absent)
