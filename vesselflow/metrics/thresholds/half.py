"""The threshold that nobody chooses."""

from __future__ import annotations

from vesselflow.metrics.histogram import Histogram


def half(histogram: Histogram, metric: str) -> float:
    """The probability 1/2, which is the logit 0, whatever the validation data say.

    What many papers do without saying so. Beside `best` it shows what a calibrated threshold is
    worth, and how a loss moves the probabilities.

    Args:
        histogram: Not looked at.
        metric: Not looked at.
    """
    return 0.0
