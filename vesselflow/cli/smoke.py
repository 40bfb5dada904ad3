"""`vesselflow smoke SPACE.yaml POINT`: can this point learn four samples by heart?"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from vesselflow.cli.spaces import add_space_options, point_named, read_space

_EPILOG = """What cannot learn four samples by heart learns nothing in a sweep. The point is trained
on four samples of its first fold for up to 200 steps, in this process, without Ray, augmentation
and averaged weights, and scored on the same samples: 0 where the task's own metric gets above 0.95,
else 1 and what to look at. Nothing of it enters a table or a record.

  vesselflow smoke search_spaces/loss_beta.yaml 'name=combined,beta=0.5'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("space", help="YAML file of the search space")
    parser.add_argument("point", help="name of one of its points, as --dry-run prints them")
    add_space_options(parser)
    parser.add_argument(
        "--results", metavar="DIR", default="results", help="where stores may lie; default: results"
    )


def run(args: argparse.Namespace) -> int:
    """Train, and say how far it came."""
    from vesselflow.cli.output import Output
    from vesselflow.cli.plan import check_results
    from vesselflow.sweeps.planning import plan_sweep

    console, told = Output(highlight=False), Output(highlight=False, stderr=True)
    space = read_space(args.space, args)
    point_named(space, args.point, where="POINT")

    def notify(text: str) -> None:
        told.print(text, style="dim", markup=False, soft_wrap=True)

    plan = plan_sweep(space, check_results(args.results), fresh=True, notify=notify)
    with tempfile.TemporaryDirectory(prefix="vesselflow-smoke-") as folder:
        from vesselflow.sweeps.estimate import with_stores

        plan = with_stores(plan, Path(folder), notify)
        notify("loading torch")
        from vesselflow.sweeps.smoke import ENOUGH, smoke

        cell = next(cell for cell in plan.cells if cell.point == args.point)
        found = smoke(plan, cell, Path(folder))
    line = (
        f"{args.point}: {found.metric} {found.score:.3f} on the samples that it learnt "
        f"({found.steps} steps, {found.seconds:.0f} s)"
    )
    if found.passed:
        console.print(line, markup=False, soft_wrap=True)
        return 0
    console.print(f"{line}; above {ENOUGH:g} was asked for", markup=False, soft_wrap=True)
    for fault in found.faults:
        console.print(f"  {fault}", markup=False, soft_wrap=True)
    return 1
