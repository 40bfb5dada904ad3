"""`vesselflow sweep SPACE.yaml`: run what is missing, then print the answer."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from vesselflow.cli.leaving import leave
from vesselflow.cli.spaces import add_space_options, read_space
from vesselflow.errors import UserError, VesselflowError

if TYPE_CHECKING:
    from rich.console import Console

    from vesselflow.runs.cells import Cell
    from vesselflow.sweeps.events import Happening
    from vesselflow.sweeps.outcome import Outcome
    from vesselflow.sweeps.planning import Prepared, SweepPlan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("space", help="YAML file of the search space")
    add_space_options(parser)
    parser.add_argument(
        "--results",
        metavar="DIR",
        default="results",
        help="a folder, or s3://BUCKET/PREFIX, gs://BUCKET/PREFIX; default: results",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    parser.add_argument(
        "--fresh", action="store_true", help="forget finished runs of this space and redo them"
    )
    parser.add_argument(
        "--address", metavar="ADDR", help="a running Ray cluster ('auto'); default: this machine"
    )
    parser.add_argument(
        "--on-demand-after",
        metavar="TIME",
        help="on a cluster with spot machines: ask for on-demand ones when for so long (15m, 2h) "
        "too few came; default: what the cluster file says",
    )
    parser.add_argument(
        "--budget",
        metavar="DOLLARS",
        help="take no more runs before the machines of this command cost so much; with 'prices' in "
        "the space on machines of one's own",
    )
    parser.add_argument(
        "--no-figures", action="store_true", help="tables only, no figures and no TensorBoard"
    )
    parser.epilog = (
        "example: vesselflow sweep search_spaces/loss_beta.yaml --set train.epochs=4\n"
        "the same command again carries on where it was stopped, and redoes nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Run a sweep; the exit codes are those of `vesselflow --help`."""
    from vesselflow.cli.budget import check_priced, read_budget
    from vesselflow.cli.output import Output
    from vesselflow.cli.plan import check_results, print_plan, slots_here
    from vesselflow.sweeps.planning import plan_sweep
    from vesselflow.sweeps.wishes import on_demand_after

    console = Output(highlight=False)
    budget = read_budget(args.budget)
    space = read_space(args.space, args)
    results, here = check_results(args.results), args.address is None
    after = on_demand_after(args.on_demand_after, {} if here else os.environ)
    if here and after is not None:
        raise UserError(
            "only a cluster can be asked for machines",
            where="--on-demand-after",
            hint="name one with --address",
        )
    if here and budget is not None:
        check_priced(space)
    fetched: list[str] = []

    def notify(text: str) -> None:
        console.print(text, style="dim", markup=False, soft_wrap=True)

    plan = plan_sweep(
        space,
        results,
        fresh=args.fresh,
        here=here,
        start=not args.dry_run,
        notify=notify,
        weights=fetched.append if args.dry_run else notify,
    )
    slots = slots_here(plan, fresh=args.fresh) if here else None
    if args.dry_run:
        print_plan(console, plan, slots, fetched)
        return 0
    try:
        return _sweep(console, args, plan, notify)
    except BrokenPipeError:
        _quiet_stdout()
        line = "vesselflow: stopped: nobody reads the output any more; the same command carries on"
        print(line, file=sys.stderr)
        return 1


