"""Mean and standard deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vesselflow.stores.normalisations.normalisation import Normalisation, Pair

if TYPE_CHECKING:
    from torch import Tensor


class Standard(Normalisation):
    """Mean and standard deviation (ddof 0)."""

    def columns(self, pixels: NDArray[np.float64]) -> Pair:
        """See `Normalisation`."""
        return np.nanmean(pixels, axis=0), np.nanstd(pixels, axis=0)

    def counted(
        self, values: NDArray[np.float64], counts: NDArray[np.int64]
    ) -> tuple[float, float]:
        """See `Normalisation`."""
        n = int(counts.sum())
        mean = float(values @ counts) / n
        return mean, float(np.sqrt((values - mean) ** 2 @ counts / n))

    def rows(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """See `Normalisation`."""
        import torch

        count = valid.sum(-1).clamp(min=1)
        mean = torch.where(valid, values, 0.0).sum(-1) / count
        away = torch.where(valid, values - mean[..., None], 0.0)
        return mean, (away.square_().sum(-1) / count).sqrt()
