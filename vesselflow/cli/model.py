"""`vesselflow model SPACE.yaml`: what the networks of a space cost, and what they see."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from vesselflow.cli.spaces import add_space_options, read_space

if TYPE_CHECKING:
    from rich.console import Console

    from vesselflow.models.facts import ModelFacts
    from vesselflow.sweeps.networks import Network

_EPILOG = """One row for each network, with the parameters and multiplications of the others as
multiples of the first one's. Nothing is trained or written.

  given        with match_parameters, the parameters with the widths that the space gives
  MACs         multiplications with additions of a prediction of one sample
  sees         pixels along each axis that the logit in the middle of a sample depends on, without
               normalisation; "all" is a side or more
  training     memory of a step in float32: weights, gradients, two moments, and what the forward
               pass of a micro-batch keeps
  recomputing  the same with train.recompute: of each block what enters it, and one block's inside

  vesselflow model search_spaces/fpn.yaml
  vesselflow model search_spaces/se.yaml --set data.working_size_px=512 --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("space", help="YAML file of the search space")
    add_space_options(parser)
    parser.add_argument("--results", metavar="DIR", default="results", help="default: results")
    parser.add_argument("--json", action="store_true", help="print the table as JSON")


def run(args: argparse.Namespace) -> int:
    """Print the table; 0."""
    from vesselflow.cli.output import Output
    from vesselflow.cli.plan import check_results
    from vesselflow.cli.progress import Progress
    from vesselflow.sweeps.networks import networks
    from vesselflow.sweeps.planning import plan_sweep

    space = read_space(args.space, args)
    plan = plan_sweep(space, check_results(args.results), here=False)
    found = networks(plan)
    from vesselflow.models.facts import facts_of

    facts, progress = [], Progress()
    try:
        for done, network in enumerate(found):
            progress(done, len(found), network.label)
            facts.append(
                facts_of(
                    network.spec,
                    channels=network.channels,
                    classes=network.classes,
                    stride=network.stride,
                    sample=network.sample,
                    micro_batch_size=network.micro_batch_size,
                )
            )
    finally:
        progress.end()
    points = plan.matched.points if plan.matched else {}
    given = [points[network.points[0]].given for network in found] if points else []
    if args.json:
        rows = [_plain(*pair) for pair in zip(found, facts, strict=True)]
        for row, count in zip(rows, given, strict=bool(given)):
            row["given_parameters"] = count
        json.dump({"space": space.name, "networks": rows}, sys.stdout, indent=2)
        print()
        return 0
    # Into a pipe or file: wide enough that most rows are not broken.
    console = Output(width=None if sys.stdout.isatty() else 160, highlight=False)
    _print(console, found, facts, given)
    return 0


def _plain(network: Network, facts: ModelFacts) -> dict[str, Any]:
    """A row as plain data."""
    return {
        "points": list(network.points),
        "model": dict(network.spec),
        "channels": network.channels,
        "classes": network.classes,
        "sample_px": list(network.sample),
        "output_stride": list(network.stride),
        "micro_batch_size": network.micro_batch_size,
        "parameters": facts.parameters,
        "macs": facts.macs,
        "receptive_px": list(facts.receptive_px),
        "training_bytes": facts.training_bytes,
        "recomputing_bytes": facts.recomputing_bytes,
    }


def _print(
    console: Console,
    found: Sequence[Network],
    facts: Sequence[ModelFacts],
    given: Sequence[int],
) -> None:
    """The table; `given` are parameters before widths were matched, none where they were not."""
    from rich import box
    from rich.table import Table

    first = facts[0]
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("network", overflow="fold")
    heads = ["parameters", "", "GMACs", "", "sees", "sample", "stride", "training", "recomputing"]
    for head in ("points", *(("given", "") if given else ()), *heads):
        table.add_column(head, justify="right", no_wrap=True)
    for index, (network, row) in enumerate(zip(found, facts, strict=True)):
        before = [f"{given[index]:,}", _times(given[index], given[0])] if given else []
        table.add_row(
            escape(network.label),
            str(len(network.points)),
            *before,
            f"{row.parameters:,}",
            _times(row.parameters, first.parameters),
            f"{row.macs / 1e9:.3g}",
            _times(row.macs, first.macs),
            _seen(row.receptive_px, network.sample),
            _sides(network.sample),
            _sides(network.stride),
            f"{row.training_bytes / 2**20:,.0f} MiB",
            f"{row.recomputing_bytes / 2**20:,.0f} MiB",
        )
    console.print(table)


def _times(value: int, first: int) -> str:
    return f"x {value / first:.2f}" if first else ""


def _sides(sides: Sequence[int]) -> str:
    """Equal sides as one number."""
    return str(sides[0]) if len(set(sides)) == 1 else " x ".join(map(str, sides))


def _seen(reached: Sequence[int], sample: Sequence[int]) -> str:
    if all(extent == side for extent, side in zip(reached, sample, strict=True)):
        return "all"
    return _sides(reached)
