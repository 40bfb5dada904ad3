"""`vesselflow data`: import, inspect, verify, synthesise and cut up stores."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from vesselflow.cli import data_shards
from vesselflow.cli.progress import Progress
from vesselflow.cli.spaces import add_space_options, point_named, read_space
from vesselflow.errors import UserError
from vesselflow.stores.importers import IMPORTERS
from vesselflow.stores.synth import SYNTH_KINDS, describe

if TYPE_CHECKING:
    from vesselflow.cli.data_points import Distances
    from vesselflow.stores.store import Store

EPILOG = """examples:
  vesselflow data import chase CHASE_DB1/ data/chase.h5
  vesselflow data import folder DRIVE/training data/drive.h5 --masks 1st_manual \\
      --image-suffix _training --mask-suffix _manual1 --fov mask --fov-suffix _training_mask
  vesselflow data import volume tomograms/ data/t.h5 --keypoints picks.star --spacing-angstrom 10
  vesselflow data synth data/a.h5 --kind fundus --sources 24 --seed 0 --domain a
  vesselflow data synth data/t.h5 --kind tomogram --sources 8 --domain b
  vesselflow data inspect data/chase.h5 --png chase.png
  vesselflow data inspect search_spaces/augmentation.yaml --augment augmentation=all --png all.png
  vesselflow data shard data/kidney.h5 data/kidney.shards.json --size 500MB"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the actions; the options of a layout come from its argument model."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    text = "read a folder of images or volumes into a new store"
    action = actions.add_parser("import", help=text, description=text)
    layouts = action.add_subparsers(dest="layout", metavar="LAYOUT", required=True)
    for part in IMPORTERS:
        text = (part.arguments.__doc__ or "").strip().splitlines()[0]
        layout = layouts.add_parser(part.name, help=text, description=text)
        layout.add_argument("source", metavar="SOURCE", help="folder of the data set, or a volume")
        layout.add_argument("out", metavar="OUT.h5", help="store to make")
        layout.add_argument("--domain", metavar="NAME", help="name of the data set in all tables")
        layout.add_argument("--overwrite", action="store_true", help="replace a store that exists")
        for name, field in part.arguments.model_fields.items():
            option, dest = f"--{name.replace('_', '-')}", f"layout_{name}"
            text = str(field.description).replace("%", "%%")
            if field.annotation is bool:
                layout.add_argument(option, dest=dest, action="store_const", const=True, help=text)
                continue
            default = "" if field.default in (None, "") else f" (default {field.default})"
            metavar = name.upper()
            layout.add_argument(option, dest=dest, metavar=metavar, help=f"{text}{default}")

    text = "show what a store holds, or what the network of a point is given of it"
    action = actions.add_parser("inspect", help=text, description=text)
    text = "an HDF5 store, or an index of several; with --augment a search space"
    action.add_argument("store", metavar="STORE", help=text)
    action.add_argument("--json", action="store_true", help="print JSON instead of a table")
    action.add_argument("--png", metavar="FILE", help="also write a contact sheet")
    action.add_argument(
        "--patch", metavar="SIDES", help="of keypoints: count them in patches of Z,Y,X or Y,X px"
    )
    text = "with --png: draw training samples of this point of the space as its network sees them"
    action.add_argument("--augment", metavar="POINT", help=text)
    text = "of --augment: the optimizer step whose samples are drawn first (default 0)"
    action.add_argument("--step", metavar="N", type=int, help=text)
    text = "of --augment: where stores may lie (default results)"
    action.add_argument("--results", metavar="DIR", help=text)
    add_space_options(action, whose="the space's")

    text = "read all of a store and check it; exit code 1 for faults, 0 for mere suspicions"
    action = actions.add_parser("verify", help=text, description=text)
    action.add_argument("stores", metavar="STORE", nargs="+", help="HDF5 stores, or indices")

    text = "make a store of synthetic images or volumes"
    action = actions.add_parser("synth", help=text, description=text)
    action.add_argument("out", metavar="OUT.h5", help="store to make")
    action.add_argument("--kind", default="fundus", help=f"one of {', '.join(SYNTH_KINDS.names())}")
    action.add_argument("--sources", type=int, required=True, metavar="N", help="how many")
    action.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    text = "camera, microscope or scanner: a, b or c (default a)"
    action.add_argument("--domain", default="a", help=text)
    for name, told in _synth_options().items():
        action.add_argument(
            _option(name), dest=f"synth_{name}", metavar="N", type=_number, help=told
        )
    action.add_argument("--overwrite", action="store_true", help="replace a store that exists")
    data_shards.add_arguments(actions)