def _quiet_stdout() -> None:
    """What is still to be flushed must not fail once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _sweep(
    console: Console, args: argparse.Namespace, plan: SweepPlan, notify: Callable[[str], None]
) -> int:
    from vesselflow.evaluation.long_tables import lost_records
    from vesselflow.sweeps.outcome import ClusterLost, Stopped
    from vesselflow.sweeps.planning import make_ready

    prepared = make_ready(plan, command=["vesselflow", *sys.argv[1:]], notify=notify)
    space, results = prepared.space, prepared.results
    if args.fresh:
        _forget(prepared)
    missing = prepared.jobs()
    total = len({cell.run.run_id for cell in prepared.cells})
    console.print(
        f"[bold]{prepared.folder.name}[/bold]: {len(prepared.expansion.points)} points, "
        f"{total} runs, {total - len(missing)} already done, {len(missing)} to do"
    )
    changed = [plan.changed] if plan.changed else []
    for line in (*changed, *lost_records(prepared.scored, results)):
        console.print(line, style="yellow", markup=False, soft_wrap=True)
    if space.question:
        console.print(f"[italic]{space.question}[/italic]")
    asked = Asked()
    try:
        outcome = _run(console, args, prepared, notify, asked) if missing else _nothing(prepared)
    except UserError:
        raise
    except Stopped as stopped:
        _end(console, f"{stopped}; the same command carries on", asked.code, at_once=True)
    except VesselflowError as error:
        line = f"vesselflow: {error}; the same command carries on"
        _end(console, line, 1, at_once=isinstance(error, ClusterLost))
        return 1
    if outcome.stopped:
        line = (
            f"stopped: {_runs(outcome.trained)} brought to the end, the others keep their "
            "checkpoints; the same command carries on"
        )
        _end(console, line, asked.code, at_once=True)
    code = _report(console, prepared, outcome, total - len(missing), figures=not args.no_figures)
    return _out_of_money(console, outcome, args.budget) if outcome.budget else code


def _out_of_money(console: Console, outcome: Outcome, given: str) -> int:
    from vesselflow.cli.budget import budget_lines, read_budget

    for line in budget_lines(outcome, read_budget(given) or 0.0):
        console.print(line, style="red", markup=False, soft_wrap=True)
    return 1


def _end(console: Console, line: str, code: int, *, at_once: bool) -> None:
    """Say how it ended; leave without waiting for threads that wait for what will not come."""
    console.print(line, style="red" if code == 1 else None, markup=False, soft_wrap=True)
    if at_once:
        leave(code)


def _runs(count: int) -> str:
    return f"{count} run{'s' * (count != 1)}"


def _forget(prepared: Prepared) -> None:
    """Reset every run; a run that begins from nothing deletes what scores it had (`worker`)."""
    from vesselflow.records.runs import RunRecord

    for cell in prepared.cells:
        RunRecord(prepared.results, cell.run.run_id).reset()
    for row in prepared.scored:
        row.forget()


def _nothing(prepared: Prepared) -> Outcome:
    """A finished sweep: the tables again, without torch or ray."""
    from vesselflow.clusters.prices import PriceList
    from vesselflow.sweeps.outcome import Outcome, conclude

    return conclude(prepared, Outcome(), PriceList(prepared.space.prices))


def _run(
    console: Console,
    args: argparse.Namespace,
    prepared: Prepared,
    notify: Callable[[str], None],
    asked: Asked,
) -> Outcome:
    from vesselflow.cli.budget import read_budget
    from vesselflow.reporting.live import LiveView
    from vesselflow.sweeps.outcome import Watch
    from vesselflow.sweeps.wishes import on_demand_after

    boards = _Boards(prepared) if not args.no_figures else None
    with LiveView(console) as view, _interrupts(console, asked):
        notify("loading torch and ray")
        _load_driver(asked)
        from vesselflow.orchestration.driver import run_sweep

        watch = Watch(
            progress=view.update,
            event=boards.event if boards else lambda event: None,
            notify=notify,
            stop=asked.stop,
        )
        after = on_demand_after(args.on_demand_after, os.environ)
        outcome = run_sweep(
            prepared,
            watch,
            address=args.address,
            on_demand_after_s=after,
            budget=read_budget(args.budget),
        )
    if boards:
        boards.close()
    return outcome


def _load_driver(asked: Asked) -> None:
    """Import torch and ray in a thread: Ctrl-C there would leave half a library, or be swallowed.

    Raises:
        Stopped: A stop was asked for; the import goes on until the process is left.
    """
    from vesselflow.orchestration.environment import settle_environment
    from vesselflow.sweeps.outcome import Stopped

    settle_environment()
    failed: list[BaseException] = []

    def load() -> None:
        try:
            importlib.import_module("vesselflow.orchestration.driver")
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=load, name="imports", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
        if asked.stop.is_set():
            raise Stopped("stopped while torch and ray were loaded")
    if failed:
        raise failed[0]


class Asked:
    """Whether a stop was asked for, and by what.

    Attributes:
        stop: Set by the first signal.
        code: The exit code that tells of it: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.code = 130

    def take(self, signum: int) -> str | None:
        """Take a signal; what is to be said of the first one, None for a later one."""
        if self.stop.is_set():
            return None
        self.stop.set()
        self.code = 128 + signum
        return (
            "stopping: runs write a checkpoint at their next step (Ctrl-C again stops at once); "
            "the same command carries on"
        )


