"""How well logits rank pixels, over all thresholds; ties are handled, undefined is NaN.

The functions take ``(histogram, threshold)`` as every metric does, and ignore the threshold: the
result is always one number. Pixels of one bin are tied.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vesselflow.metrics.histogram import Histogram, Thresholds

Values = npt.NDArray[np.float64]


def roc_auc(histogram: Histogram, threshold: float | Thresholds | None = None) -> Values:
    """Area under the ROC curve, trapezoids between bins.

    Equals the probability that a random positive lies above a random negative, ties counting half.
    NaN when positives or negatives are missing.
    """
    positives, negatives = histogram.positives, histogram.negatives
    pairs = float(positives.sum()) * float(negatives.sum())
    if histogram.undefined or pairs == 0.0:
        return np.asarray(np.nan)
    below = np.cumsum(negatives) - negatives
    wins = positives.astype(np.float64) @ (below + 0.5 * negatives)
    return np.minimum(wins / pairs, 1.0)


def pr_auc(histogram: Histogram, threshold: float | Thresholds | None = None) -> Values:
    """Average precision: sum over bins, from the top, of (recall gained) * (precision there).

    This is scikit-learn's `average_precision_score` (a step function), not the trapezoid area,
    which is too optimistic. NaN when positives or negatives are missing: without negatives every
    ranking would score 1.
    """
    total = float(histogram.positives.sum())
    if histogram.undefined or total == 0.0 or not histogram.negatives.any():
        return np.asarray(np.nan)
    gained = histogram.positives[::-1]
    hits = np.cumsum(gained)
    predicted = hits + np.cumsum(histogram.negatives[::-1])
    precision = hits / np.maximum(predicted, 1)
    return np.minimum((gained @ precision) / total, 1.0)
