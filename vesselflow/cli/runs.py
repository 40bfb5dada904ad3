"""`vesselflow runs DIR`: the runs of a results folder and how they stand."""

from __future__ import annotations

import argparse
import json
import sys

_EPILOG = """DIR is a results folder (all runs) or the folder of one sweep in it (its runs only).

States: queued, running (or killed while it ran), paused, finished, failed, and gone: the sweep's
tables know the run, its folder in runs/ is no longer there. In a narrow terminal a run is named by
the first letters of its name; --json has it whole.

With --stale only those that were made by a part that was mended since (a loss whose numbers were
wrong, say), with what was mended. They need no redoing by hand: runs by mended parts have other
names, and the same sweep command trains those, and no others.

  vesselflow runs results
  vesselflow runs results/loss_beta --json
  vesselflow runs results --stale"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("folder", metavar="DIR", help="results folder, or the folder of a sweep")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON")
    parser.add_argument(
        "--stale", action="store_true", help="only runs by parts that were mended since, and why"
    )


def run(args: argparse.Namespace) -> int:
    """Print the runs; 0."""
    from vesselflow.reporting.run_list import load_runs

    runs = load_runs(args.folder)
    if args.stale:
        return _stale(args.folder, {run.run_id for run in runs}, as_json=args.json)
    if args.json:
        json.dump([run.plain() for run in runs], sys.stdout, indent=2, allow_nan=False)
        print()
        return 0
    from vesselflow.cli.output import Output
    from vesselflow.reporting.terminal import runs_table

    Output().print(runs_table(runs))
    return 0


def _stale(folder: str, known: set[str], *, as_json: bool) -> int:
    from vesselflow.cli.output import Output
    from vesselflow.reporting.run_list import results_at
    from vesselflow.reporting.stale_runs import stale_runs

    runs = stale_runs(results_at(folder), known)
    if as_json:
        json.dump([run.plain() for run in runs], sys.stdout, indent=2, allow_nan=False)
        print()
        return 0
    console = Output(highlight=False)
    for run in runs:
        for line in [entry.line() for entry in run.mended] or [run.message]:
            console.print(f"{run.run_id}  {run.state}  {line}", markup=False, soft_wrap=True)
    told = f"{len(runs)} of {len(known)} runs are stale"
    after = "; the same sweep command trains their successors, under new names" if runs else ""
    console.print(f"{told}{after}", markup=False, soft_wrap=True)
    return 0
