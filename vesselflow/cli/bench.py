"""`vesselflow bench NAME`: vesselflow against its peers, interleaved in one run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console


class Bench(NamedTuple):
    """A bench: where it is, how often its peers take turns unless told, what it measures."""

    module: str
    function: str
    rounds: int
    text: str
    #: Whether it measures a search space, given beside its name.
    space: bool = False
    #: What draws its result as a PNG, in its module; "" for nothing.
    figure: str = ""


#: Rounds are such that a bench takes at most about five minutes on two cores.
BENCHES = {
    "overhead": Bench(
        "vesselflow.bench.overhead",
        "overhead",
        3,
        "seconds of a run beyond its training steps: warm slots against Tune + TorchTrainer",
    ),
    "feed": Bench(
        "vesselflow.bench.feed",
        "feed",
        5,
        "MB/s of shuffled samples: resident against a DataLoader, streamed against h5py in order",
    ),
    "launch": Bench(
        "vesselflow.bench.launch",
        "launch",
        3,
        "seconds from the command to the first step, against importing torch and ray",
    ),
    "recovery": Bench(
        "vesselflow.bench.recovery",
        "recovery",
        3,
        "seconds from the death of a worker to the next step of its run",
    ),
    "checkpoint": Bench(
        "vesselflow.bench.checkpoint",
        "checkpoint",
        3,
        "what checkpoints take from a training: in two phases, torch.save, DCP async_save",
    ),
    "slots": Bench(
        "vesselflow.bench.slots",
        "slots",
        1,
        "processes and memory of a slot beside its worker, at 16 slots",
    ),
    "broker": Bench(
        "vesselflow.bench.broker",
        "broker",
        1,
        "seconds until a claim is answered, with 1,000 simulated slots and 100,000 runs",
    ),
    "drivers": Bench(
        "vesselflow.bench.drivers",
        "drivers",
        2,
        "seconds of a sweep by two drivers on the same results, against one",
    ),
    "bucket": Bench(
        "vesselflow.bench.bucket",
        "bucket",
        3,
        "seconds of a start over finished runs, and of a run, with results in a bucket",
    ),
    "keypoints": Bench(
        "vesselflow.bench.keypoints",
        "keypoints",
        3,
        "ms to render a patch's target from keypoints, and its bytes: against dense ones",
    ),
    "step": Bench(
        "vesselflow.bench.step",
        "step",
        5,
        "ms of a training step with checkpoints and logging, against a bare loop in PyTorch",
    ),
    "losses": Bench(
        "vesselflow.bench.losses",
        "losses",
        5,
        "ms of every loss, forward and backward, and its share of a resnet34 U-Net's step",
    ),
    "augment": Bench(
        "vesselflow.bench.augment",
        "augment",
        5,
        "ms to augment an image of 512 px by each part, and by a chain of four: against kornia, "
        "albumentations and MONAI",
        figure="figure",
    ),
    "blobs": Bench(
        "vesselflow.bench.blobs",
        "blobs",
        1,
        "SPACE: scores of its picks, and of a tuned Laplacian of Gaussian on the same volumes",
        space=True,
    ),
    "memory": Bench(
        "vesselflow.bench.memory",
        "memory",
        1,
        "GiB of a sweep that streams four times Ray's object store, above an idle one",
    ),
    "start": Bench(
        "vesselflow.bench.start",
        "start",
        3,
        "seconds from the command to its answer over finished runs: with the index and without",
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command line."""
    parser.add_argument("name", choices=list(BENCHES), help="which bench")
    parser.add_argument(
        "space", nargs="?", metavar="SPACE", help="YAML file of a search space (of blobs)"
    )
    parser.add_argument("--profile", metavar="NAME", help="one of the space's profiles")
    parser.add_argument(
        "--results", metavar="DIR", help="where the space's sweep is (default: results)"
    )
    defaults = ", ".join(f"{name} {bench.rounds}" for name, bench in BENCHES.items())
    parser.add_argument("--rounds", type=int, help=f"interleaved rounds (default: {defaults})")
    parser.add_argument(
        "--runs", type=int, help="finished runs (default: start 10000, bucket 1000)"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="where the JSON goes (default: results/bench/NAME.json)"
    )
    parser.add_argument("--png", metavar="FILE", help="also draw the result (augment)")
    parser.epilog = "benches:\n" + "\n".join(
        f"  {name:<10} {bench.text}" for name, bench in BENCHES.items()
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, write the same numbers as JSON."""
    import importlib

    from vesselflow.cli.output import Output
    from vesselflow.errors import UserError, VesselflowError
    from vesselflow.records.atomic import explained, write_bytes, write_json

    bench = BENCHES[args.name]
    rounds = bench.rounds if args.rounds is None else args.rounds
    if rounds < 1:
        raise UserError(f"{rounds} is not allowed", where="--rounds", allowed="1 or more")
    given = _space(args, bench)
    if args.png is not None and not bench.figure:
        drawn = ", ".join(name for name, each in BENCHES.items() if each.figure)
        raise UserError("this bench has no figure", where="--png", allowed=drawn)
    if args.runs is not None:
        if args.name not in ("start", "bucket"):
            raise UserError(
                "this bench takes no such number", where="--runs", allowed="start, bucket"
            )
        if args.runs < 5:
            raise UserError(f"{args.runs} is not allowed", where="--runs", allowed="5 or more")
        given["runs"] = args.runs
    # Into a pipe or file: wide enough that no row of a table is broken.
    console = Output(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(f"[bold]{args.name}[/bold]: {bench.text}")
    out = Path(args.out or f"results/bench/{args.name}.json")
    # Before minutes are spent on numbers that could not be kept.
    for path in (out, Path(args.png or out)):
        with explained(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
    module = importlib.import_module(bench.module)
    try:
        with console.status("measuring") as status:
            result = getattr(module, bench.function)(
                rounds=rounds, progress=lambda line: status.update(str(line)), **given
            )
    except UserError:
        raise
    except VesselflowError as error:
        console.print(f"vesselflow: {error}", style="red", markup=False)
        return 1
    _print(console, result)
    write_json(out, result)
    console.print(f"also as JSON: {out}", markup=False)
    if args.png is not None:
        with explained(Path(args.png)):
            write_bytes(Path(args.png), getattr(module, bench.figure)(result))
        console.print(f"as a figure: {args.png}", markup=False)
    return 0


def _space(args: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """The space that a bench measures, and where its sweep is.

    Raises:
        UserError: It is missing, or the bench takes none.
    """
    from vesselflow.errors import UserError

    with_space = ", ".join(name for name, each in BENCHES.items() if each.space)
    if not bench.space:
        for name in ("space", "profile", "results"):
            if getattr(args, name) is not None:
                where = "SPACE" if name == "space" else f"--{name}"
                raise UserError("this bench takes none", where=where, allowed=with_space)
        return {}
    if args.space is None:
        raise UserError("a space is missing", where="SPACE", allowed="a YAML file")
    return {
        "space": args.space,
        "profile": args.profile,
        "results": args.results or "results",
    }


def _print(console: Console, result: dict[str, Any]) -> None:
    from rich.table import Table

    for plain in result.get("tables", ()):
        shown = Table(*plain["columns"])
        for line in plain["rows"]:
            shown.add_row(*line)
        console.print(shown)
    table = Table("peer", "median", "low to high", "unit")
    for name, row in result["peers"].items():
        table.add_row(
            name,
            f"{row['median']:.4g}",
            f"{row['low']:.4g} to {row['high']:.4g}",
            row["unit"],
        )
    if result["peers"]:
        console.print(table)
    ratios = Table("ratio", "median", "low to high")
    for name, row in result["ratios"].items():
        ratios.add_row(name, f"{row['median']:.3g}", f"{row['low']:.3g} to {row['high']:.3g}")
    if result["ratios"]:
        console.print(ratios)
    said: dict[str, list[str]] = {}
    for name, row in result["peers"].items():
        said.setdefault(_settings(row["settings"]), []).append(name)
    for settings, names in said.items():
        console.print(f"[dim]{' and '.join(names)}: {settings}[/dim]")
    for note in result.get("notes", ()):
        console.print(note, markup=False)
    for row in result.get("targets", ()):
        met = "[green]met[/green]" if row["met"] else "[red]missed[/red]"
        console.print(f"target {met}: {row['what']} = {row['value']:.3g}, wanted {row['target']}")


def _settings(settings: str | dict[str, Any]) -> str:
    if isinstance(settings, str):
        return settings
    return "; ".join(f"{key}: {value}" for key, value in settings.items())
