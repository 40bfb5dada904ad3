"""`vesselflow data`: import, inspect, verify and synthesise stores."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vesselflow.errors import UserError
from vesselflow.stores.importers import IMPORTERS
from vesselflow.stores.synth import FUNDUS_SIZES_PX, SYNTH_KINDS, describe

if TYPE_CHECKING:
    from PIL import Image

    from vesselflow.stores.store import SourceInfo, Store

#: Progress is shown once a command has taken this long.
QUIET_S = 2.0
#: The contact sheet: about this wide, this many pairs in a row, at most this many sources.
SHEET_PX = 1600
SHEET_COLUMNS = 3
SHEET_SOURCES = 60
#: Frame and caption of a source with suspicions.
DOUBT_COLOUR = (205, 30, 30)

EPILOG = """examples:
  vesselflow data import chase CHASE_DB1/ data/chase.h5
  vesselflow data import folder DRIVE/training data/drive.h5 --masks 1st_manual \\
      --image-suffix _training --mask-suffix _manual1 --fov mask --fov-suffix _training_mask
  vesselflow data synth data/a.h5 --kind fundus --sources 24 --seed 0 --domain a
  vesselflow data inspect data/chase.h5 --png chase.png"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the four actions; the options of a layout come from its argument model."""
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    text = "read a folder of images into a new store"
    action = actions.add_parser("import", help=text, description=text)
    layouts = action.add_subparsers(dest="layout", metavar="LAYOUT", required=True)
    for part in IMPORTERS:
        text = (part.arguments.__doc__ or "").strip().splitlines()[0]
        layout = layouts.add_parser(part.name, help=text, description=text)
        layout.add_argument("source", metavar="SOURCE", help="folder of the data set")
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

    text = "show what a store holds"
    action = actions.add_parser("inspect", help=text, description=text)
    action.add_argument("store", metavar="STORE", help="an HDF5 store")
    action.add_argument("--json", action="store_true", help="print JSON instead of a table")
    action.add_argument("--png", metavar="FILE", help="also write a contact sheet")

    text = "read all of a store and check it; exit code 1 for faults, 0 for mere suspicions"
    action = actions.add_parser("verify", help=text, description=text)
    action.add_argument("stores", metavar="STORE", nargs="+", help="HDF5 stores")

    text = "make a store of synthetic images"
    action = actions.add_parser("synth", help=text, description=text)
    action.add_argument("out", metavar="OUT.h5", help="store to make")
    action.add_argument("--kind", default="fundus", help=f"one of {', '.join(SYNTH_KINDS.names())}")
    action.add_argument("--sources", type=int, required=True, metavar="N", help="how many images")
    action.add_argument("--seed", type=int, default=0, metavar="S", help="default 0")
    action.add_argument("--domain", default="a", help="camera: a, b or c (default a)")
    sizes = ", ".join(f"{name} {size}" for name, size in FUNDUS_SIZES_PX.items())
    action.add_argument(
        "--size", type=int, metavar="PX", help=f"side of the image (default {sizes})"
    )
    action.add_argument("--overwrite", action="store_true", help="replace a store that exists")


def run(args: argparse.Namespace) -> int:
    """Run the chosen action; the exit code is 1 when `verify` finds a fault."""
    actions = {"import": _import, "inspect": _inspect, "verify": _verify, "synth": _synth}
    return actions[args.action](args)


class _Progress:
    """Says on a terminal how far a slow command is, in a line that is gone at the end.

    Into a pipe or a file it says nothing: what stays there is the command's answer.
    """

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.next = QUIET_S
        self.shown = False
        self.terminal = sys.stderr.isatty()

    def __call__(self, done: int, total: int, name: str) -> None:
        elapsed = time.monotonic() - self.start
        if not self.terminal or elapsed < self.next:
            return
        self.next = elapsed + 0.2
        self.shown = True
        # A line that is longer than the terminal could not be taken back.
        text = f"{done} of {total} ({name})"[: shutil.get_terminal_size().columns - 1]
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        """Take the line back, so that neither an answer nor an error sticks to it."""
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _on_the_command_line(options: Mapping[str, str]) -> Iterator[None]:
    """Name the option, not the argument behind it, in an error."""
    try:
        yield
    except UserError as error:
        where = options.get(error.where, error.where)
        raise UserError(error.what, where=where, allowed=error.allowed, hint=error.hint) from None


def _import(args: argparse.Namespace) -> int:
    from vesselflow.stores.importers.run import import_store

    given = {
        name: value
        for name in IMPORTERS.part(args.layout).arguments.model_fields
        if (value := getattr(args, f"layout_{name}")) is not None
    }
    progress = _Progress()
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
    print(f"{args.out}: {_count(made.sources)}, digest {made.digest}")
    for note in made.notes:
        print(f"note: {note}", file=sys.stderr)
    return 0


