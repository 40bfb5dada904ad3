"""1st and 99th percentile."""

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

#: These are mapped to -1 and 1.
PERCENTILES = (1.0, 99.0)


class Percentile(Normalisation):
    """Middle and half distance of the 1st and the 99th percentile."""

    def columns(self, pixels: NDArray[np.float64]) -> Pair:
        """See `Normalisation`."""
        low, high = np.nanpercentile(pixels, PERCENTILES, axis=0)
        return (low + high) / 2, (high - low) / 2

    def counted(
        self, values: NDArray[np.float64], counts: NDArray[np.int64]
    ) -> tuple[float, float]:
        """See `Normalisation`."""
        low, high = (quantile_counted(values, counts, percent / 100) for percent in PERCENTILES)
        return (low + high) / 2, (high - low) / 2

    def rows(self, values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        """See `Normalisation`."""
        return each_row(values, valid, self._one)

    def _one(self, values: Tensor) -> tuple[Tensor, Tensor]:
        low, high = (quantile_of(values, percent / 100) for percent in PERCENTILES)
        return (low + high) / 2, (high - low) / 2
