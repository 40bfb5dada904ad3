"""`vesselflow keys [NAME]`: every key that a space may hold, read off the models themselves."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from vesselflow.config.keys import Chapter, reference
from vesselflow.errors import UserError, closest
from vesselflow.runs.registries import REGISTRIES

#: What is between these lines of a file is replaced by `--into`.
BEGIN = "<!-- keys: made by `vesselflow keys --into`, not by hand -->"
END = "<!-- end of keys -->"

HEADS = ("key", "allowed", "default", "meaning")

_EPILOG = """NAME is a section (train), a part (loss.fuzzy), or a key (loss.beta, split.folds).

  vesselflow keys                 the top level of a file
  vesselflow keys loss            all losses with their arguments
  vesselflow keys augment.affine
  vesselflow keys --markdown      the whole reference"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("name", metavar="NAME", nargs="?", help="section, part or key")
    parser.add_argument("--markdown", action="store_true", help="print Markdown; without NAME all")
    parser.add_argument(
        "--into", metavar="FILE", help="write the Markdown between the markers of a file"
    )


def run(args: argparse.Namespace) -> int:
    """Print the chapters; 0."""
    chapters = reference(REGISTRIES)
    if args.name is not None:
        chapters = chosen(chapters, args.name)
    elif not (args.markdown or args.into):
        _print(chapters[:1])
        names = [chapter.name for chapter in chapters[1:] if "." not in chapter.name]
        print(f"vesselflow keys NAME shows more: {', '.join(names)}, or any key in them")
        return 0
    if args.into:
        write_into(Path(args.into), markdown(chapters))
    elif args.markdown:
        print(markdown(chapters), end="")
    else:
        _print(chapters)
    return 0


def chosen(chapters: Iterable[Chapter], name: str) -> list[Chapter]:
    """The chapters of a section or part, or the rows of one key in all parts that have it.

    Raises:
        UserError: neither is called so; names the nearest.
    """
    chapters = list(chapters)
    found = [one for one in chapters if f"{one.name}.".startswith(f"{name}.")]
    if found:
        return found
    section, _, last = name.rpartition(".")
    for one in chapters:
        around = section == one.name.partition(".")[0] or section == one.name
        rows = tuple(row for row in one.keys if row.key == last)
        if rows and (around or (not section and one.name == "space")):
            found.append(one._replace(keys=rows))
    if found:
        return found
    names = [one.name for one in chapters]
    keys = [f"{one.name.partition('.')[0]}.{row.key}" for one in chapters for row in one.keys]
    inside = [one for one in names if one.startswith(f"{name.partition('.')[0]}.")]
    raise UserError(
        f"no section, part or key is called '{name}'",
        allowed=", ".join(inside or [one for one in names if "." not in one]),
        hint=closest(name, [*names, *keys]),
    )


def together(chapters: Iterable[Chapter]) -> list[list[Chapter]]:
    """Chapters of one section whose tables are equal share one, at the place of the first."""
    groups: dict[object, list[Chapter]] = {}
    for one in chapters:
        groups.setdefault((one.name.partition(".")[0], one.keys), []).append(one)
    return list(groups.values())


def markdown(chapters: Iterable[Chapter]) -> str:
    """The chapters as Markdown, each with a heading and a table."""
    lines = []
    for group in together(chapters):
        lines += [f"### {', '.join(f'`{one.name}`' for one in group)}", ""]
        for one in group:
            text = f"`{one.name}`: {one.text}" if len(group) > 1 else one.text
            lines += [_cell(text) + ".", ""]
        lines += [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
        for row in group[0].keys:
            default = f"`{row.default}`" if row.default else "empty"
            if row.default == "required":
                default = "required"
            cells = [f"`{row.key}`", _cell(row.type), default, _cell(row.text)]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "\\<")


def write_into(path: Path, text: str) -> None:
    """Replace what stands between `BEGIN` and `END` in a file.

    Raises:
        UserError: the file cannot be read, or lacks a marker.
    """
    from vesselflow.records.atomic import write_text

    try:
        before, begin, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"cannot be read: {reason}", where=str(path)) from None
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise UserError(
            "the markers are missing", where=str(path), allowed=f"a line '{BEGIN}', then '{END}'"
        )
    write_text(path, f"{before}{BEGIN}\n\n{text}\n{END}{after}")


def _print(chapters: Iterable[Chapter]) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # Into a pipe or file: wide enough that most rows are not broken.
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    for group in together(chapters):
        for one in group:
            console.print(f"[bold]{escape(one.name)}[/bold]  {escape(one.text)}", soft_wrap=True)
        table = Table(*HEADS, box=box.SIMPLE_HEAD)
        table.columns[0].no_wrap = True
        for row in group[0].keys:
            table.add_row(*map(escape, (row.key, row.type, row.default, row.text)))
        console.print(table)
