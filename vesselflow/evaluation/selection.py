"""Choices, made on validation data alone, by the objective."""

from __future__ import annotations

from collections.abc import Mapping

from vesselflow.runs.objective import Objective


def choose_epoch(scores: Mapping[int, float], objective: Objective) -> int:
    """The epoch with the best validation score; the earliest of equals.

    Args:
        scores: Epoch -> score; NaN never wins.
        objective: What is better.

    Returns:
        An epoch; the last one when no score is defined.
    """
    best = objective.best({epoch: scores[epoch] for epoch in sorted(scores)})
    return max(scores) if best is None else best


def choose_point(scores: Mapping[str, float], objective: Objective) -> str | None:
    """The point with the best validation score; the first of equals; None without any."""
    return objective.best(scores)
