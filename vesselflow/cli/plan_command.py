"""`vesselflow plan SPACE.yaml`: how long a sweep will take, and what it will cost."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from vesselflow.cli.spaces import add_space_options, read_space
from vesselflow.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from vesselflow.clusters.files import ClusterFile
    from vesselflow.clusters.sites import Site
    from vesselflow.sweeps.estimate import Estimate
    from vesselflow.sweeps.forecast import Forecast
    from vesselflow.sweeps.planning import SweepPlan

#: Hours that a spot machine lives on average, where nobody says; a guess on the safe side.
SPOT_HOURS = 8.0
_EPILOG = """Nothing is started, rented or written. The speed of a step comes from finished runs of
this sweep on the same kind of machine; where there are none, a few steps of each kind of run are
trained here, in as many processes as slots will work side by side. Then the sweep is simulated some
hundred times, with machines that vanish: ranges hold nine of ten simulations.

  vesselflow plan search_spaces/loss_beta.yaml
  vesselflow plan search_spaces/loss_beta.yaml --cluster clusters/aws.yaml --spot-hours 4
  vesselflow plan search_spaces/loss_beta.yaml --seconds-per-step 0.4 --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("space", help="YAML file of the search space")
    add_space_options(parser)
    parser.add_argument("--results", metavar="DIR", default="results", help="default: results")
    parser.add_argument("--fresh", action="store_true", help="as if no run were finished")
    parser.add_argument(
        "--cluster", metavar="FILE", help="a file of 'ray up'; default: this machine"
    )
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument(
        "--measure", action="store_true", help="train some steps here, whatever finished runs say"
    )
    speed.add_argument(
        "--seconds-per-step", metavar="S", help="seconds of an optimizer step on these machines"
    )
    parser.add_argument(
        "--spot-hours",
        metavar="H",
        default=str(SPOT_HOURS),
        help=f"hours that a spot machine lives on average (default: {SPOT_HOURS:g})",
    )
    parser.add_argument("--seed", metavar="N", default="0", help="of the simulations; default: 0")
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the plan; 0, also where nothing is left to do."""
    from vesselflow.cli.output import Output
    from vesselflow.cli.plan import check_results
    from vesselflow.clusters.files import read_cluster
    from vesselflow.sweeps.planning import plan_sweep

    console, told = Output(highlight=False), Output(highlight=False, stderr=True)
    seconds = _positive(args.seconds_per_step, "--seconds-per-step", "seconds")
    spot_hours = _positive(args.spot_hours, "--spot-hours", "hours")
    assert spot_hours is not None
    seed = _whole(args.seed, "--seed")
    space = read_space(args.space, args)
    results = check_results(args.results)
    cluster = None if args.cluster is None else read_cluster(args.cluster)

    def notify(text: str) -> None:
        told.print(text, style="dim", markup=False, soft_wrap=True)

    plan = plan_sweep(space, results, fresh=args.fresh, here=False, notify=notify)
    with tempfile.TemporaryDirectory(prefix="vesselflow-plan-") as folder:
        from vesselflow.sweeps.estimate import with_stores

        plan = with_stores(plan, Path(folder), notify)
        if args.fresh:
            for row in plan.scored:
                row.forget()
                row.state = "queued"
        left = len(plan.jobs())
        site = _site(plan, cluster, left, spot_hours)
        if not left:
            return _nothing_left(console, plan, args.json)
        estimate = _estimate(plan, site, cluster, seconds, args.measure, told)
    forecast = _forecast(estimate, site, seed, told)
    from vesselflow.reporting.plan_lines import plan_json, plan_lines

    if args.json:
        told_plain = {"seed": seed, **plan_json(plan, site, estimate, forecast)}
        json.dump(told_plain, sys.stdout, indent=2, allow_nan=False)
        print()
        return 0
    for line in plan_lines(plan, site, estimate, forecast):
        console.print(line, markup=False, soft_wrap=True)
    return 0


def _nothing_left(console: Console, plan: SweepPlan, plain: bool) -> int:
    if plain:
        nothing = {"sweep": plan.folder.name, "runs": 0, "wall_s": None, "dollars": None}
        json.dump(nothing, sys.stdout, indent=2)
        print()
    else:
        console.print(f"{plan.folder.name}: nothing is left to do", markup=False)
    return 0


def _site(plan: SweepPlan, cluster: ClusterFile | None, left: int, spot_hours: float) -> Site:
    from vesselflow.cli.plan import check_machine
    from vesselflow.clusters.sites import site_here, site_there

    if cluster is None:
        slots = check_machine(plan.space, plan.file) if left else None
        return site_here(plan.space, slots.slots if slots else 0)
    return site_there(plan.space, cluster, left, spot_hours=spot_hours)


# -- how fast, how long ---------------------------------------------------------------------------


def _estimate(
    plan: SweepPlan,
    site: Site,
    cluster: ClusterFile | None,
    seconds: float | None,
    measured: bool,
    told: Console,
) -> Estimate:
    from vesselflow.sweeps.cost_machine import MachineKind, machine_kind, share_of
    from vesselflow.sweeps.estimate import Place, estimate
    from vesselflow.sweeps.machine import cpus_here, gpus_here

    wanted, kind = plan.space.resources, site.machines[0]
    name = MachineKind.read(kind.name).name
    if wanted.gpu and seconds is None and not gpus_here():
        seconds = plan.space.estimate.seconds_per_step
        if seconds is None:
            raise UserError(
                "a GPU is asked for, and this machine has none to measure on",
                where="--seconds-per-step",
                hint="give the seconds of a step, or set estimate.seconds_per_step",
            )
    share = share_of(
        wanted.workers,
        wanted.threads,
        wanted.gpu,
        machine_cpus=kind.cpus,
        machine_gpus=kind.gpus,
    )
    fit = max(1, cpus_here() // wanted.threads)
    place = Place(
        machine=name,
        share=share,
        threads=wanted.threads,
        device="cuda" if wanted.gpu else "cpu",
        workers=wanted.workers,
        processes=max(1, min(site.slots * wanted.workers, fit)),
        here=cluster is None or name == machine_kind().name,
    )
    with _bar(told, "measuring steps") as bar:
        return estimate(
            plan,
            place,
            seconds_per_step=seconds,
            measured=measured,
            mean_life_s=min(machine.mean_life_s for machine in site.machines),
            told=bar,
        )


def _forecast(estimate: Estimate, site: Site, seed: int, told: Console) -> Forecast:
    from dataclasses import replace

    from vesselflow.sweeps.forecast import forecast

    doubt = estimate.doubt
    if any(machine.mean_life_s < math.inf for machine in site.machines):
        doubt = replace(doubt, losses=0.5)
    with _bar(told, "simulating") as bar:
        return forecast(
            estimate.runs,
            site.machines,
            site.settled(estimate.slot_s),
            doubt=doubt,
            kinds=estimate.kinds,
            seed=seed,
            told=bar,
        )


@contextmanager
def _bar(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, gone at the end; outside a terminal one line, when it takes long."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
    bars = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    task: TaskID = bars.add_task(what, total=None)
    began, said = time.monotonic(), False

    def told(done: int, total: int) -> None:
        nonlocal said
        bars.update(task, completed=done, total=total)
        if not console.is_terminal and not said and time.monotonic() - began > 2:
            said = True
            console.print(f"{what}: {done} of {total}", style="dim", markup=False)

    with bars:
        yield told


def _positive(text: str | None, where: str, unit: str) -> float | None:
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"'{text}' is not allowed", where=where, allowed=f"{unit}, above 0")
    return value


def _whole(text: str, where: str) -> int:
    if not text.isdecimal():
        raise UserError(
            f"'{text}' is not allowed", where=where, allowed="a whole number, 0 or more"
        )
    return int(text)
