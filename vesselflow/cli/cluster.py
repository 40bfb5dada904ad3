"""`vesselflow cluster check FILE`: what `ray up` would take silently and regret later."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from vesselflow.cli.spaces import add_space_options

if TYPE_CHECKING:
    from vesselflow.clusters.findings import Placed
    from vesselflow.clusters.surroundings import Slots

_EPILOG = """FILE is a file of `ray up` or a script for Slurm: clusters/aws.yaml, clusters/slurm.sh.

  vesselflow cluster check clusters/aws.yaml
  vesselflow cluster check clusters/aws.yaml --space search_spaces/loss_beta.yaml

Nothing is started, and no cloud is asked. exit codes: 0 nothing, or warnings only; 2 an error
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    check = actions.add_parser(
        "check",
        help="say all that is wrong in a cluster file, before it costs anything",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument("file", metavar="FILE", help="the cluster file")
    check.add_argument("--space", metavar="SPACE", help="do its slots fit on the workers?")
    add_space_options(check, whose="the space's", set_help="override a key of the space")
    check.add_argument("--json", action="store_true", help="for machines")


def run(args: argparse.Namespace) -> int:
    """Check the file; 2 with any error, else 0."""
    from vesselflow.clusters.checks import check
    from vesselflow.clusters.files import read_any
    from vesselflow.clusters.surroundings import here

    path = Path(args.file)
    slots = slots_of(args.space, args.profile, args.overrides) if args.space else None
    rows = check(read_any(path), here(), slots)
    if args.json:
        print(json.dumps(report(path, rows), indent=1))
    else:
        for row in rows:
            print(f"{row.finding.severity.value}: {row.text()}")
        print(summary(path, rows))
    return 2 if errors_of(rows) else 0


def slots_of(space: str, profile: str | None, overrides: list[str]) -> Slots:
    """What the slots of a space ask for.

    Raises:
        UserError: The space is wrong.
    """
    from vesselflow.clusters.surroundings import Slots
    from vesselflow.config.loading import load_space
    from vesselflow.config.space import SlotRange
    from vesselflow.runs.registries import REGISTRIES

    read = load_space(space, profile=profile, overrides=tuple(overrides), registries=REGISTRIES)
    resources = read.resources
    least = 1
    if isinstance(resources.slots, SlotRange):
        least = resources.slots.min
    elif isinstance(resources.slots, int):
        least = resources.slots
    return Slots(
        space=Path(space).name,
        least=least,
        workers=resources.workers,
        threads=resources.threads,
        gpu=resources.gpu,
        memory_gb=resources.memory_gb,
    )


def errors_of(rows: list[Placed]) -> int:
    """How many findings are errors."""
    return sum(row.finding.severity.value == "error" for row in rows)


def report(path: Path, rows: list[Placed]) -> dict[str, object]:
    """The findings for machines."""
    errors = errors_of(rows)
    return {
        "file": str(path),
        "errors": errors,
        "warnings": len(rows) - errors,
        "findings": [row.row() for row in rows],
    }


def summary(path: Path, rows: list[Placed]) -> str:
    """The last line."""
    if not rows:
        return f"{path}: nothing to say against it"
    errors = errors_of(rows)
    warnings = len(rows) - errors
    return f"{path}: {errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