def _synth(args: argparse.Namespace) -> int:
    from vesselflow.stores.synth import make_synth

    options = {name: f"--{name}" for name in ("sources", "seed", "domain")}
    with _on_the_command_line(options | {"size_px": "--size", "": "--kind"}):
        describe(
            args.kind,
            {
                "sources": args.sources,
                "seed": args.seed,
                "domain": args.domain,
                "size_px": args.size,
            },
        )
    progress = _Progress()
    try:
        digest = make_synth(
            args.out,
            args.kind,
            args.sources,
            args.seed,
            args.domain,
            args.size,
            overwrite=args.overwrite,
            progress=progress,
        )
    finally:
        progress.end()
    print(f"{args.out}: {_count(args.sources)}, digest {digest}")
    return 0


def _verify(args: argparse.Namespace) -> int:
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
                print(f"{path}: sound, {_count(len(store))}, digest {store.digest}")
        # A suspicion is no fault: the store holds what it was given.
        for line in report.suspicions:
            print(f"{path}: warning, suspicious: {line}")
    return int(faulty)


def _inspect(args: argparse.Namespace) -> int:
    from vesselflow.stores.store import Store

    with Store.open(args.store) as store:
        rows = [_measure(store, source) for source in store.sources]
        if args.json:
            print(json.dumps(_summary(store, rows), indent=2))
        else:
            _print_table(store, rows)
        if args.png:
            sheet = contact_sheet(store)
            _save_png(sheet, Path(args.png))
            print(f"{args.png}: contact sheet, {sheet.width} x {sheet.height} px", file=sys.stderr)
    return 0


def _count(sources: int) -> str:
    return f"{sources} source" if sources == 1 else f"{sources} sources"


def _measure(store: Store, source: SourceInfo) -> dict[str, Any]:
    """What `inspect` says about a source; shares are of pixels (a fov is never empty)."""
    from vesselflow.stores.store import suspicions

    fov = store.fov(source.index).astype(bool)
    vessel = store.target(source.index).astype(bool)
    values = dataclasses.asdict(source)
    values["vessel_share"] = float(vessel[fov].mean())
    values["fov_share"] = float(fov.mean())
    values["target_px_outside_fov"] = int((vessel & ~fov).sum())
    values["suspicions"] = suspicions(store.image(source.index), vessel, fov)
    return values


def _summary(store: Store, rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "path": str(store.path),
        "bytes": store.path.stat().st_size,
        "kind": store.kind,
        "domain": store.domain,
        "digest": store.digest,
        "importer": store.importer,
        "groups": len({row["group"] for row in rows}),
        "splits": dict(Counter(row["split"] for row in rows)),
        "sources": rows,
    }


