"""The thresholds that are best for F-beta on validation data, one per class."""

from __future__ import annotations

import math

import numpy as np

from vesselflow.metrics.matches import Floats, Matches

#: Metric -> its beta, of those by which thresholds are chosen.
BETAS = {"f1": 1.0, "f4": 4.0}


def best_thresholds(matches: Matches, beta: float = 1.0) -> Floats:
    """The score at which F-beta is highest, for each class; for validation data only.

    Thresholds between two neighbouring scores keep the same picks, so the best value holds on a
    plateau. Of the longest one (the lowest of equals) the middle is taken: there the picks of
    another image change least when its scores are a little off. Below all scores nothing is known,
    since peaks are extracted from some score on: there the lowest score itself is taken.

    Args:
        matches: Picks of the validation images, pooled.
        beta: How many times as much recall weighs as precision; above 0.

    Returns:
        float64 (C,). inf, which keeps no pick, where no pick of the class has a partner. NaN where
        the choice is undefined: no keypoint of the class, or a NaN heat-map.
    """
    found = np.full(matches.classes, np.nan)
    for index in np.flatnonzero(matches.truth) if not matches.undefined else ():
        found[index] = _best(matches.of_class(int(index)), beta**2)
    return found


def _best(own: Matches, square: float) -> float:
    if not own.matched.any():
        return math.inf
    # Cut k keeps the scores from the k-th on, falling.
    last = np.flatnonzero(np.append(own.score[1:] != own.score[:-1], True))
    cuts, hits = own.score[last], np.cumsum(own.matched)[last]
    # FP + b^2 FN + (1 + b^2) TP is the picks, and b^2 times the keypoints.
    values = (1 + square) * hits / (last + 1 + square * own.truth[0])
    # Equal up to rounding: 2 / 3 may be reached as 4 / 6, too.
    is_best = values >= values.max() * (1 - 1e-12)
    edges = np.flatnonzero(np.diff(is_best, prepend=False, append=False))
    first, final = edges[0::2], edges[1::2] - 1
    # Cuts first..final hold from the score of `first` down to the next one below `final`.
    high, low = cuts[first], np.append(cuts, cuts[-1])[final + 1]
    widths = high - low
    # Of equals the lowest, which stands last.
    longest = len(widths) - 1 - int(np.argmax(widths[::-1]))
    middle = (low[longest] + high[longest]) / 2
    # Between two neighbouring numbers there may be none; then the upper one keeps the same picks.
    if final[longest] == len(cuts) - 1:
        return float(middle)
    return float(middle) if middle > low[longest] else float(high[longest])
