"""How commands name a space: its profile, and keys that are set over the file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vesselflow.errors import UserError, closest

if TYPE_CHECKING:
    from vesselflow.config.space import Space

SET_HELP = "override a key (dotted path); on an axis it fixes that axis"


def add_space_options(
    parser: argparse.ArgumentParser, *, whose: str = "the file's", set_help: str = SET_HELP
) -> None:
    """`--profile` and `--set`, as `args.profile` and `args.overrides`."""
    parser.add_argument("--profile", metavar="NAME", help=f"one of {whose} profiles")
    parser.add_argument(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help=set_help,
    )


def read_space(file: str | Path, args: argparse.Namespace) -> Space:
    """The space of a file, with what `add_space_options` took.

    Raises:
        UserError: Whatever is wrong in it, all at once.
    """
    from vesselflow.config.loading import load_space
    from vesselflow.runs.registries import REGISTRIES

    return load_space(
        file, profile=args.profile, overrides=tuple(args.overrides), registries=REGISTRIES
    )


def point_named(space: Space, name: str, *, where: str) -> str:
    """A point of a space, by its name.

    Raises:
        UserError: There is none of this name.
    """
    names = [point.name for point in space.expand().points]
    if name not in names:
        raise UserError(
            f"there is no point '{name}'",
            where=where,
            allowed=" | ".join(names),
            hint=closest(name, names),
        )
    return name