@contextlib.contextmanager
def _interrupts(console: Console, asked: Asked) -> Iterator[None]:
    """First Ctrl-C or SIGTERM: a clean stop. Second: at once. Both say how to go on."""

    def handle(signum: int, frame: Any) -> None:
        line = asked.take(signum)
        # The signal may have come in the midst of a line that is being written.
        with contextlib.suppress(RuntimeError, BrokenPipeError):
            console.print(
                line or "stopped at once; the same command carries on from the last checkpoints",
                soft_wrap=True,
            )
        if line is None:
            leave(asked.code)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Boards:
    """TensorBoard files, written as epochs arrive."""

    def __init__(self, prepared: Prepared) -> None:
        self._cells: dict[str, list[Cell]] = {}
        for cell in prepared.cells:
            self._cells.setdefault(cell.run.run_id, []).append(cell)
        self._folder = prepared.folder / "tensorboard"
        self._open: dict[str, list[Any]] = {}

    def event(self, event: Happening) -> None:
        from vesselflow.reporting.tensorboard import RunBoard, board_name
        from vesselflow.sweeps.events import EpochDone, Failed, Finished, HandedBack

        if isinstance(event, EpochDone):
            run = event.run_id
            if run not in self._open:
                self._open[run] = [
                    RunBoard(self._folder / board_name(cell.point, cell.run.fold, cell.run.seed))
                    for cell in self._cells[run]
                ]
            for board in self._open[run]:
                board.scalars(
                    [(name, value, event.step, event.epoch) for name, value in event.values.items()]
                )
        elif isinstance(event, Finished | Failed | HandedBack):
            for board in self._open.pop(event.run_id, ()):
                board.close()

    def close(self) -> None:
        for boards in self._open.values():
            for board in boards:
                board.close()


def _report(
    console: Console, prepared: Prepared, outcome: Outcome, before: int, *, figures: bool
) -> int:
    """Print the answer as far as it goes; 0 when every run of it is there, else 1."""
    from vesselflow.reporting.cost_lines import cost_lines
    from vesselflow.reporting.sweep_tables import load_tables
    from vesselflow.reporting.terminal import answer_table
    from vesselflow.reporting.written import boards_command, write_report
    from vesselflow.sweeps.outcome import FAILURES
    from vesselflow.sweeps.spending import spent_line

    failures = outcome.failures
    if any(row.complete for row in prepared.scored):
        tables = load_tables(prepared.folder)
        console.print(answer_table(tables))
        for line in cost_lines(tables):
            console.print(line, style="dim", markup=False, soft_wrap=True)
        with console.status("writing the report"):
            report = write_report(tables, pictures=figures)
        console.print(f"tables:  {prepared.folder / 'tables'}", markup=False, soft_wrap=True)
        console.print(f"report:  {report.summary.parent}", markup=False, soft_wrap=True)
        if report.boards:
            boards = f"boards:  {boards_command(report.boards)}"
            console.print(boards, markup=False, soft_wrap=True)
    if line := spent_line(outcome.spent):
        console.print(line, style="dim", markup=False, soft_wrap=True)
    for failure in failures:
        line = f"failed: {failure.line()}"
        console.print(line, style="red", markup=False, soft_wrap=True)
    line = f"runs: {outcome.trained} done now, {before} before"
    if not failures:
        console.print(line)
        return 0
    console.print(
        f"{line}, {len(failures)} of {len(prepared.cells)} without a result (also in "
        f"{prepared.folder / FAILURES}); the same command tries them again",
        style="red",
        markup=False,
        soft_wrap=True,
    )
    return 1
