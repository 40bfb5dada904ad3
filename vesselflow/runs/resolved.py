"""Tasks, metrics and radii: where a space is silent, what the training store declares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from vesselflow.config.experiment import Experiment
from vesselflow.errors import UserError
from vesselflow.feed.view import per_axis
from vesselflow.tasks import TASKS
from vesselflow.tasks.registry import TaskPart
from vesselflow.tasks.spec import TaskSpec, Widths

if TYPE_CHECKING:
    from vesselflow.runs.specs import StoreFacts
    from vesselflow.stores.layout import Layout

#: Coarse cells: half a cell is the least at which a keypoint between cells stays well above zero,
#: one is what the refinement of peaks reads best.
SIGMA_CELLS = 1.0


def task_part(experiment: Experiment, facts: StoreFacts) -> TaskPart:
    """The task of an experiment: the one that it names, or that its training store is made for.

    Raises:
        UserError: The named task is not for stores of that kind.
    """
    kind = "patch" if facts.layout is None else facts.layout.kind
    if experiment.task.name is None:
        return TASKS.of_kind(kind)
    found = TASKS.task(experiment.task.name, where="task.name")
    if facts.layout is not None and found.kind != kind:
        fitting = [name for name in TASKS.names() if TASKS.task(name).kind == kind]
        raise UserError(
            f"{found.name} needs a {found.kind} store, '{facts.name}' is a {kind} store",
            where="task.name",
            allowed=", ".join(fitting),
        )
    return found


def task_of(experiment: Experiment, facts: StoreFacts) -> TaskSpec:
    """The task of an experiment on its training store, with all settings filled in.

    Raises:
        UserError: A setting does not fit the store: its key, and what is allowed.
    """
    part, given, layout = task_part(experiment, facts), experiment.task, facts.layout
    if layout is None:
        return TaskSpec(name=part.name, version=part.version)
    axes, classes = layout.dims, layout.classes
    if part.kind != "keypoint":
        return TaskSpec(
            part.name,
            part.version,
            classes,
            axes,
            per_axis(1 if given.ds_factor is None else given.ds_factor, axes, "task.ds_factor"),
            activation=_activation(given.activation, layout, facts.name),
        )
    if given.activation == "softmax":
        raise UserError(
            "softmax is for masks whose classes exclude each other: heat-maps of near keypoints "
            "overlap",
            where="task.activation",
            allowed="sigmoid",
            hint="score.exclusive lets one place hold one class",
        )
    factor: Any = layout.ds_factor if given.ds_factor is None else given.ds_factor
    cells, angstrom = given.ds_sigma, given.sigma_angstrom
    if cells is not None and angstrom is not None:
        raise UserError(
            "the width of keypoints is given twice",
            where="task.sigma_angstrom",
            allowed="one of task.ds_sigma and task.sigma_angstrom",
        )
    if cells is None and angstrom is None:
        cells, angstrom = declared_width(layout, factor)
    return TaskSpec(
        name=part.name,
        version=part.version,
        classes=classes,
        axes=axes,
        ds_factor=per_axis(factor, axes, "task.ds_factor"),
        ds_sigma=_widths(cells, classes, axes, "task.ds_sigma"),
        sigma_angstrom=_widths(angstrom, classes, axes, "task.sigma_angstrom"),
        combine=given.combine,
        truncate=given.truncate,
        rigid=given.rigid,
    )


def _activation(given: str | None, layout: Layout, store: str) -> str:
    """That of a patch store; of one class both are the same, and it is called by one name."""
    if len(layout.classes) == 1:
        return "sigmoid"
    exclusive = layout.target == "labels"
    if given == "softmax" and not exclusive:
        raise UserError(
            f"the classes of the store '{store}' may overlap, and softmax lets them exclude each "
            "other",
            where="task.activation",
            allowed="sigmoid",
        )
    return given or ("softmax" if exclusive else "sigmoid")


def metric_of(named: str | None, part: TaskPart, *, where: str) -> str:
    """The metric that is named, or the task's own; UserError for one of another task."""
    return part.metrics.metric(part.objective if named is None else named, where=where).name


