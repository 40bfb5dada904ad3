"""The one way from a space to its runs: what is there, done, missing, or wrong.

Imports neither torch nor ray: a sweep that has nothing left to do ends here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from vesselflow.config.experiment import Experiment
from vesselflow.config.grid import Expansion
from vesselflow.config.space import Space
from vesselflow.errors import UserError
from vesselflow.evaluation.long_tables import Lookup, Scored
from vesselflow.feed.folds import Fold
from vesselflow.records.paths import AnyPath, any_path
from vesselflow.runs.cells import Cell, Job, make_cells, make_jobs
from vesselflow.runs.objective import Objective
from vesselflow.runs.resolved import task_part
from vesselflow.runs.specs import StoreFacts, folds_of, split_key
from vesselflow.sweeps import checks
from vesselflow.sweeps.changes import changes_line
from vesselflow.sweeps.folder import (
    check_owner,
    check_writable,
    sweep_folder,
    write_head,
    write_splits,
    writing,
)
from vesselflow.sweeps.initial_weights import Initials, check_shapes, keep_files
from vesselflow.sweeps.matching import Matched, match_widths
from vesselflow.sweeps.sampling_checks import check_sampling
from vesselflow.sweeps.stacked_on import Bases
from vesselflow.sweeps.stores_made import known_stores, open_stores
from vesselflow.sweeps.task_checks import check_keypoints, check_tasks
from vesselflow.sweeps.unlabelled import check_unlabelled


@dataclass
class SweepPlan:
    """All that is known of a sweep before anything is made.

    Attributes:
        space: The space.
        file: The YAML file that it came from.
        profile: Which profile was laid over it.
        expansion: Its points.
        results: The results folder.
        folder: The sweep's folder in it.
        stores: Facts of every store that is used, by name.
        folds: Folds by `split_key` of the experiments that use them.
        cells: Points x folds x seeds; none while a store is not made yet.
        scored: What is known of each cell, in the same order.
        lookup: By which it is known.
        changed: What differs from the settings that the folder holds the answer to; "" if nothing.
        matched: How the widths of its points were matched; None where they are as given.
    """

    space: Space
    file: Path
    profile: str | None
    expansion: Expansion
    results: AnyPath
    folder: AnyPath
    stores: dict[str, StoreFacts]
    folds: dict[str, list[Fold]]
    cells: list[Cell]
    scored: list[Scored]
    lookup: Lookup
    changed: str = ""
    matched: Matched | None = None

    @property
    def whole(self) -> bool:
        """Whether every store is there, so that every run has its name."""
        return all(facts.digest for facts in self.stores.values())

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train or to score."""
        return self.whole and all(row.complete for row in self.scored)

    @property
    def objective(self) -> Objective:
        """By what validation chooses."""
        return objective_of(self.space, self.stores)

    def missing(self) -> list[Cell]:
        """Cells that are not trained, or not scored everywhere."""
        return [row.cell for row in self.scored if not row.complete]

    def jobs(self) -> list[Job]:
        """What completes the missing cells: one job for each run that they need, in their order."""
        return make_jobs(self.missing(), self.objective)

    def open_points(self, *, fresh: bool = False) -> list[Experiment]:
        """The experiments of the points that have a run left to do."""
        if fresh or not self.cells:
            return [point.experiment for point in self.expansion.points]
        names = {row.cell.point for row in self.scored if not row.complete}
        return [point.experiment for point in self.expansion.points if point.name in names]

    def rescore(self) -> None:
        """Read again what is known of each cell that was not complete."""
        self.lookup.refresh()
        self.lookup.fetch([row.cell for row in self.scored if not row.complete])
        self.scored = [
            row if row.complete else self.lookup.score(row.cell, self.objective)
            for row in self.scored
        ]
        self.lookup.flush()


class Prepared(SweepPlan):
    """A sweep that is ready to run: its stores are made, its folder is there."""


