"""Median and median absolute deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vesselflow.stores.normalisations.normalisation import (
    Normalisation,
    Pair,
    each_row,
    quantile_counted,
    quantile_of,
)

if TYPE_CHECKING:
    from torch import Tensor

#: A normal distribution's standard deviation over its median absolute deviation, 1 / PPF(3/4).
MAD_TO_STD = 1.482602218505602


class Median(Normalisation):
    """Median, and 1.4826 times the median absolute deviation."""

    def columns(self, pixels: NDArray[np.float64]) -> Pair:
        """See `Normalisation`."""
        middle = np.nanmedian(pixels, axis=0)
        return middle, MAD_TO_STD * np.nanmedian(np.abs(pixels - middle), axis=0)

    def counted(
        self, values: NDArray[np.float64], counts: NDArray[np.int64]
    ) -> tuple[float, float]:
        """See `Normalisation`."""
        middle = quantile_counted(values, counts, 0.5)
        away = np.abs(values - middle)
        order = np.argsort(away, kind="stable")
        return middle, MAD_TO_STD * quantile_counted(away[order], counts[order], 0.5)

    def rows(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """See `Normalisation`."""
        return each_row(values, valid, self._one)

    def _one(self, values: Tensor) -> tuple[Tensor, Tensor]:
        centre = quantile_of(values, 0.5)
        return centre, MAD_TO_STD * quantile_of((values - centre).abs(), 0.5)