def radius_of(
    experiment: Experiment, task: TaskSpec, layout: Layout | None
) -> tuple[str, tuple[float, ...]]:
    """How far a pick may lie from its keypoint: ("voxels" or "angstrom", one number per class).

    Where the space says nothing it is the width that the training store declares (not the one that
    is trained with, which may be an axis): in angstrom where the store says it so.

    Raises:
        UserError: Given twice, for other classes than there are, or nobody says it.
    """
    score = experiment.score
    if score.radius_voxels is not None and score.radius_angstrom is not None:
        raise UserError(
            "the radius is given twice",
            where="score.radius_angstrom",
            allowed="one of score.radius_voxels and score.radius_angstrom",
        )
    for unit, given in (("angstrom", score.radius_angstrom), ("voxels", score.radius_voxels)):
        if given is not None:
            return unit, _per_class(given, task.classes, f"score.radius_{unit}")
    assert layout is not None  # there are classes, so there is a store
    if layout.sigma_angstrom is not None:
        return "angstrom", _per_class(
            _declared(layout.sigma_angstrom), task.classes, "score.radius_angstrom"
        )
    if layout.ds_sigma is not None:
        widths = _per_class(_declared(layout.ds_sigma), task.classes, "score.radius_voxels")
        return "voxels", tuple(width * layout.ds_factor for width in widths)
    raise UserError(
        "the store declares no width of its keypoints, so nobody knows how near a pick has to be",
        where="score.radius_voxels",
        allowed="a number, or one for each class by its name",
    )


def declared_width(layout: Layout, factor: Any, *, spaced: bool = True) -> tuple[Any, Any]:
    """The width that a store declares for its keypoints, (in cells, in angstrom), one of them None.

    In angstrom first, because that holds whatever the grid; where the store declares none, one
    cell. A number for all classes, or a list of one for each.

    Args:
        layout: Of the store.
        factor: Voxels of a cell, one number or one for each axis.
        spaced: Whether the spacing is known, without which nothing is told in angstrom.
    """
    if spaced and layout.sigma_angstrom is not None:
        return None, _declared(layout.sigma_angstrom)
    return _in_cells(layout, factor), None


def _declared(sigma: Any) -> Any:
    return list(sigma) if isinstance(sigma, tuple) else sigma


def _in_cells(layout: Layout, factor: Any) -> Any:
    """The width that the store declares in its own cells, in those that are asked for."""
    declared = layout.ds_sigma
    if declared is None:
        return SIGMA_CELLS
    if not isinstance(factor, int) or factor == layout.ds_factor:
        return _declared(declared)
    ratio = layout.ds_factor / factor
    numbers = declared if isinstance(declared, tuple) else (declared,)
    scaled = [number * ratio for number in numbers]
    return scaled if isinstance(declared, tuple) else scaled[0]


def _widths(given: Any, classes: tuple[str, ...], axes: int, where: str) -> Widths | None:
    """A row per class; lists are of the classes where the store declares them, else of the axes."""
    if given is None:
        return None
    if isinstance(given, tuple):
        return (tuple(map(float, per_axis(given, axes, where))),) * len(classes)
    return tuple((width,) * axes for width in _per_class(given, classes, where))


def _per_class(given: Any, classes: tuple[str, ...], where: str) -> tuple[float, ...]:
    if isinstance(given, Mapping):
        if set(given) != set(classes):
            raise UserError(
                f"is given for {', '.join(map(str, given))}",
                where=where,
                allowed=f"a number, or one for each of {', '.join(classes)}",
            )
        return tuple(float(given[name]) for name in classes)
    if isinstance(given, list):
        return tuple(map(float, given))
    assert math.isfinite(given)
    return (float(given),) * len(classes)
