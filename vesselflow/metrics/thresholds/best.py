"""The threshold that is best for a metric on validation data."""

from __future__ import annotations

import math

import numpy as np

from vesselflow.errors import UserError
from vesselflow.metrics import METRICS
from vesselflow.metrics.histogram import Histogram


def best(histogram: Histogram, metric: str) -> float:
    """The logit at which `metric` is highest, over all thresholds; for validation data only.

    Thresholds between two neighbouring logits predict the same pixels, so the best value holds on
    a plateau. Of the longest one (the lowest of equals) the middle is taken: there predictions
    change least when the logits shift on another image. Measured in logits, the choice of a model
    that is twice as sure is the same.

    Args:
        histogram: Pixels of the validation images, pooled.
        metric: A metric that depends on the threshold.

    Returns:
        A logit that float32 holds; -inf where predicting every pixel is best, inf where predicting
        none is. NaN where the choice is undefined: no pixel of the target (a score that ignores the
        target chooses nothing), a NaN logit, or a metric that is NaN throughout.

    Raises:
        UserError: The metric is unknown, or does not depend on a threshold.
    """
    # Cut k keeps the bins from k on; the last one keeps none.
    cuts = np.append(histogram.values.astype(np.float64), np.inf)
    scores = METRICS.part(metric).load()(histogram, cuts)
    if scores.shape != cuts.shape:
        raise UserError(
            f"metric {metric!r} does not depend on a threshold, so it cannot choose one",
            allowed=", ".join(each.name for each in METRICS if each.thresholded),
        )
    known = ~np.isnan(scores)
    if not known.any() or not histogram.positives.any():
        return math.nan
    best = np.where(known, scores, -np.inf) >= np.nanmax(scores)
    edges = np.flatnonzero(np.diff(best, prepend=False, append=False))
    first, last = edges[0::2], edges[1::2] - 1
    # The thresholds of cuts first..last reach from the logit before the first one to that of the
    # last one. Those beyond all logits have no end to measure to.
    ends = np.concatenate([cuts[:1], cuts[:-1], cuts[-2:-1]])
    low, high = ends[first], ends[last + 1]
    longest = int(np.argmax(high - low))
    if first[longest] == last[longest] == 0:
        return -math.inf
    if first[longest] == len(cuts) - 1:
        return math.inf
    # In the type of the logits, so that they are cut alike in every type: between two neighbours
    # there may be no number of it, and a middle that is rounded down would be the lower one.
    middle = float(np.float32((low[longest] + high[longest]) / 2))
    return middle if middle > low[longest] else float(high[longest])
