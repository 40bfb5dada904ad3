"""Means over images or runs, with what is undefined counted apart."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Summary(NamedTuple):
    """Mean and spread of values, those that are undefined counted apart.

    Attributes:
        mean: Over the defined values; NaN when there is none.
        std: With ddof = 1; NaN for fewer than two defined values.
        n: Number of defined values.
        n_undefined: Number of NaN values, which are in neither mean nor std.
    """

    mean: float
    std: float
    n: int
    n_undefined: int


def nanmean_count(values: Iterable[float]) -> Summary:
    """Mean and spread of `values`, leaving NaN out and counting it."""
    given = np.asarray(list(values), dtype=np.float64)
    defined = given[~np.isnan(given)]
    return Summary(
        mean=float(defined.mean()) if defined.size else math.nan,
        std=float(defined.std(ddof=1)) if defined.size > 1 else math.nan,
        n=int(defined.size),
        n_undefined=int(given.size - defined.size),
    )
