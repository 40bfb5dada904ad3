"""`vesselflow chaos SPACE --seed S`: disturb a sweep on purpose; its tables must not change."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vesselflow.cli.spaces import add_space_options

if TYPE_CHECKING:
    from rich.console import Console

    from vesselflow.chaos.command import Verdict

_EPILOG = """A Ray cluster of several nodes is started on this machine, the sweep runs on it, and a
schedule that the seed alone decides kills and stops workers, nodes, drivers and the head, tears
checkpoints, gives notices, fills the disk and starts second drivers; what a person would start
again is started again. Then all tables but cost must equal those of an undisturbed sweep byte by
byte, no finished run may be done twice, no step after a notice, and after a kill no more steps than
one checkpoint interval holds. Without SPACE, a small one of its own is disturbed. One rank of
several is killed with --set resources.workers=2, which has an undisturbed sweep of its own. The
disk is filled where a tmpfs can be mounted (root); elsewhere a line says why it is not.

exit codes: 0 all of it holds for every seed; 1 not; 2 something given is wrong.
DIR/chaos-SEED.json says all that is printed of a seed, DIR/chaos.parquet and DIR/chaos.json hold a
row for each; what was played on the same space by the same code is not played again.

  vesselflow chaos
  vesselflow chaos --seeds 0-29
  vesselflow chaos search_spaces/mine.yaml --set train.epochs=2 --seeds 0-9"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "space", nargs="?", help="YAML file of a search space; default: a small one"
    )
    add_space_options(parser, set_help="override a key, as of `vesselflow sweep`")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    which.add_argument("--seeds", metavar="LIST", help="several: 0-9, or 1,4,7")
    parser.add_argument(
        "--results", metavar="DIR", default="results/chaos", help="default: results/chaos"
    )
    parser.add_argument(
        "--bucket", action="store_true",
        help="results in a bucket on loopback (by moto), that goes away and is slow too",
    )  # fmt: skip
    parser.add_argument(
        "--again", action="store_true",
        help="play also seeds whose report is there, by the same space and code",
    )  # fmt: skip
    parser.add_argument(
        "--limit-s", type=float, metavar="N",
        help="seconds after which a seed has failed; default: 180, and on a slow machine 4 times "
        "what the undisturbed sweep took",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Play every seed, and say how each went."""
    import contextlib

    from vesselflow.chaos import command
    from vesselflow.chaos.bucket import LocalBucket
    from vesselflow.chaos.schedule import read_seeds
    from vesselflow.chaos.space import SPACE
    from vesselflow.chaos.summary import total, write_summary
    from vesselflow.cli.output import Output
    from vesselflow.errors import UserError, VesselflowError
    from vesselflow.records.atomic import write_text

    try:
        seeds = [args.seed] if args.seeds is None else read_seeds(args.seeds)
    except ValueError:
        raise UserError(
            f"{args.seeds!r} is no list of seeds", where="--seeds", allowed="such as 0-9 or 1,4,7"
        ) from None
    if args.limit_s is not None and not args.limit_s > 0:
        raise UserError(f"{args.limit_s:g} is not allowed", where="--limit-s", allowed="above 0")
    folder = Path(args.results).resolve()
    file = folder / "chaos.yaml" if args.space is None else Path(args.space)
    if args.space is None:
        command.claim_folder(folder)
        write_text(file, SPACE)
    space = command.read_space(file, args.profile, args.overrides)
    command.claim_folder(folder)
    words = [str(file), *(["--profile", args.profile] if args.profile else [])]
    for override in args.overrides:
        words += ["--set", override]
    console = Output(highlight=False)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    reports = []
    with contextlib.ExitStack() as stack:
        bucket = stack.enter_context(LocalBucket()) if args.bucket else None
        disk, line = command.disk_here(args.bucket)
        if line:
            say(line)
        asked = command.Asked(space, words, folder, args.limit_s, bucket, disk)
        try:
            reference = command.undisturbed(asked, say)
        except UserError:
            raise
        except VesselflowError as error:
            console.print(f"vesselflow: {error}", style="red", markup=False, soft_wrap=True)
            return 1
        for seed in seeds:
            report = None if args.again else command.known(folder, seed, asked.key)
            if report is not None:
                how = "holds" if report["holds"] else "DOES NOT HOLD"
                say(f"seed {seed} was played before and {how}; --again plays it anew")
            else:
                console.print(f"\n[bold]seed {seed}[/bold]")
                verdict = command.play_seed(asked, seed, reference, say)
                _show(console, verdict)
                line, report = command.prediction(asked, verdict, reference)
                say(line)
            reports.append(report)
    rows = write_summary(folder, reports)
    if len(rows) > 1:
        _show_all(console, rows)
        say(f"{total(rows)}; also in {folder / 'chaos.parquet'} and chaos.json")
    return 0 if all(row["holds"] for row in rows) else 1


def _show_all(console: Console, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table

    def both(row: dict[str, Any], name: str) -> str:
        median, worst = row[f"{name}_median_s"], row[f"{name}_worst_s"]
        return "" if worst is None else f"{median:.0f}-{worst:.0f}"

    table = Table("seed", "", "s", "events", "notice", "kill", "most", "every", "node", "kill")
    for row in rows:
        table.add_row(
            str(row["seed"]),
            "holds" if row["holds"] else "NO",
            f"{row['seconds']:.0f}",
            str(row["played"]),
            str(row["repeated_after_notices"]),
            str(row["repeated_after_kills"]),
            f"{row['most_repeated']}/{row['most_allowed']}",
            f"{row['most_interval_s']:.1f}",
            both(row, "node_to_step"),
            both(row, "kill_to_step"),
        )
    table.caption = (
        "notice, kill: steps repeated after them; most: after one kill, of those that one interval "
        "held; every: longest interval, in s; node, kill: seconds from the loss of a node, or "
        "another kill, to the next step of its runs (median and worst)"
    )
    console.print()
    console.print(table, markup=False)


def _show(console: Console, verdict: Verdict) -> None:
    from rich.table import Table

    table = Table("what must hold", "", "seen")
    for finding in verdict.findings:
        table.add_row(finding.what, "yes" if finding.holds else "NO", finding.seen)
    console.print(table, markup=False)
    if verdict.played.trouble:
        console.print(f"given up: {verdict.played.trouble}", style="red", markup=False)
    how = "holds" if verdict.holds else "DOES NOT HOLD"
    console.print(f"seed {verdict.seed} {how}, {verdict.played.seconds:.0f} s", markup=False)
