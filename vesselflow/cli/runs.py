"""`vesselflow runs DIR`: the runs of a results folder and how they stand."""

from __future__ import annotations

import argparse
import json
import sys

_EPILOG = """DIR is a results folder (all runs) or the folder of one sweep in it (its runs only).

States: queued, running (or killed while it ran), paused, finished, failed, and gone: the sweep's
tables know the run, its folder in runs/ is no longer there. In a narrow terminal a run is named by
the first letters of its name; --json has it whole.

  vesselflow runs results
  vesselflow runs results/loss_beta --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("folder", metavar="DIR", help="results folder, or the folder of a sweep")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the runs; 0."""
    from vesselflow.reporting.run_list import load_runs

    runs = load_runs(args.folder)
    if args.json:
        json.dump([run.plain() for run in runs], sys.stdout, indent=2, allow_nan=False)
        print()
        return 0
    from vesselflow.cli.output import Output
    from vesselflow.reporting.terminal import runs_table

    Output().print(runs_table(runs))
    return 0