def plan_sweep(
    space: Space,
    results: str | AnyPath = "results",
    *,
    fresh: bool = False,
    here: bool = True,
    start: bool = False,
    notify: Callable[[str], None] = lambda text: None,
    weights: Callable[[str], None] | None = None,
) -> SweepPlan:
    """Plan every run of a space and check all that can be checked; nothing is made or started.

    The dry run, the sweep and Python plan by this one function.

    Args:
        space: As `load_space` gave it.
        results: The results folder; it need not be there.
        fresh: Runs that are finished are going to be done again.
        here: Runs are trained on this machine, so that pretrained weights must be on it.
        start: What a start needs besides: weights are fetched, the folder is tried by writing.
        notify: Gets a line for whatever takes long.
        weights: Gets a line for each set of pretrained weights that a start would fetch (or
            fetches); `notify` when None.

    Raises:
        UserError: A store, a split, a model or the results folder is not as it must be.
    """
    file, results = space.file, any_path(results)
    folder = sweep_folder(space, space.profile, results)
    check_owner(file, folder)
    check_writable(folder, probe=start)
    stores = known_stores(space, file, results, notify)
    space, folds, matched = settle(space, file, stores, notify)
    lookup = Lookup(results, keep=start)
    cells, scored = look_up_runs(space, folds, stores, lookup)
    plan = SweepPlan(
        space,
        file,
        space.profile,
        space.expand(),
        results,
        folder,
        stores,
        folds,
        cells,
        scored,
        lookup,
        changes_line(space, file, space.profile, results),
        matched,
    )
    left = plan.open_points(fresh=fresh)
    checks.check_models(space, file, left, stores, notify)
    checks.check_parameters(space, file, left, stores, notify)
    check_shapes(space, file, plan.missing(), stores, results)
    if here:
        checks.check_weights(space, file, left, weights or notify, fetch=start)
    return plan


def with_stores(plan: SweepPlan, notify: Callable[[str], None] = lambda text: None) -> SweepPlan:
    """The plan with every store made, so that every run has its name; nothing else is written.

    Args:
        plan: The plan, which stays as it is.
        notify: Gets a line for whatever takes long.

    Raises:
        UserError: A store or a split is not as it must be.
    """
    if plan.whole:
        return plan
    return on_stores(plan, open_stores(plan.space, plan.file, plan.results, notify), notify)


def on_stores(
    plan: SweepPlan, stores: dict[str, StoreFacts], notify: Callable[[str], None]
) -> SweepPlan:
    """The plan on stores that were made just now, of which more is known than before.

    Raises:
        UserError: A store or a split is not as it must be.
    """
    space, folds, matched = settle(plan.space, plan.file, stores, notify)
    cells, scored = look_up_runs(space, folds, stores, plan.lookup)
    return replace(
        plan,
        space=space,
        expansion=space.expand(),
        stores=stores,
        folds=folds,
        cells=cells,
        scored=scored,
        matched=matched,
    )


def settle(
    space: Space,
    file: Path,
    stores: Mapping[str, StoreFacts],
    notify: Callable[[str], None] = lambda text: None,
) -> tuple[Space, dict[str, list[Fold]], Matched | None]:
    """The space with its points as they are on these stores, its folds, and how it was matched.

    Raises:
        UserError: As `check_space` and `match_widths` raise it.
    """
    folds = check_space(space, file, stores)
    space, matched = match_widths(space, file, stores, notify)
    if matched is not None:  # norms of other widths need other sizes
        checks.check_sizes(space, file, stores)
    return space, folds, matched


def make_ready(
    plan: SweepPlan,
    *,
    command: Sequence[str] = (),
    notify: Callable[[str], None] = lambda text: None,
) -> Prepared:
    """Make what a plan lacks: stores on demand, the sweep's folder, its head and its splits.

    Args:
        plan: The plan.
        command: For the provenance.
        notify: Gets a line for whatever takes long.

    Raises:
        UserError: A store or a split is not as it must be, or the folder cannot be written.
    """
    plan = with_stores(plan, notify)
    with writing(plan.folder):
        plan.folder.mkdir(parents=True, exist_ok=True)
    write_head(
        *(plan.space, plan.file, plan.profile, plan.folder, plan.stores, command),
        noted={"matched": plan.matched.plain()} if plan.matched else {},
    )
    write_splits(plan.folder / "splits", plan.expansion, plan.folds, plan.stores)
    keep_files(plan.cells, plan.results)
    plan.lookup.keep()
    return Prepared(**{field.name: getattr(plan, field.name) for field in fields(plan)})


