"""What every normalisation computes: one centre and scale, by three ways to the same numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[NDArray[np.float64], NDArray[np.float64]]


class Normalisation(ABC):
    """Centre and scale of intensities; those that count are already chosen.

    What cannot be said (no value, no spread) is mended by the callers; NaN stands for it.
    """

    @abstractmethod
    def columns(self, pixels: NDArray[np.float64]) -> Pair:
        """Of each column of (P, C), P at least 1; NaN entries are left out."""

    @abstractmethod
    def counted(
        self, values: NDArray[np.float64], counts: NDArray[np.int64]
    ) -> tuple[float, float]:
        """Of rising values (V,) that occur so often (V,); at least one value occurs."""

    @abstractmethod
    def rows(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Of each row of float32 (N, R, P), over the entries that are valid (bool, same shape).

        Returns:
            centre (N, R), scale (N, R); centre 0 for a row without a valid entry.
        """


def each_row(
    values: Tensor, valid: Tensor, one: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Centre and scale of rows one by one, where they cannot be had of all together.

    Args:
        values: (N, R, P).
        valid: bool, same shape.
        one: Centre and scale of one row's valid entries (K,), K at least 1.
    """
    import torch

    pairs = [
        one(row[keep]) if bool(keep.any()) else (row.new_zeros(()), row.new_ones(()))
        for sample, mask in zip(values, valid, strict=True)
        for row, keep in zip(sample, mask, strict=True)
    ]
    centre, scale = (torch.stack(part).view(values.shape[:2]) for part in zip(*pairs, strict=True))
    return centre, scale


def quantile_counted(values: NDArray[np.float64], counts: NDArray[np.int64], q: float) -> float:
    """Interpolated linearly between ranks, as `numpy.percentile` does; values in rising order."""
    upto = np.cumsum(counts)
    position = q * (int(upto[-1]) - 1)
    below = int(position)
    ranks = np.minimum([below, below + 1], upto[-1] - 1)
    low, high = values[np.searchsorted(upto, ranks, side="right")]
    return float(low + (position - below) * (high - low))


def quantile_of(values: Tensor, q: float) -> Tensor:
    """Of (K,), interpolated linearly. `torch.quantile` sorts, which is slower, and refuses many."""
    import torch

    position = q * (values.numel() - 1)
    below = int(position)
    low = values.kthvalue(below + 1).values
    high = values.kthvalue(min(below + 2, values.numel())).values
    return torch.lerp(low, high, position - below)
