"""What validation chooses by: the key `objective` of a space. One for a whole sweep, so no axis."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vesselflow.config.named import Named
from vesselflow.config.registry import Arguments

#: The metric of a space that names none, for its objective and for its thresholds.
DEFAULT_METRIC = "dice"


class ObjectiveSpec(Arguments):
    """By what validation chooses epochs and points; the threshold has a metric of its own."""

    metric: Annotated[str, Named("metric")] = Field(
        DEFAULT_METRIC, description="Metric, pooled over the validation images"
    )
    direction: Literal["max", "min"] | None = Field(
        None, description="What is better; null takes what the metric says of itself"
    )
    reduction: Literal["mean", "median", "worst"] = Field(
        "mean", description="One number of a point's runs (folds and seeds)"
    )
