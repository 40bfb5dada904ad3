"""Overlap of prediction and target at a threshold; undefined is NaN, never 0 or 1.

All functions take ``(histogram, threshold)``: a logit, an array of logits (the result has its
shape) or None (the result is NaN). Counts are pixels inside the field of view, of one image or of
several pooled, as the histogram is.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vesselflow.metrics.histogram import Histogram, Thresholds

Values = npt.NDArray[np.float64]


def dice(histogram: Histogram, threshold: float | Thresholds | None) -> Values:
    """Dice coefficient (F1): 2 TP / (2 TP + FP + FN); NaN when TP + FP + FN = 0."""
    c = histogram.confusion(threshold)
    return _ratio(2.0 * c.tp, 2.0 * c.tp + c.fp + c.fn)


def iou(histogram: Histogram, threshold: float | Thresholds | None) -> Values:
    """Intersection over union (Jaccard): TP / (TP + FP + FN); NaN when TP + FP + FN = 0."""
    c = histogram.confusion(threshold)
    return _ratio(c.tp, c.tp + c.fp + c.fn)


def sensitivity(histogram: Histogram, threshold: float | Thresholds | None) -> Values:
    """Share of the target that is found (recall): TP / (TP + FN); NaN without positives."""
    c = histogram.confusion(threshold)
    return _ratio(c.tp, c.tp + c.fn)


def specificity(histogram: Histogram, threshold: float | Thresholds | None) -> Values:
    """Share of the background that is left alone: TN / (TN + FP); NaN without negatives."""
    c = histogram.confusion(threshold)
    return _ratio(c.tn, c.tn + c.fp)


def accuracy(histogram: Histogram, threshold: float | Thresholds | None) -> Values:
    """Share of pixels that are right: (TP + TN) / all; NaN without pixels."""
    c = histogram.confusion(threshold)
    return _ratio(c.tp + c.tn, c.tp + c.fp + c.fn + c.tn)


def mcc(histogram: Histogram, threshold: float | Thresholds | None) -> Values:
    """Matthews correlation: (TP TN - FP FN) / sqrt((TP+FP) (TP+FN) (TN+FP) (TN+FN)), in [-1, 1].

    NaN when prediction or target has one class only (scikit-learn says 0 there).
    """
    c = histogram.confusion(threshold)
    # Two roots rather than one of a product of four counts: that keeps 2^53 out of reach longer.
    predicted = np.sqrt((c.tp + c.fp) * (c.tn + c.fn))
    present = np.sqrt((c.tp + c.fn) * (c.tn + c.fp))
    # Rounding may carry a perfect correlation past 1.
    return np.clip(_ratio(c.tp * c.tn - c.fp * c.fn, predicted * present), -1.0, 1.0)


def _ratio(above: Values, below: Values) -> Values:
    above, below = np.asarray(above), np.asarray(below)
    known = below > 0
    return np.where(known, above / np.where(known, below, 1.0), np.nan)