def _print_table(store: Store, rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from vesselflow.cli.output import Output
    from vesselflow.stores.store import SUSPICIONS

    splits = Counter(row["split"] or "no split" for row in rows)
    parts = ", ".join(f"{count} {name}" for name, count in sorted(splits.items()))
    table = Table(
        title=f"{escape(store.domain)}: {_count(len(rows))}, {parts}",
        caption=f"digest {store.digest}, {store.path.stat().st_size / 1e6:.1f} MB",
        box=box.SIMPLE_HEAD,
    )
    for name in ("source", "group", "split"):
        table.add_column(name)
    spaced = any(row["spacing_um"] for row in rows)
    for name in (
        "width x height",
        *(["um per px"] if spaced else []),
        "fov %",
        "vessel % of fov",
        "digest",
    ):
        table.add_column(name, justify="right")
    marked = any(row["suspicions"] for row in rows)
    if marked:
        table.add_column("suspicious", style="red")
    for row in rows:
        table.add_row(
            escape(row["id"]),
            escape(row["group"]),
            row["split"] or "-",
            f"{row['width']} x {row['height']}",
            *([_spacing(row["spacing_um"])] if spaced else []),
            f"{100 * row['fov_share']:.1f}",
            f"{100 * row['vessel_share']:.1f}",
            row["digest"][:10],
            *([", ".join(row["suspicions"])] if marked else []),
        )
    # Into a pipe or file: wide enough that no row is broken.
    Output(width=None if sys.stdout.isatty() else 160).print(table)
    kinds = {kind for row in rows for kind in row["suspicions"]}
    for kind, text in SUSPICIONS.items():
        if kind in kinds:
            print(f"{kind}: {text}")


def _spacing(spacing: Sequence[float] | None) -> str:
    """Of a pixel, in micrometres: one number, width x height where they differ, or "-"."""
    if spacing is None:
        return "-"
    height, width = spacing
    return f"{width:.4g}" if height == width else f"{width:.4g} x {height:.4g}"


def contact_sheet(store: Store) -> Image.Image:
    """A picture of the store: each source with its fov outlined, and with its target overlaid.

    Args:
        store: An open store.

    Returns:
        RGB image about `SHEET_PX` wide; the first `SHEET_SOURCES` sources, and a note about the
        rest. Sources that look wrong have a red frame and say why.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from vesselflow.stores.store import suspicions

    shown = store.sources[:SHEET_SOURCES]
    columns = min(SHEET_COLUMNS, len(shown))
    margin, gap, caption = 24, 6, 26
    cell = (SHEET_PX - margin * (SHEET_COLUMNS + 1)) // SHEET_COLUMNS
    side = (cell - gap) // 2
    tallest = max(source.height / source.width for source in shown)
    tile = min(round(side * tallest), 2 * side)
    title_height = 76
    rows = -(-len(shown) // columns)
    more = len(store.sources) - len(shown)
    height = title_height + rows * (tile + caption + margin) + (40 if more else 0)
    width = max(margin + columns * (cell + margin), 620)
    sheet = Image.new("RGB", (width, height), (250, 250, 248))
    draw = ImageDraw.Draw(sheet)
    big, small = ImageFont.load_default(24), ImageFont.load_default(14)
    groups = len({source.group for source in store.sources})
    draw.text((margin, 16), store.domain, fill=(20, 20, 20), font=big)
    line = f"{_count(len(store))} in {groups} groups, digest {store.digest[:12]}"
    draw.text((margin, 48), f"{line}; left: fov outline, right: target", (110,) * 3, font=small)
    for number, source in enumerate(shown):
        left = margin + (number % columns) * (cell + margin)
        top = title_height + (number // columns) * (tile + caption + margin)
        image, target, fov = (
            np.asarray(read(source.index)) for read in (store.image, store.target, store.fov)
        )
        share = 100 * float(target[fov > 0].mean())
        doubts = suspicions(image, target, fov)
        scale = min(side / source.width, tile / source.height)
        size = (max(1, round(source.width * scale)), max(1, round(source.height * scale)))
        pixels = image[:, :, :3] if source.channels >= 3 else image[:, :, :1].repeat(3, axis=2)
        plain = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.LANCZOS)
        # Reduced masks keep their share of each pixel, so thin vessels stay visible as tints.
        cover, inside = (
            np.asarray(Image.fromarray(mask * 255).resize(size, Image.Resampling.BOX)) / 255.0
            for mask in (target, fov)
        )
        ring = (inside >= 0.5) ^ _eroded(inside >= 0.5)
        outlined = np.where(ring[:, :, None], (90, 235, 255), np.asarray(plain))
        grey = np.asarray(plain.convert("L"))[:, :, None] * np.array([0.75, 0.75, 0.75])
        alpha = np.clip(1.3 * cover, 0, 1)[:, :, None]
        overlaid = grey * (1 - alpha) + np.array([70.0, 255.0, 130.0]) * alpha
        for x, picture in ((left, outlined), (left + side + gap, overlaid)):
            sheet.paste(Image.fromarray(np.rint(picture).astype(np.uint8)), (x, top))
        split = f", {source.split}" if source.split else ""
        text = f"{source.id}  (group {source.group}{split})  {share:.1f} % vessel"
        if doubts:
            text = f"{', '.join(doubts)}!  {text}"
            box = (left - 4, top - 4, left + cell + 3, top + size[1] + 3)
            draw.rectangle(box, outline=DOUBT_COLOUR, width=3)
        while draw.textlength(text, font=small) > cell and len(text) > 8:
            text = text[:-4] + "..."
        colour = DOUBT_COLOUR if doubts else (60, 60, 60)
        draw.text((left, top + size[1] + 5), text, fill=colour, font=small)
    if more:
        note = f"{more} more not shown"
        draw.text((margin, height - 40), note, fill=(110, 110, 110), font=small)
    return sheet


def _eroded(mask: Any) -> Any:
    """The mask without its outermost ring of pixels (two px, so that the outline can be seen)."""
    from scipy import ndimage

    return ndimage.binary_erosion(mask, iterations=2)


def _save_png(image: Image.Image, path: Path) -> None:
    from vesselflow.records.atomic import write_bytes

    picture = io.BytesIO()
    image.save(picture, format="PNG")
    try:
        write_bytes(path, picture.getvalue())
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=str(path)) from error
