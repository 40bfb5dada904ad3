"""`vesselflow gc DIR`: remove what no answer in a results folder needs."""

from __future__ import annotations

import argparse
import json
import sys

_EPILOG = """Kept is what tables, reports and a resumed sweep need.
Of the weights and picks of finished runs:
  --keep chosen   (default) those of the epoch that validation chose, of each run
  --keep winners  those of the winning point's runs alone
  --keep all      those of every scored epoch
What is gone is trained again should it be scored on another domain, or by another metric, later.
Runs that are not finished are left alone. Refused while a sweep is at work on the folder.

  vesselflow gc results --dry-run
  vesselflow gc s3://bucket/results --keep winners"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("folder", metavar="DIR", help="results folder, or its address in a bucket")
    parser.add_argument("--dry-run", action="store_true", help="list what would go, and its bytes")
    parser.add_argument("--keep", choices=("chosen", "winners", "all"), default="chosen")
    parser.add_argument(
        "--orphans", action="store_true", help="also finished runs that no sweep's table knows"
    )
    parser.add_argument("--json", action="store_true", help="print the sums as JSON")


def run(args: argparse.Namespace) -> int:
    """Find, remove unless it is a dry run, and say how much; 0."""
    from vesselflow.cli.output import Output
    from vesselflow.errors import UserError
    from vesselflow.evaluation import garbage
    from vesselflow.records.paths import any_path, folders_in

    console = Output(highlight=False, stderr=args.json)
    results = any_path(args.folder)
    if "runs" not in folders_in(results):
        raise UserError(
            "this folder holds no runs",
            where=args.folder,
            allowed="a results folder, not that of one sweep",
            hint="give the folder that was given as --results",
        )

    def notify(text: str) -> None:
        console.print(text, style="dim", markup=False, soft_wrap=True)

    if not args.dry_run:
        garbage.check_idle(results, notify)
    with console.status("looking at every file"):
        waste = garbage.find_waste(results, args.keep, orphans=args.orphans)
    sums: dict[str, list[int]] = {}
    for entry in waste:
        row = sums.setdefault(entry.kind, [0, 0])
        row[0] += 1
        row[1] += entry.bytes
    total = sum(entry.bytes for entry in waste)
    if not args.dry_run:
        with console.status(f"removing {len(waste)} files"):
            total = garbage.remove(results, waste)
    if args.json:
        kinds = {kind: {"files": row[0], "bytes": row[1]} for kind, row in sums.items()}
        json.dump(
            {"removed": not args.dry_run, "bytes": total, "kinds": kinds}, sys.stdout, indent=2
        )
        print()
        return 0
    for kind, (files, size) in sorted(sums.items(), key=lambda item: -item[1][1]):
        console.print(f"{size_text(size):>9}  {files:>7} files  {kind}", markup=False)
    done = "would be freed (--dry-run: nothing was removed)" if args.dry_run else "freed"
    console.print(f"{size_text(total):>9}  {done}", markup=False)
    return 0


def size_text(size: int) -> str:
    """Bytes as a person reads them: "1.3 GB"."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError
