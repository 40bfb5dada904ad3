"""`vesselflow sweep SPACE.yaml`: run what is missing, then print the answer."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vesselflow.errors import UserError, VesselflowError

if TYPE_CHECKING:
    from rich.console import Console

    from vesselflow.config.space import Space
    from vesselflow.runs.cells import Cell
    from vesselflow.sweeps.outcome import Outcome
    from vesselflow.sweeps.prepare import Prepared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("space", help="YAML file of the search space")
    parser.add_argument("--profile", metavar="NAME", help="one of the file's profiles")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override a key (dotted path); on an axis it fixes that axis",
    )
    parser.add_argument("--results", metavar="DIR", default="results", help="default: results")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--fresh", action="store_true", help="forget finished runs of this space and redo them"
    )
    parser.add_argument(
        "--address", metavar="ADDR", help="a running Ray cluster ('auto'); default: this machine"
    )
    parser.add_argument(
        "--no-figures", action="store_true", help="tables only, no figures and no TensorBoard"
    )
    parser.epilog = (
        "example: vesselflow sweep search_spaces/loss_beta.yaml --set train.epochs=4\n"
        "the same command again carries on where it was stopped, and redoes nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Run a sweep; 0 done, 1 some runs failed, 2 bad input, 130 stopped."""
    from rich.console import Console

    from vesselflow.cli.plan import check_machine, check_results, print_plan
    from vesselflow.config.loading import load_space
    from vesselflow.runs.registries import REGISTRIES

    console = Console(highlight=False)
    file = Path(args.space)
    space = load_space(
        file, profile=args.profile, overrides=tuple(args.overrides), registries=REGISTRIES
    )
    space.expand()
    results = check_results(args.results)
    plan = check_machine(space, file) if args.address is None else None
    if args.dry_run:
        here = args.address is None
        print_plan(console, space, file, args.profile, results, plan, here=here)
        return 0
    return _sweep(console, args, space, file, results)


def _sweep(
    console: Console, args: argparse.Namespace, space: Space, file: Path, results: Path
) -> int:
    from vesselflow.evaluation.long_tables import lost_records
    from vesselflow.sweeps.changes import changes_line
    from vesselflow.sweeps.prepare import prepare

    def notify(text: str) -> None:
        console.print(text, style="dim", markup=False, soft_wrap=True)

    command = ["vesselflow", *sys.argv[1:]]
    # Looked at before the folder's head is written anew, said when nothing was refused.
    changed = changes_line(space, file, args.profile, results)
    prepared = prepare(
        space,
        file,
        results,
        profile=args.profile,
        command=command,
        notify=notify,
        fresh=args.fresh,
        here=args.address is None,
    )
    if args.fresh:
        _forget(prepared)
    missing = prepared.jobs()
    total = len({cell.run.run_id for cell in prepared.cells})
    console.print(
        f"[bold]{prepared.folder.name}[/bold]: {len(prepared.expansion.points)} points, "
        f"{total} runs, {total - len(missing)} already done, {len(missing)} to do"
    )
    for line in (*([changed] if changed else ()), *lost_records(prepared.scored, results)):
        console.print(line, style="yellow", markup=False, soft_wrap=True)
    if space.question:
        console.print(f"[italic]{space.question}[/italic]")
    try:
        outcome = _run(console, args, prepared, notify) if missing else _nothing(prepared)
    except UserError:
        raise
    except VesselflowError as error:
        console.print(f"vesselflow: {error}", style="red")
        console.print("the same command carries on")
        return 1
    if outcome.stopped:
        console.print(
            f"stopped: {outcome.trained} runs were finished, the others keep their checkpoints; "
            "the same command carries on"
        )
        _leave(130)
    code = _report(console, prepared, outcome, figures=not args.no_figures)
    console.print(f"runs: {outcome.trained} done now, {total - len(missing)} before")
    return code


