"""`vesselflow report DIR`: what a sweep found, as tables, figures and TensorBoard files."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_EPILOG = """DIR is the folder of one sweep, results/NAME; results itself does while it
holds one sweep.

Written are DIR/report/summary.md, DIR/report/figures/*.png (each with its numbers as CSV beside
it) and DIR/tensorboard (tensorboard --logdir DIR/tensorboard). Nothing is trained or evaluated.

  vesselflow report results/loss_beta
  vesselflow report results/loss_beta --json --no-figures"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("folder", metavar="DIR", help="folder of a sweep, results/NAME")
    parser.add_argument("--json", action="store_true", help="print points and scores as JSON")
    parser.add_argument(
        "--no-figures",
        action="store_true",
        help="write neither figures nor TensorBoard files; figures of other tables are removed",
    )


def run(args: argparse.Namespace) -> int:
    """Print the answer of a sweep and write its report; 0, also where runs failed."""
    from vesselflow.cli.output import Output
    from vesselflow.reporting.cost_lines import cost_lines
    from vesselflow.reporting.run_list import sweep_runs
    from vesselflow.reporting.sweep_tables import load_tables
    from vesselflow.reporting.terminal import answer_json, answer_table, failures_table
    from vesselflow.reporting.written import boards_command, write_report

    tables = load_tables(args.folder)
    runs = sweep_runs(tables)
    with _told(Output(stderr=True)) as told:
        report = write_report(tables, pictures=not args.no_figures, told=told)
    if args.json:
        answer = {
            **answer_json(tables),
            "failures": [run.plain() for run in runs if run.state == "failed"],
            "summary": str(report.summary),
            "figures": [str(path) for path in report.figures],
            "tensorboard": str(report.boards) if report.boards else None,
        }
        json.dump(answer, sys.stdout, indent=2, allow_nan=False)
        print()
        return 0
    console = Output()
    console.print(answer_table(tables))
    for line in cost_lines(tables):
        console.print(line, style="dim", markup=False, highlight=False, soft_wrap=True)
    failures = failures_table(runs)
    if failures is not None:
        console.print()
        console.print(failures)
    console.print()
    for path in (report.summary, *report.figures):
        console.print(str(path), markup=False, highlight=False, soft_wrap=True)
    if report.boards is not None:
        line = boards_command(report.boards)
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return 0


@contextmanager
def _told(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar that says what is being written, gone at the end; nothing outside a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

    bars = Progress(
        TextColumn("writing {task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    tasks: dict[str, TaskID] = {}

    def told(part: str, done: int, total: int) -> None:
        if part not in tasks:
            tasks[part] = bars.add_task(part)
        bars.update(tasks[part], completed=done, total=total)

    with bars:
        yield told
