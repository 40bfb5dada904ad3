"""What validation chooses by: the key `objective` of a space. One for a whole sweep, so no axis."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from vesselflow.config.registry import Arguments, Registry

#: The metric of a space that names none, for its objective and for its thresholds.
DEFAULT_METRIC = "dice"


class ObjectiveSpec(Arguments):
    """By what validation chooses epochs and points; the threshold has a metric of its own."""

    metric: str = Field(DEFAULT_METRIC, description="Metric, pooled over the validation images")
    direction: Literal["max", "min"] | None = Field(
        None, description="What is better; null takes what the metric says of itself"
    )
    reduction: Literal["mean", "median", "worst"] = Field(
        "mean", description="One number of a point's runs (folds and seeds)"
    )


def check_objective(spec: ObjectiveSpec, registries: Mapping[str, Registry]) -> None:
    """Refuse a metric that is not registered, where the metrics are among the registries.

    Raises:
        UserError: With the names that are allowed and the closest one.
    """
    if "metric" in registries:
        registries["metric"].part(spec.metric, where="objective.metric")
