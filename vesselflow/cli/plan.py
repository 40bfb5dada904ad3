"""What `vesselflow sweep --dry-run` prints: points, runs, slots, stores, cost."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from vesselflow.config.experiment import Experiment
from vesselflow.config.paths import url_scheme
from vesselflow.config.space import Space
from vesselflow.errors import UserError
from vesselflow.records.bucket import SCHEMES
from vesselflow.records.paths import AnyPath, any_path
from vesselflow.runs.cells import trainings
from vesselflow.sweeps.capacity import SlotPlan, make_plan
from vesselflow.sweeps.machine import machine
from vesselflow.sweeps.planning import SweepPlan

#: More points than this are counted, not listed.
LISTED = 40


def check_results(results: str) -> AnyPath:
    """Where the results are; UserError for an address that is no bucket's."""
    scheme = url_scheme(results)
    if scheme in SCHEMES:
        return any_path(results)
    if scheme:
        raise UserError(
            f"'{results}' is no folder; {scheme}:// is not supported",
            where="--results",
            allowed="a folder of this machine, or a bucket: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX",
            hint="mount it, or copy the results there afterwards",
        )
    return Path(results)


def check_machine(space: Space, file: Path) -> SlotPlan | None:
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
        slots=space.slot_range,
        workers=wanted.workers,
        threads=wanted.threads,
        gpu=wanted.gpu,
        runs=runs,
        runs_per_point=max(1, runs // len(points)),
        micro_batches_per_step=min(p.experiment.train.micro_batches_per_step for p in points),
        where=file.name,
    )


def slots_here(plan: SweepPlan, *, fresh: bool = False) -> SlotPlan | None:
    """`check_machine`, but a sweep that has nothing left to do needs nothing of the machine.

    Args:
        plan: The sweep.
        fresh: Finished runs are going to be done again.

    Returns:
        None also where every run is finished, and this machine could not carry another one.
    """
    try:
        return check_machine(plan.space, plan.file)
    except UserError:
        if fresh or not plan.finished:
            raise
        return None


def print_plan(
    console: Console, plan: SweepPlan, slots: SlotPlan | None, fetched: Sequence[str] = ()
) -> None:
    """Print a plan; starts nothing.

    Args:
        console: Where to.
        plan: The sweep.
        slots: The slots; None when only the cluster can tell, or when none are needed.
        fetched: Lines on weights that a start would fetch.
    """
    space, expansion, folder = plan.space, plan.expansion, plan.folder
    stores, cells, scored = plan.stores, plan.cells, plan.scored
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
    trained = trainings(space)
    shared = f"{len(trained)} trained, scored as " if len(trained) < runs else ""
    console.print(f"runs:   {shared}{runs} (points x {folds} folds x {seeds} seeds)")
    done = sum(row.complete for row in scored)
    carried = slots.describe() if slots else "as many as the cluster carries"
    if slots is None and plan.finished:
        carried = "none are needed"
    console.print(f"slots:  {carried}", soft_wrap=True)
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
    if space.match_parameters:
        console.print(f"widths: {_widths(plan)}", markup=False, soft_wrap=True)
    if cells:
        console.print(f"done:   {done} of {len(cells)} runs are finished already")
    _print_cost(console, space, trained, slots)
    console.print(f"results: {folder}", markup=False, soft_wrap=True)
    if plan.changed:
        console.print(plan.changed, style="yellow", markup=False, soft_wrap=True)
    console.print("nothing was started (--dry-run)")


def _widths(plan: SweepPlan) -> str:
    """How the widths of the points were matched, in words."""
    matched = plan.matched
    if matched is None:
        return "are matched at the start, when the stores are there"
    return (
        f"{matched.scaled} of {len(matched.points)} points are scaled to the "
        f"{matched.parameters:,} parameters of {matched.reference}, within {matched.furthest:.1%} "
        "('vesselflow model' lists them)"
    )


def _print_cost(
    console: Console, space: Space, trained: Sequence[Experiment], plan: SlotPlan | None
) -> None:
    seconds = space.estimate.seconds_per_step
    steps = 0
    for experiment in trained:
        train = experiment.train
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