def _synth_options() -> dict[str, str]:
    """What kinds take beside sources, seed and domain -> its description, by kind."""
    told: dict[str, str] = {}
    for part in SYNTH_KINDS:
        for name, field in part.arguments.model_fields.items():
            if name not in ("sources", "seed", "domain"):
                before = f"{told[name]}; " if name in told else ""
                told[name] = f"{before}{part.name}: {field.description}"
    return told


def _option(name: str) -> str:
    """The option of an argument of a synthetic kind."""
    return "--" + name.removesuffix("_px").replace("_", "-")


def _number(text: str) -> int | float | str:
    """A number where the text is one; else the text, which the kind's model refuses by name."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def run(args: argparse.Namespace) -> int:
    """Run the chosen action; the exit code is 1 when `verify` finds a fault."""
    actions = {"import": _import, "inspect": _inspect, "verify": _verify, "synth": _synth}
    return {**actions, **data_shards.ACTIONS}[args.action](args)


@contextlib.contextmanager
def _on_the_command_line(options: Mapping[str, str]) -> Iterator[None]:
    """Name the option, not the argument behind it, in an error."""
    try:
        yield
    except UserError as error:
        where = options.get(error.where, error.where)
        raise UserError(error.what, where=where, allowed=error.allowed, hint=error.hint) from None


def _import(args: argparse.Namespace) -> int:
    from vesselflow.cli.data_inspect import counted
    from vesselflow.stores.importers.run import import_store

    given = {
        name: value
        for name in IMPORTERS.part(args.layout).arguments.model_fields
        if (value := getattr(args, f"layout_{name}")) is not None
    }
    progress = Progress()
    options = {name: f"--{name.replace('_', '-')}" for name in given}
    try:
        with _on_the_command_line(options):
            IMPORTERS.arguments(args.layout, given)
        made = import_store(
            args.layout,
            args.source,
            args.out,
            given,
            domain=args.domain,
            overwrite=args.overwrite,
            progress=progress,
        )
    finally:
        progress.end()
    print(f"{args.out}: {counted(made.sources)}, digest {made.digest}")
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


def _synth(args: argparse.Namespace) -> int:
    from vesselflow.cli.data_inspect import counted
    from vesselflow.stores.synth import make_synth

    given = {"sources": args.sources, "seed": args.seed, "domain": args.domain}
    for name in _synth_options():
        value = getattr(args, f"synth_{name}")
        if value is not None:
            given[name] = value
    options = {name: _option(name) for name in given}
    with _on_the_command_line(options | {"": "--kind"}):
        describe(args.kind, given)
    progress = Progress()
    try:
        digest = make_synth(
            args.out, args.kind, overwrite=args.overwrite, progress=progress, **given
        )
    finally:
        progress.end()
    print(f"{args.out}: {counted(args.sources)}, digest {digest}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    from vesselflow.cli.data_inspect import counted
    from vesselflow.stores.store import Store, check

    faulty = False
    for path in args.stores:
        report = check(path)
        for fault in report.faults:
            print(f"{path}: {fault}")
        if report.faults:
            faulty = True
        else:
            with Store.open(path) as store:
                print(f"{path}: sound, {counted(len(store))}, digest {store.digest}")
        # A suspicion is no fault: the store holds what it was given.
        for line in report.suspicions:
            print(f"{path}: warning, suspicious: {line}")
    return int(faulty)


def _inspect(args: argparse.Namespace) -> int:
    from vesselflow.cli.data_inspect import measure, print_table, summary
    from vesselflow.cli.data_points import apart
    from vesselflow.stores.store import Store

    if args.augment is not None:
        return _inspect_given(args)
    for name in ("step", "results", "profile", "overrides"):
        if getattr(args, name):
            option = "--set" if name == "overrides" else f"--{name}"
            raise UserError("says nothing without --augment POINT", where=option)
    progress = Progress()
    with Store.open(args.store) as store:
        patch = _patch(args.patch, store)
        rows = []
        try:
            for source in store.sources:
                rows.append(measure(store, source))
                progress(len(rows), len(store), source.id)
        finally:
            progress.end()
        distances = apart(store)
        if args.json:
            print(json.dumps(summary(store, rows, distances, patch), indent=2))
        else:
            print_table(store, rows, distances, patch)
        if args.png:
            _picture(store, distances, Path(args.png))
    return 0


def _inspect_given(args: argparse.Namespace) -> int:
    """Draw what the network of a point is given."""
    import tempfile

    from vesselflow.cli.data_given import SAMPLES, given_sheet
    from vesselflow.cli.data_sheet import save_png
    from vesselflow.cli.plan import check_results
    from vesselflow.sweeps.planning import plan_sweep

    step = args.step or 0
    if args.png is None:
        raise UserError("draws a picture", where="--augment", hint="give --png FILE")
    if args.json or args.patch is not None:
        option = "--json" if args.json else "--patch"
        raise UserError("does not go with --augment", where=option)
    if step < 0:
        raise UserError(f"{step} is not allowed", where="--step", allowed="0 or more")

    def notify(text: str) -> None:
        print(text, file=sys.stderr)

    space = read_space(args.store, args)
    point = point_named(space, args.augment, where="--augment")
    plan = plan_sweep(space, check_results(args.results or "results"), fresh=True, notify=notify)
    with tempfile.TemporaryDirectory(prefix="vesselflow-inspect-") as folder:
        from vesselflow.sweeps.estimate import with_stores

        plan = with_stores(plan, Path(folder), notify)
        notify("loading torch")
        from vesselflow.sweeps.given import given

        cell = next(cell for cell in plan.cells if cell.point == point)
        drawn = given(plan, cell, Path(folder), count=SAMPLES, step=step)
    sheet = given_sheet(drawn, f"{space.name}: {point}")
    save_png(sheet, Path(args.png))
    print(
        f"{args.png}: {len(drawn)} samples of {point} from step {step} on, "
        f"{sheet.width} x {sheet.height} px"
    )
    return 0


def _patch(given: str | None, store: Store) -> tuple[int, ...] | None:
    """Sides of the patches in which keypoints are counted."""
    from vesselflow.errors import UserError
    from vesselflow.stores.importers.grouping import numbers_in

    if given is None:
        return None
    if store.kind != "keypoint":
        raise UserError("this store has no keypoints", where="--patch", allowed="keypoint stores")
    axes = store.layout.dims
    sides = tuple(int(side) for side in numbers_in(given, int) or ())
    sides = sides * axes if len(sides) == 1 else sides
    if len(sides) != axes or min(sides) < 1:
        raise UserError(
            f"{given} is not allowed", where="--patch", allowed=f"1 or {axes} whole numbers above 0"
        )
    return sides


def _picture(store: Store, distances: Distances, path: Path) -> None:
    from vesselflow.cli.data_planes import planes_sheet
    from vesselflow.cli.data_sheet import contact_sheet, save_png

    flat = store.kind == "patch" and store.layout.dims == 2
    sheet = contact_sheet(store) if flat else planes_sheet(store, distances)
    save_png(sheet, path)
    print(f"{path}: contact sheet, {sheet.width} x {sheet.height} px", file=sys.stderr)
