"""`vesselflow bench NAME`: vesselflow against its peers, interleaved in one run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

#: name -> (module, function, what is measured)
BENCHES = {
    "overhead": (
        "vesselflow.bench.overhead",
        "overhead",
        "seconds of a run beyond its training steps: warm slots against Tune + TorchTrainer",
    ),
    "feed": (
        "vesselflow.bench.feed",
        "feed",
        "shuffled patches per second: resident data against a DataLoader over h5py",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("name", choices=list(BENCHES), help="which bench")
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default: 5)")
    parser.add_argument(
        "--out", metavar="FILE", help="where the JSON goes (default: results/bench/NAME.json)"
    )
    parser.epilog = "benches:\n" + "\n".join(
        f"  {name:<10} {text}" for name, (_, _, text) in BENCHES.items()
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, write the same numbers as JSON."""
    import importlib

    from rich.console import Console

    from vesselflow.errors import UserError
    from vesselflow.records.atomic import write_json

    if args.rounds < 1:
        raise UserError(f"{args.rounds} is not allowed", where="--rounds", allowed="1 or more")
    console = Console(highlight=False)
    module, function, text = BENCHES[args.name]
    console.print(f"[bold]{args.name}[/bold]: {text}")
    with console.status("measuring") as status:
        result = getattr(importlib.import_module(module), function)(
            rounds=args.rounds, progress=lambda line: status.update(str(line))
        )
    _print(console, result)
    out = Path(args.out or f"results/bench/{args.name}.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_json(out, result)
    console.print(f"also as JSON: {out}", markup=False)
    return 0


def _print(console: Any, result: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("peer", "median", "low to high", "unit", "settings")
    for name, row in result["peers"].items():
        settings = row["settings"]
        table.add_row(
            name,
            f"{row['median']:.4g}",
            f"{row['low']:.4g} to {row['high']:.4g}",
            row["unit"],
            settings if isinstance(settings, str) else json.dumps(settings),
        )
    console.print(table)
    ratios = Table("ratio", "median", "low to high")
    for name, row in result["ratios"].items():
        ratios.add_row(name, f"{row['median']:.3g}", f"{row['low']:.3g} to {row['high']:.3g}")
    console.print(ratios)