def _forget(prepared: Prepared) -> None:
    """Reset every run; a run that begins from nothing deletes what scores it had (`worker`)."""
    from vesselflow.records.runs import RunRecord

    for cell in prepared.cells:
        RunRecord(prepared.results, cell.run.run_id).reset()
    for row in prepared.scored:
        row.forget()


def _nothing(prepared: Prepared) -> Outcome:
    """A finished sweep: the tables again, without torch or ray."""
    from vesselflow.evaluation.long_tables import write_tables
    from vesselflow.sweeps.outcome import Outcome

    write_tables(prepared.folder / "tables", prepared.scored, prepared.results, prepared.objective)
    return Outcome()


def _run(
    console: Console,
    args: argparse.Namespace,
    prepared: Prepared,
    notify: Callable[[str], None],
) -> Outcome:
    notify("loading torch and ray")
    from vesselflow.orchestration.driver import run_sweep
    from vesselflow.reporting.live import LiveView
    from vesselflow.sweeps.outcome import Watch

    stop = threading.Event()
    boards = _Boards(prepared) if not args.no_figures else None
    with LiveView(console) as view, _interrupts(console, stop):
        watch = Watch(
            progress=view.update,
            event=boards.event if boards else lambda event: None,
            notify=notify,
            stop=stop,
        )
        outcome = run_sweep(prepared, watch, address=args.address)
    if boards:
        boards.close()
    return outcome


@contextlib.contextmanager
def _interrupts(console: Console, stop: threading.Event) -> Iterator[None]:
    """First Ctrl-C: a clean stop. Second: at once. Both say how to go on."""

    def handle(signum: int, frame: Any) -> None:
        if stop.is_set():
            console.print("stopped at once; the same command carries on from the last checkpoints")
            _leave(130)
        stop.set()
        console.print(
            "stopping: runs write a checkpoint at their next step (Ctrl-C again stops at once); "
            "the same command carries on"
        )

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(code: int) -> None:
    """End at once: threads that wait for trials that will not come must not keep us."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class _Boards:
    """TensorBoard files, written as epochs arrive."""

    def __init__(self, prepared: Prepared) -> None:
        self._cells: dict[str, list[Cell]] = {}
        for cell in prepared.cells:
            self._cells.setdefault(cell.run.run_id, []).append(cell)
        self._folder = prepared.folder / "tensorboard"
        self._open: dict[str, list[Any]] = {}

    def event(self, event: dict[str, Any]) -> None:
        from vesselflow.reporting.tensorboard import RunBoard, board_name

        if event["type"] == "epoch":
            run = event["run_id"]
            if run not in self._open:
                self._open[run] = [
                    RunBoard(self._folder / board_name(cell.point, cell.run.fold, cell.run.seed))
                    for cell in self._cells[run]
                ]
            for board in self._open[run]:
                board.scalars(
                    [
                        (name, value, event["step"], event["epoch"])
                        for name, value in event["values"].items()
                    ]
                )
        elif event["type"] in ("finished", "failed", "stopped"):
            for board in self._open.pop(event["run_id"], ()):
                board.close()

    def close(self) -> None:
        for boards in self._open.values():
            for board in boards:
                board.close()


def _report(console: Console, prepared: Prepared, outcome: Outcome, *, figures: bool) -> int:
    from vesselflow.reporting.sweep_tables import load_tables
    from vesselflow.reporting.terminal import answer_table
    from vesselflow.reporting.written import write_report

    for label, message in outcome.failed:
        console.print(f"failed: {label}: {message}", style="red", markup=False)
    if not any(row.complete for row in prepared.scored):
        console.print("no run has a result yet")
        return 1 if outcome.failed else 0
    console.print(answer_table(prepared.folder))
    with console.status("writing the report"):
        report = write_report(load_tables(prepared.folder), pictures=figures)
    console.print(f"tables:  {prepared.folder / 'tables'}", markup=False)
    console.print(f"report:  {report.summary.parent}", markup=False)
    if report.boards:
        console.print(f"boards:  tensorboard --logdir {report.boards}", markup=False)
    return 1 if outcome.failed else 0
