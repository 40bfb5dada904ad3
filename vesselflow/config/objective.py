"""What validation chooses by: the key `objective` of a space. One for a whole sweep, so no axis."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vesselflow.config.named import Named
from vesselflow.config.registry import Arguments


class ObjectiveSpec(Arguments):
    """By what validation chooses epochs and points; the threshold has a metric of its own."""

    metric: Annotated[str | None, Named("metric")] = Field(
        None,
        description="Metric, pooled over the validation images; null takes the task's own",
    )
    direction: Literal["max", "min"] | None = Field(
        None, description="What is better; null takes what the metric says of itself"
    )
    reduction: Literal["mean", "median", "worst"] = Field(
        "mean", description="One number of a point's runs (folds and seeds)"
    )
