"""What `vesselflow sweep --dry-run` prints: points, runs, slots, stores, cost."""

from __future__ import annotations

import os
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from vesselflow.config.paths import url_scheme
from vesselflow.config.space import Space
from vesselflow.errors import UserError
from vesselflow.sweeps.capacity import Plan, make_plan
from vesselflow.sweeps.machine import machine

#: More points than this are counted, not listed.
LISTED = 40


def check_results(results: str) -> Path:
    """The results folder; UserError for the address of an object store or of a server."""
    scheme = url_scheme(results)
    if scheme:
        raise UserError(
            f"'{results}' is no folder; {scheme}:// is not supported yet",
            where="--results",
            allowed="a folder of this machine, or one that is mounted",
            hint="mount it, or copy the results there afterwards",
        )
    return Path(results)


def check_machine(space: Space, file: Path) -> Plan | None:
    """The plan on this machine; UserError when it cannot carry what the space asks for.

    None where only Ray can tell: graphics cards of another maker than NVIDIA.
    """
    wanted = space.resources
    nodes = machine()
    if wanted.gpu and not any(node.gpus for node in nodes):
        if os.path.exists("/dev/kfd"):  # AMD's
            return None
        raise UserError(
            f"{wanted.gpu:g} GPU per worker is asked for, with 0 GPUs on this machine",
            where=f"{file.name}: resources.gpu",
            allowed="0",
            hint="set resources.gpu: 0, or name a cluster that has some with --address",
        )
    points = space.expand().points
    runs = sum(1 for _ in space.runs())
    return make_plan(
        nodes,
        slots=wanted.slots,
        workers=wanted.workers,
        threads=wanted.threads,
        gpu=wanted.gpu,
        runs=runs,
        runs_per_point=max(1, runs // len(points)),
        micro_batches_per_step=min(p.experiment.train.micro_batches_per_step for p in points),
        where=file.name,
    )


def plan_here(space: Space, file: Path, results: Path, *, fresh: bool = False) -> Plan | None:
    """`check_machine`, but a sweep that has nothing left to do needs nothing of the machine.

    Args:
        space: The space.
        file: The YAML file that it came from.
        results: The results folder.
        fresh: Finished runs are going to be done again.

    Returns:
        None also where every run is finished, and this machine could not carry another one.
    """
    try:
        return check_machine(space, file)
    except UserError:
        if fresh or not _finished(space, file, results):
            raise
        return None


def _finished(space: Space, file: Path, results: Path) -> bool:
    """Whether every run of a space is finished and scored; nothing is made, nothing is said."""
    from vesselflow.sweeps.prepare import check_space, known_stores, look_up_runs

    try:
        stores = known_stores(space, file, results)
        _, scored = look_up_runs(space, check_space(space, file, stores), stores, results)
    except UserError:  # Told by whoever needs it.
        return False
    return bool(scored) and all(row.complete for row in scored)


def print_plan(
    console: Console,
    space: Space,
    file: Path,
    profile: str | None,
    results: Path,
    plan: Plan | None,
    *,
    here: bool = True,
) -> None:
    """Print the resolved plan; starts nothing.

    Imports neither torch nor ray, but for a model with an encoder of timm, which it must try.

    Args:
        console: Where to.
        space: The space.
        file: The YAML file that it came from.
        profile: Which profile was laid over it.
        results: The results folder.
        plan: The slots; None when only the cluster can tell, or when none are needed.
        here: The sweep would train on this machine.

    Raises:
        UserError: Whatever a start would refuse (`prepare`).
    """
    from vesselflow.sweeps.changes import changes_line
    from vesselflow.sweeps.checks import check_models, check_weights
    from vesselflow.sweeps.prepare import (
        check_owner,
        check_space,
        check_writable,
        known_stores,
        look_up_runs,
        sweep_folder,
        to_train,
    )

    def notify(text: str) -> None:
        console.print(text, style="dim", markup=False, soft_wrap=True)

    expansion = space.expand()
    folder = sweep_folder(space, profile, results)
    check_owner(file, folder)
    check_writable(folder, probe=False)
    stores = known_stores(space, file, results)
    # All of it is looked at here, before half of a plan is printed.
    cells, scored = look_up_runs(space, check_space(space, file, stores), stores, results)
    left = to_train(space, cells, scored)
    check_models(space, file, left, stores, notify)
    fetched: list[str] = []
    if here:
        check_weights(space, file, left, fetched.append, fetch=False)
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
    done = sum(row.complete for row in scored)
    slots = plan.describe() if plan else "as many as the cluster carries"
    if plan is None and here and cells and done == len(cells):
        slots = "none are needed"
    console.print(f"slots:  {slots}", soft_wrap=True)
    console.print("stores:")
    for name, facts in stores.items():
        path = facts.path
        declared = space.stores[name]
        if facts.digest:
            state = "there"
        elif declared.synth is not None:
            state = f"is made at the start ({len(facts.sources)} images)"
        else:
            source = declared.importer.source if declared.importer else ""
            state = f"is imported at the start from {source}"
        # Paths are copied from here, so they are never cut or broken.
        console.print(f"  {name}  {path}  {state}", markup=False, soft_wrap=True)
    for line in fetched:
        console.print(f"note:   {line}", markup=False, soft_wrap=True)
    if cells:
        console.print(f"done:   {done} of {len(cells)} runs are finished already")
    _print_cost(console, space, runs, plan)
    console.print(f"results: {folder}", markup=False, soft_wrap=True)
    if changed := changes_line(space, file, profile, results):
        console.print(changed, style="yellow", markup=False, soft_wrap=True)
    console.print("nothing was started (--dry-run)")


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
