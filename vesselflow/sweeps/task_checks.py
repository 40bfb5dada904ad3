"""What a task asks of the stores, found before the first run; imports neither torch nor ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vesselflow.config.experiment import Experiment
from vesselflow.config.fingerprint import canonical_json
from vesselflow.config.space import Space
from vesselflow.errors import UserError
from vesselflow.feed.folds import Fold
from vesselflow.feed.view import NO_SPACING_HINT, frame, per_axis, told
from vesselflow.runs.objective import Objective
from vesselflow.runs.protocols import Protocol
from vesselflow.runs.resolved import task_of, task_part
from vesselflow.runs.specs import StoreFacts, split_key
from vesselflow.stores.schema import SourceInfo
from vesselflow.sweeps.checks import place, placed, seen_as
from vesselflow.targets.grid import LEAST_CELLS
from vesselflow.tasks.spec import TaskSpec


def check_tasks(space: Space, file: Path, stores: Mapping[str, StoreFacts]) -> None:
    """Refuse what no store here can teach, or judge.

    Raises:
        UserError: Points learn different kinds of things; stores are of other kinds or classes than
            the task needs; keypoints have a width that vanishes on the grid, or no spacing where
            their width or radius is in angstrom; patches are no whole cells.
    """
    names, done = set(), set()
    for point in space.expand().points:
        experiment = point.experiment
        facts = stores[experiment.data.train]
        key = canonical_json(
            [
                *(getattr(experiment, name).model_dump(mode="json") for name in ("task", "score")),
                experiment.data.model_dump(mode="json"),
                experiment.model,
            ]
        )
        if key in done:
            continue
        done.add(key)
        with placed(space, file):
            names.add(task_part(experiment, facts).name)
            if len(names) > 1:
                raise UserError(
                    f"points that learn {' and others that learn '.join(sorted(names))} have no "
                    "score in common",
                    where="data.train",
                    allowed="stores of one kind in one space",
                )
            Objective.of(space.objective, task_part(experiment, facts))
            task = task_of(experiment, facts)
            protocol = Protocol.of(experiment, task, facts.layout)
            _check_stores(experiment, stores)
            _check_cells(experiment, task)
            _check_widths(experiment, task, stores)
            if protocol.radius is not None and protocol.radius[0] == "angstrom":
                _check_radius(experiment, stores)


def check_keypoints(
    space: Space,
    file: Path,
    stores: Mapping[str, StoreFacts],
    folds: Mapping[str, Sequence[Fold]],
) -> None:
    """Refuse folds whose training part has no keypoint at all."""
    seen = set()
    for point in space.expand().points:
        experiment = point.experiment
        facts = stores[experiment.data.train]
        if facts.layout is None or facts.layout.kind != "keypoint" or not facts.digest:
            continue
        split, numbers = split_key(experiment), space.run_folds(experiment)
        if (split, numbers) in seen:
            continue
        seen.add((split, numbers))
        for number in numbers:
            fold = folds[split][number]
            counts = (facts.sources[facts.index[name]].keypoint_counts for name in fold.train)
            if not sum(map(sum, counts)):
                raise UserError(
                    f"the training part of fold {fold.index} (store '{facts.name}') has no "
                    "keypoint at all",
                    where=place(space, file, "split.folds"),
                    allowed="folds with one keypoint or more to train on",
                )


def _check_stores(experiment: Experiment, stores: Mapping[str, StoreFacts]) -> None:
    trained = stores[experiment.data.train].layout
    for name in experiment.data.ood:
        layout = stores[name].layout
        if trained is None or layout is None:
            continue
        if layout.kind != trained.kind:
            raise UserError(
                f"'{name}' is a {layout.kind} store, '{experiment.data.train}' is a "
                f"{trained.kind} store",
                where="data.ood",
                allowed=f"{trained.kind} stores",
            )
        if layout.classes != trained.classes:
            raise UserError(
                f"the store '{name}' has the classes {', '.join(layout.classes)}, "
                f"'{experiment.data.train}' has {', '.join(trained.classes)}",
                where="data.ood",
                allowed="stores with the same classes in the same order",
            )


def _check_cells(experiment: Experiment, task: TaskSpec) -> None:
    if experiment.data.patch == "full" or task.stride == 1:
        return
    sides = per_axis(experiment.data.patch, task.axes, "data.patch")
    if any(side % part for side, part in zip(sides, task.ds_factor, strict=True)):
        raise UserError(
            f"patches of {told(sides)} px are no whole cells of {told(task.ds_factor)} px",
            where="data.patch",
            allowed=f"multiples of {told(task.ds_factor)}, which task.ds_factor says",
        )


def _check_widths(experiment: Experiment, task: TaskSpec, stores: Mapping[str, StoreFacts]) -> None:
    """Refuse Gaussians that would vanish between the centres of cells."""
    if task.ds_sigma is not None:
        least = min(min(row) for row in task.ds_sigma)
        if least < LEAST_CELLS:
            raise UserError(
                f"a sigma of {least:g} cells would vanish between the centres of cells",
                where="task.ds_sigma",
                allowed=f"{LEAST_CELLS:g} or more; from 0.5 on a keypoint between eight cells "
                "stays above 0.2",
            )
    if task.sigma_angstrom is None:
        return
    facts = stores[experiment.data.train]
    view = seen_as(experiment, stores)
    for source in facts.sources if facts.digest else ():
        spacing = _spacing(source, facts.name, "task.sigma_angstrom")
        at = frame(source.fov_box, view, source.spacing_um)
        sizes = zip(at.working(spacing), task.ds_factor, strict=True)
        cells = [size * factor for size, factor in sizes]
        for row, name in zip(task.sigma_angstrom, task.classes, strict=True):
            for sigma, cell in zip(row, cells, strict=True):
                if sigma < LEAST_CELLS * cell * (1 - 1e-6):
                    raise UserError(
                        f"a sigma of {sigma:g} angstrom ({name}) would vanish between the centres "
                        f"of cells of {cell:g} angstrom (store '{facts.name}', '{source.id}')",
                        where="task.sigma_angstrom",
                        allowed=f"{LEAST_CELLS * max(cells):g} or more",
                        hint="or lower task.ds_factor",
                    )


def _check_radius(experiment: Experiment, stores: Mapping[str, StoreFacts]) -> None:
    for name in (experiment.data.train, *experiment.data.ood):
        for source in stores[name].sources if stores[name].digest else ():
            _spacing(source, name, "score.radius_angstrom")


def _spacing(source: SourceInfo, store: str, key: str) -> tuple[float, ...]:
    """Angstrom per native voxel along each axis."""
    if source.spacing_um is None:
        raise UserError(
            f"the source '{source.id}' of the store '{store}' has no spacing",
            where=key,
            allowed="stores whose sources all have one, or a number in voxels or cells instead",
            hint=NO_SPACING_HINT,
        )
    assert source.spacing_angstrom is not None
    return source.spacing_angstrom
