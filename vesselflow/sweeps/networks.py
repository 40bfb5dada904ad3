"""The networks that the points of a sweep train, and what they are fed with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vesselflow.config.fingerprint import canonical_json
from vesselflow.errors import UserError
from vesselflow.models import MODELS
from vesselflow.runs.resolved import task_of
from vesselflow.runs.stacked import stacked_channels
from vesselflow.sweeps.checks import seen_as, training_size
from vesselflow.sweeps.planning import SweepPlan


@dataclass(frozen=True)
class Network:
    """A network, for samples of one size.

    Attributes:
        points: Names of the points that train it, one at least.
        spec: Name and arguments, all of them.
        channels: Of the images, and of what it is stacked on, whose networks are not counted.
        classes: Of the logits.
        stride: Of the logits, one number for each axis.
        sample: Sides of a training sample, in px.
        micro_batch_size: Samples of one forward pass.
    """

    points: tuple[str, ...]
    spec: Mapping[str, Any]
    channels: int
    classes: int
    stride: tuple[int, ...]
    sample: tuple[int, ...]
    micro_batch_size: int

    @property
    def label(self) -> str:
        """Name, and arguments that differ from the defaults."""
        changed = MODELS.canonical(self.spec)
        rest = ", ".join(
            f"{key} {'+'.join(map(str, value)) if isinstance(value, list) else value}"
            for key, value in changed.items()
            if key not in ("name", "version")
        )
        return f"{changed['name']} ({rest})" if rest else str(changed["name"])


def networks(plan: SweepPlan) -> list[Network]:
    """The networks of a plan, each once, in the order of their first points.

    Raises:
        UserError: How large a sample is will only be known when a store is made.
    """
    found: dict[str, dict[str, Any]] = {}
    points: dict[str, list[str]] = {}
    for point in plan.expansion.points:
        experiment = point.experiment
        facts = plan.stores[experiment.data.train]
        task, view = task_of(experiment, facts), seen_as(experiment, plan.stores)
        sample = training_size(view, facts, bound=True)
        if sample is None or not facts.sources:
            raise UserError(
                f"how large the samples of '{facts.name}' are is not known before it is made",
                where=f"{plan.file.name}: data.patch",
                hint="set data.patch or data.working_size_px, or make the store first: "
                "'vesselflow data import' or 'vesselflow data synth'",
            )
        stride = task.stride
        values = {
            "spec": experiment.model,
            "channels": facts.sources[0].channels + stacked_channels(experiment, len(task.classes)),
            "classes": len(task.classes),
            "stride": (stride,) * len(sample) if isinstance(stride, int) else tuple(stride),
            "sample": tuple(sample),
            "micro_batch_size": experiment.train.micro_batch_size,
        }
        key = canonical_json({**values, "spec": MODELS.canonical(experiment.model)})
        found.setdefault(key, values)
        points.setdefault(key, []).append(point.name)
    return [Network(tuple(points[key]), **values) for key, values in found.items()]
