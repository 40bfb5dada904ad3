"""Choices, made on validation data alone."""

from __future__ import annotations

import math
from collections.abc import Mapping


def choose_epoch(scores: Mapping[int, float]) -> int:
    """The epoch with the best validation score; the earliest of equals.

    Args:
        scores: Epoch -> score, larger is better; NaN never wins.

    Returns:
        An epoch; the last one when no score is defined.
    """
    defined = {epoch: value for epoch, value in scores.items() if not math.isnan(value)}
    if not defined:
        return max(scores)
    return min(defined, key=lambda epoch: (-defined[epoch], epoch))


def choose_point(scores: Mapping[str, float]) -> str | None:
    """The point with the best mean validation score; the first of equals; None without any."""
    defined = {name: value for name, value in scores.items() if not math.isnan(value)}
    return max(defined, key=lambda name: defined[name]) if defined else None
