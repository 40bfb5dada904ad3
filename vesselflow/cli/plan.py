"""What `vesselflow sweep --dry-run` prints: points, runs, slots, stores, cost."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from vesselflow.config.space import Space
from vesselflow.orchestration.plan import Node, Plan, make_plan

#: More points than this are counted, not listed.
LISTED = 40


def machine() -> list[Node]:
    """This machine, as Ray would see it."""
    return [Node(float(len(os.sched_getaffinity(0))))]


def check_machine(space: Space, file: Path) -> Plan | None:
    """The plan on this machine; UserError when it cannot carry what the space asks for.

    Spaces that ask for GPUs are left to the cluster's own answer: counting them needs torch or ray.
    """
    wanted = space.resources
    if wanted.gpu:
        return None
    points = space.expand().points
    runs = sum(1 for _ in space.runs())
    return make_plan(
        machine(),
        slots=wanted.slots,
        workers=wanted.workers,
        threads=wanted.threads,
        gpu=wanted.gpu,
        runs=runs,
        runs_per_point=max(1, runs // len(points)),
        micro_batches_per_step=min(p.experiment.train.micro_batches_per_step for p in points),
        where=file.name,
    )


def print_plan(
    console: Console,
    space: Space,
    file: Path,
    profile: str | None,
    results: Path,
    plan: Plan | None,
) -> None:
    """Print the resolved plan; starts nothing and imports neither torch nor ray.

    Args:
        console: Where to.
        space: The space.
        file: The YAML file that it came from.
        profile: Which profile was laid over it.
        results: The results folder.
        plan: The slots; None when only the cluster can tell.

    Raises:
        UserError: The results folder belongs to another space, a store cannot be opened or made, or
            its sources cannot be split as the space asks.
    """
    from vesselflow.orchestration.changes import changes_line
    from vesselflow.orchestration.prepare import (
        check_owner,
        check_stores,
        store_path,
        sweep_folder,
        used_stores,
    )

    expansion = space.expand()
    folder = sweep_folder(space, profile, results)
    check_owner(file, folder)
    check_stores(space, file, results)
    paths = {name: store_path(space, name, results) for name in used_stores(space)}
    ready = all(path.exists() for path in paths.values())
    # Splits and leaks are looked at here, before half of a plan is printed.
    cells, done = _done(space, file, results) if ready else (0, 0)
    seeds = len(space.seeds)
    runs = sum(1 for _ in space.runs())
    console.print(f"[bold]{folder.name}[/bold]  {escape(space.question)}", soft_wrap=True)
    console.print(
        f"points: {len(expansion.points)}"
        + (f" ({expansion.duplicates} duplicates left out)" if expansion.duplicates else "")
        + (f" ({expansion.repeated} repeated values left out)" if expansion.repeated else "")
    )
    for point in expansion.points[:LISTED]:
        console.print(f"  {point.index:>3}  {point.name}", markup=False)
    if len(expansion.points) > LISTED:
        console.print(f"  ... and {len(expansion.points) - LISTED} more")
    folds = len(space.run_folds(expansion.points[0].experiment))
    console.print(f"runs:   {runs} (points x {folds} folds x {seeds} seeds)")
    slots = plan.describe() if plan else "as many as the cluster carries"
    console.print(f"slots:  {slots}", soft_wrap=True)
    console.print("stores:")
    for name, path in paths.items():
        declared = space.stores[name]
        if path.exists():
            state = "there"
        elif declared.synth is not None:
            state = f"is made at the start ({declared.synth.sources} images)"
        else:
            source = declared.importer.source if declared.importer else ""
            state = f"is imported at the start from {source}"
        # Paths are copied from here, so they are never cut or broken.
        console.print(f"  {name}  {path}  {state}", markup=False, soft_wrap=True)
    if ready:
        console.print(f"done:   {done} of {cells} runs are finished already")
    _print_cost(console, space, runs, plan)
    console.print(f"results: {folder}", markup=False, soft_wrap=True)
    if changed := changes_line(space, file, profile, results):
        console.print(changed, style="yellow", markup=False, soft_wrap=True)
    console.print("nothing was started (--dry-run)")


def _done(space: Space, file: Path, results: Path) -> tuple[int, int]:
    """Runs of the sweep, and those of them that are trained and scored."""
    from vesselflow.evaluation.tables import score_cell
    from vesselflow.orchestration.prepare import as_cell, make_folds_of, open_stores
    from vesselflow.orchestration.runs import make_runs

    stores = open_stores(space, file, results, lambda text: None)
    cells = make_runs(space, make_folds_of(space, file, stores), stores)
    return len(cells), sum(score_cell(as_cell(cell), results).complete for cell in cells)


def _print_cost(console: Console, space: Space, runs: int, plan: Plan | None) -> None:
    seconds = space.estimate.seconds_per_step
    steps = 0
    for point, _, _ in space.runs():
        train = point.experiment.train
        if train.steps_per_epoch is None:
            console.print("cost:   unknown: set train.steps_per_epoch to have it estimated")
            return
        steps += train.epochs * train.steps_per_epoch
    if seconds is None:
        console.print(f"cost:   {steps} steps; set estimate.seconds_per_step to have them in time")
        return
    slots = plan.slots if plan else 1
    hours = steps * seconds / 3600
    console.print(
        f"cost:   {steps} steps x {seconds:g} s = {hours:.2f} slot hours, about "
        f"{hours / slots * 60:.0f} minutes on {slots} slots (scoring comes on top)"
    )
