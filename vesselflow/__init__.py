"""vesselflow: ablation sweeps for vessel segmentation, from one YAML file and one command.

The same in Python:

    space = load_space("search_spaces/loss_beta.yaml", overrides=["train.epochs=2"])
    plan = plan_sweep(space, "results")
    outcome = run_sweep(plan)
    answer = load_results(plan.folder)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vesselflow.config.space import Space
    from vesselflow.reporting.sweep_tables import SweepTables
    from vesselflow.sweeps.outcome import Outcome, Watch
    from vesselflow.sweeps.planning import SweepPlan

__version__ = "0.3.0"
__all__ = ["__version__", "load_results", "load_space", "plan_sweep", "run_sweep"]


def load_space(
    path: str | Path, *, profile: str | None = None, overrides: Sequence[str] = ()
) -> Space:
    """Read, complete and validate a space.

    Args:
        path: The YAML file.
        profile: Name of one of its profiles.
        overrides: ``key.path=value`` texts, as after ``--set``.

    Raises:
        UserError: All that is wrong, a line for each.
    """
    from vesselflow.config import loading
    from vesselflow.runs.registries import REGISTRIES

    return loading.load_space(path, profile=profile, overrides=overrides, registries=REGISTRIES)


def plan_sweep(
    space: Space, results: str | Path = "results", *, fresh: bool = False, here: bool = True
) -> SweepPlan:
    """Plan every run of a space and check all that can be checked; nothing is made or started.

    Args:
        space: As `load_space` gave it.
        results: The results folder; it need not be there.
        fresh: Runs that are finished are going to be done again.
        here: Runs are trained on this machine, not on a cluster.

    Returns:
        Points, folds, cells and what is done of them; ``jobs()`` are the runs that are missing.

    Raises:
        UserError: Whatever a start would refuse.
    """
    from vesselflow.sweeps import planning

    return planning.plan_sweep(space, results, fresh=fresh, here=here)


def run_sweep(
    plan: SweepPlan,
    *,
    address: str | None = None,
    watch: Watch | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Bring every run that is missing to its end and write the tables, as the command does.

    Starts Ray on this machine, unless nothing is missing. The same call again carries on where an
    interrupted one was.

    Args:
        plan: As `plan_sweep` gave it.
        address: Of a Ray cluster; None starts one on this machine.
        watch: Who looks on, and asks for a stop.
        notify: Gets a line for whatever takes long before the first run.

    Returns:
        How it ended; ``failures`` says of each run without a result why, and is empty when every
        cell of the answer is there.

    Raises:
        UserError: A store cannot be made, or the folder cannot be written.
        VesselflowError: The cluster was lost; the same call carries on.
    """
    from vesselflow.sweeps.outcome import Outcome, Watch, conclude
    from vesselflow.sweeps.planning import make_ready

    prepared = make_ready(plan, notify=notify)
    if prepared.finished:
        return conclude(prepared, Outcome())
    from vesselflow.orchestration import driver
    from vesselflow.sweeps.wishes import on_demand_after

    return driver.run_sweep(
        prepared,
        watch or Watch(notify=notify),
        address=address,
        on_demand_after_s=on_demand_after(None, os.environ),
    )


def load_results(folder: str | Path) -> SweepTables:
    """The tables of a sweep, for pandas.

    Args:
        folder: The sweep's folder, ``results/<name>``.

    Raises:
        UserError: There are none, or they cannot be read.
    """
    from vesselflow.reporting.sweep_tables import load_tables

    return load_tables(folder)
