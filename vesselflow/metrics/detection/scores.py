"""Scores of picked keypoints at a threshold; undefined is NaN, never 0 or 1.

All functions take ``(matches, threshold)``: a score, one per class, or None (the result is NaN),
and give float64 (C,), one value per class. Matches are those of one image, or of several pooled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vesselflow.metrics.detection import DETECTION
from vesselflow.metrics.matches import Floats, Matches, Threshold


def score(
    matches: Matches, threshold: Threshold, names: Sequence[str] | None = None
) -> dict[str, Floats]:
    """Scores of one image, or of several pooled.

    Args:
        matches: Picks, matched.
        threshold: A pick counts when its score is at or above it; one number, or one per class.
            None or NaN (undefined): scores that need one are NaN.
        names: Metrics, in this order; None for all.

    Returns:
        name -> float64 (C,); NaN where undefined, and everywhere when a heat-map was NaN.

    Raises:
        UserError: A metric is unknown.
        ShapeError: There is another number of thresholds than of classes.
    """
    chosen = DETECTION.names() if names is None else names
    return {name: DETECTION.part(name).load()(matches, threshold) for name in chosen}


def precision(matches: Matches, threshold: Threshold) -> Floats:
    """Share of the picks that are true: TP / (TP + FP); NaN without picks."""
    c = matches.counts(threshold)
    return _ratio(c.tp, c.tp + c.fp)


def recall(matches: Matches, threshold: Threshold) -> Floats:
    """Share of the keypoints that are found: TP / (TP + FN); NaN without keypoints."""
    c = matches.counts(threshold)
    return _ratio(c.tp, c.tp + c.fn)


def fbeta(matches: Matches, threshold: Threshold, beta: float) -> Floats:
    """(1 + b^2) TP / ((1 + b^2) TP + FP + b^2 FN); NaN without picks and keypoints.

    Args:
        matches: Picks, matched.
        threshold: As of `score`.
        beta: How many times as much recall weighs as precision; above 0.
    """
    c, square = matches.counts(threshold), beta**2
    return _ratio((1 + square) * c.tp, (1 + square) * c.tp + c.fp + square * c.fn)


def f1(matches: Matches, threshold: Threshold) -> Floats:
    """The harmonic mean of precision and recall: `fbeta` at 1."""
    return fbeta(matches, threshold, 1.0)


def f4(matches: Matches, threshold: Threshold) -> Floats:
    """`fbeta` at 4."""
    return fbeta(matches, threshold, 4.0)


def average_precision(matches: Matches, threshold: Threshold = None) -> Floats:
    """Precision averaged over recall: the sum of (R_k - R_k-1) P_k over all scores, falling.

    P_k and R_k are those of an optimal matching of the picks at or above the k-th score, which one
    matching gives for all k (see `matching.match`). Not interpolated, as in scikit-learn: COCO's
    and Pascal VOC's curves are made monotone first, which favours few picks. Keypoints that no
    pick finds are never recalled and add nothing. Picks that were not extracted (below the
    threshold of the peaks, or beyond their greatest number) are not seen.

    Args:
        matches: Picks, matched.
        threshold: Not looked at.

    Returns:
        float64 (C,) in [0, 1]; 0 without true picks, NaN without keypoints.
    """
    found = np.full(matches.classes, np.nan)
    for index in np.flatnonzero(matches.truth) if not matches.undefined else ():
        own = matches.of_class(int(index))
        hits = np.cumsum(own.matched)
        # Picks of one score come together.
        last = np.flatnonzero(np.append(own.score[1:] != own.score[:-1], True))[: len(hits)]
        gained = np.diff(hits[last], prepend=0)
        found[index] = (gained * hits[last] / (last + 1)).sum() / own.truth[0]
    return found


def picks(matches: Matches, threshold: Threshold) -> Floats:
    """How many picks there are."""
    c = matches.counts(threshold)
    return c.tp + c.fp


def true_picks(matches: Matches, threshold: Threshold) -> Floats:
    """Picks that have a partner."""
    return matches.counts(threshold).tp


def false_picks(matches: Matches, threshold: Threshold) -> Floats:
    """Picks that have none."""
    return matches.counts(threshold).fp


def missed(matches: Matches, threshold: Threshold) -> Floats:
    """Keypoints that have no pick."""
    return matches.counts(threshold).fn


def threshold_of(matches: Matches, threshold: Threshold) -> Floats:
    """The score from which picks count: as a metric, so that each class has it in every table."""
    return matches.thresholds(threshold)


def error_voxels(matches: Matches, threshold: Threshold) -> Floats:
    """Mean distance of true picks to their keypoints, in voxels; NaN without any."""
    return _over_pairs(matches, threshold, matches.voxels, np.mean)


def median_error_voxels(matches: Matches, threshold: Threshold) -> Floats:
    """Median distance of true picks to their keypoints, in voxels; NaN without any."""
    return _over_pairs(matches, threshold, matches.voxels, np.median)


def error_angstrom(matches: Matches, threshold: Threshold) -> Floats:
    """Mean distance in angstrom; NaN without true picks, or where one has no spacing."""
    return _over_pairs(matches, threshold, matches.angstrom, np.mean)


def median_error_angstrom(matches: Matches, threshold: Threshold) -> Floats:
    """Median distance in angstrom; NaN without true picks, or where one has no spacing."""
    return _over_pairs(matches, threshold, matches.angstrom, np.median)


def _over_pairs(
    matches: Matches, threshold: Threshold, distance: Floats, middle: Callable[[Floats], Floats]
) -> Floats:
    pairs = matches.kept(threshold) & matches.matched
    own = [distance[pairs & (matches.class_index == index)] for index in range(matches.classes)]
    return np.array([middle(each) if len(each) else np.nan for each in own], np.float64)


def _ratio(above: Floats, below: Floats) -> Floats:
    known = below > 0
    return np.where(known, above / np.where(known, below, 1.0), np.nan)