def prepare(
    space: Space,
    results: str | AnyPath = "results",
    *,
    command: Sequence[str] = (),
    notify: Callable[[str], None] = lambda text: None,
    fresh: bool = False,
    here: bool = True,
) -> Prepared:
    """`plan_sweep`, then `make_ready`: everything before the first run.

    Raises:
        UserError: What either raises; all that can be refused is looked at before anything is made.
    """
    plan = plan_sweep(space, results, fresh=fresh, here=here, start=True, notify=notify)
    return make_ready(plan, command=command, notify=notify)


def look_up_runs(
    space: Space,
    folds: Mapping[str, Sequence[Fold]],
    stores: Mapping[str, StoreFacts],
    lookup: Lookup,
) -> tuple[list[Cell], list[Scored]]:
    """Every cell of the sweep and what is known of it; none while a store is not made yet."""
    if not all(facts.digest for facts in stores.values()):
        return [], []
    initials = Initials(lookup.results, stores, folder=space.file.parent)
    bases = Bases(lookup.results, stores)
    with checks.placed(space, space.file):
        cells = make_cells(space, folds, stores, initials.of, bases.of)
    objective = objective_of(space, stores)
    lookup.fetch(cells)
    return cells, [lookup.score(cell, objective) for cell in cells]


def objective_of(space: Space, stores: Mapping[str, StoreFacts]) -> Objective:
    """By what validation chooses; all points learn the same kind of thing: see `check_tasks`."""
    experiment = space.expand().points[0].experiment
    return Objective.of(space.objective, task_part(experiment, stores[experiment.data.train]))


def check_space(
    space: Space, file: Path, stores: Mapping[str, StoreFacts]
) -> dict[str, list[Fold]]:
    """Refuse what no run would survive, as far as the stores are known; return the folds.

    Args:
        space: The space.
        file: The YAML file that it came from.
        stores: Facts of every store in use; those of one that is not made yet have no digest.

    Raises:
        UserError: Folds, leaks, channels, sizes, or patches outside the field of view.
    """
    named = checks.with_names_of_pixels(stores)
    check_unlabelled(space, file, named)
    folds = make_folds_of(space, file, named)
    checks.check_axes(space, file, stores)
    check_tasks(space, file, stores)
    checks.check_channels(space, file, stores)
    checks.check_sizes(space, file, stores)
    checks.check_samples(space, file, stores, folds)
    checks.check_batches(space, file, stores)
    check_keypoints(space, file, stores, folds)
    check_sampling(space, file, stores, folds)
    return folds


def make_folds_of(
    space: Space, file: Path, stores: Mapping[str, StoreFacts]
) -> dict[str, list[Fold]]:
    """The folds of every split that some point uses, by `split_key`."""
    folds: dict[str, list[Fold]] = {}
    for point in space.expand().points:
        name = split_key(point.experiment)
        if name not in folds:
            given = point.experiment.split.file
            split_file = None if given is None else file.parent / given
            try:
                folds[name] = folds_of(point.experiment, stores, split_file)
            except UserError as error:
                raise _located(error, file, point.experiment.data.train, split_file) from None
    return folds


def _located(error: UserError, file: Path, train: str, split_file: Path | None) -> UserError:
    """An error about folds, with the space's file and key before it."""
    if error.where.startswith("split"):
        where, what = error.where, f"{error.what} (store '{train}')"
    elif split_file is not None and error.where.startswith(str(split_file)):
        where, what = "split.file", f"{error.where}: {error.what}"
    else:
        where, what = "data", f"{error.where}: {error.what}" if error.where else error.what
    return UserError(what, where=f"{file.name}: {where}", allowed=error.allowed, hint=error.hint)
