"""Widths that are scaled until the points of a space have as many parameters as its first one.

What is scaled are the experiments themselves, before runs are named: a run has the widths that it
was trained with, and is the same one as that of a space which gives them. Torch is imported where
`match_parameters` is on, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vesselflow.config.fingerprint import canonical_json
from vesselflow.config.grid import Point
from vesselflow.config.space import Space
from vesselflow.errors import UserError
from vesselflow.models import MODELS
from vesselflow.models.widths import Ladder, match
from vesselflow.runs.resolved import task_of
from vesselflow.runs.specs import StoreFacts
from vesselflow.runs.stacked import stacked_channels
from vesselflow.sweeps.checks import placed

KEY = "match_parameters"
#: How far parameters may be from those of the first point, as a share of these.
BOUND = 0.05


@dataclass(frozen=True)
class Width:
    """How one point was matched.

    Attributes:
        widths: Argument of its model -> what it is now; as given where nothing was scaled.
        given: Parameters with the widths that the space gives.
        parameters: Parameters now.
    """

    widths: Mapping[str, Any]
    given: int
    parameters: int


@dataclass(frozen=True)
class Matched:
    """How the points of a space were matched.

    Attributes:
        reference: Name of the first point.
        parameters: Of its model.
        points: By name, the first one among them.
    """

    reference: str
    parameters: int
    points: Mapping[str, Width]

    @property
    def scaled(self) -> int:
        """Points whose widths are not those that the space gives."""
        return sum(each.given != each.parameters for each in self.points.values())

    @property
    def furthest(self) -> float:
        """Largest distance of parameters to those of the first point, as a share of these."""
        counts = [each.parameters for each in self.points.values()]
        return max(abs(count / self.parameters - 1.0) for count in counts)

    def plain(self) -> dict[str, Any]:
        """As plain data, for the provenance."""
        points = {
            name: {"widths": dict(each.widths), "given": each.given, "parameters": each.parameters}
            for name, each in self.points.items()
        }
        return {
            "reference": self.reference,
            "parameters": self.parameters,
            "within": self.furthest,
            "points": points,
        }


def match_widths(
    space: Space,
    file: Path,
    stores: Mapping[str, StoreFacts],
    notify: Callable[[str], None] = lambda text: None,
) -> tuple[Space, Matched | None]:
    """The space with the widths of its points matched, where it asks for that.

    It always begins with the widths that are given, so that whoever knows the stores, on whatever
    machine, comes to the same ones.

    Args:
        space: The space, valid on these stores.
        file: The YAML file that it came from.
        stores: Facts of every store that is used.
        notify: Gets a line before torch is imported.

    Returns:
        The space, and how it was matched: None where nothing is asked for, or where the channels of
        a store will only be known when it is made.

    Raises:
        UserError: An axis sets a width, a model cannot be brought near enough, or two points would
            be one.
    """
    points = space.given.points
    if not space.match_parameters:
        return space, None
    _check_axes(space, file)
    if any(not _channels(point, stores) for point in points):
        return space, None
    notify("matching the parameters of the points (this loads torch)")
    known: dict[str, Width] = {}
    found: dict[str, Width] = {}
    wanted: int | None = None
    for point in points:
        experiment = point.experiment
        task = task_of(experiment, stores[experiment.data.train])
        shape = {
            "channels": _channels(point, stores) + stacked_channels(experiment, len(task.classes)),
            "classes": len(task.classes),
            "stride": task.stride,
        }
        key = canonical_json([MODELS.canonical(experiment.model), shape])
        if key not in known:
            with placed(space, file):
                known[key] = _match(experiment.model, shape, wanted)
        found[point.name] = known[key]
        wanted = wanted or known[key].parameters
    assert wanted is not None
    told = Matched(points[0].name, wanted, found)
    _check_bound(told, file)
    moved = tuple(_widened(point, found[point.name].widths) for point in points)
    _check_apart(moved, file)
    return space.settled(replace(space.given, points=moved)), told


def _match(spec: Mapping[str, Any], shape: Mapping[str, Any], wanted: int | None) -> Width:
    """How a model is matched; as it is given where there is no number to be met yet."""
    from vesselflow.models.trial import parameters_of

    def count(each: Mapping[str, Any]) -> int:
        return parameters_of(each, **shape)

    given = count(spec)
    scaled, parameters = match(spec, given if wanted is None else wanted, count)
    return Width({key: scaled[key] for key in Ladder(spec).keys}, given, parameters)


def _channels(point: Point, stores: Mapping[str, StoreFacts]) -> int:
    """Of the images that a point trains on; 0 when they are not known yet."""
    sources = stores[point.experiment.data.train].sources
    return sources[0].channels if sources else 0


def _widened(point: Point, widths: Mapping[str, Any]) -> Point:
    model = {**point.experiment.model, **widths}
    return replace(point, experiment=point.experiment.model_copy(update={"model": model}))


def _check_axes(space: Space, file: Path) -> None:
    """Refuse an axis of widths: scaled to one number of parameters, its values say nothing.

    A joint setting that names the model as well may say from which widths that one begins.
    """
    widths = {key for each in space.given.points for key in Ladder(each.experiment.model).keys}
    for axis, entry in space.grid.items():
        for keys in [[axis]] if entry.settings is None else [[*s.assign] for s in entry.settings]:
            for key in keys:
                if "model.name" not in keys and any(key == f"model.{name}" for name in widths):
                    raise UserError(
                        f"{key} is an axis, and is scaled to one number of parameters",
                        where=f"{file.name}: grid.{axis}",
                        allowed="other axes",
                        hint=f"leave one of them out, or set {KEY}: false",
                    )


def _check_bound(told: Matched, file: Path) -> None:
    for name, each in told.points.items():
        ratio = each.parameters / told.parameters
        if abs(ratio - 1.0) > BOUND:
            widths = ", ".join(f"{key} {value}" for key, value in each.widths.items())
            nearest = f"with {widths}, the nearest" if widths else "its model has no width to scale"
            raise UserError(
                f"'{name}' has {each.parameters:,} parameters ({nearest}), {ratio:.3g} times the "
                f"{told.parameters:,} of '{told.reference}'",
                where=f"{file.name}: {KEY}",
                allowed=f"{1 - BOUND:g} to {1 + BOUND:g} times",
                hint="give it, or the first point, other widths or another model, or leave it out",
            )


def _check_apart(points: tuple[Point, ...], file: Path) -> None:
    seen: dict[str, str] = {}
    for point in points:
        first = seen.setdefault(canonical_json(point.experiment.plain()), point.name)
        if first != point.name:
            raise UserError(
                f"'{first}' and '{point.name}' are one once their widths are matched",
                where=f"{file.name}: {KEY}",
                hint="leave one of them out",
            )
