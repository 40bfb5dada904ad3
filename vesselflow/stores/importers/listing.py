"""What an importer returns, and how it finds files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vesselflow.errors import UserError

#: What counts as an image file; other files in a folder are passed over.
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".webp"}
)


@dataclass(frozen=True)
class Item:
    """The files of one source.

    Attributes:
        id: Name of the source.
        group: What must stay on one side of a split.
        image: Image file.
        target: Vessel mask.
        fov: Field-of-view mask; None: see `missing_fov`.
        split: "train", "test" or "".
        missing_fov: Without a mask: "estimate" the bright disc, or "full": every pixel counts.
    """

    id: str
    group: str
    image: Path
    target: Path
    fov: Path | None = None
    split: str = ""
    missing_fov: Literal["full", "estimate"] = "estimate"


@dataclass(frozen=True)
class Listing:
    """All sources of a folder, and what the user should know about how they were found."""

    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()


def folder_of(path: Path, *, what: str = "folder") -> Path:
    """The path, when it is a folder that can be read; UserError otherwise."""
    if not path.exists():
        raise UserError(f"no such {what}", where=str(path), hint="check the name")
    if not path.is_dir():
        raise UserError("is a file, not a folder", where=str(path), hint="give the folder it is in")
    return path


def stem_of(path: Path) -> str:
    """Name without its image suffix, and without .gz."""
    name = path.name
    if name.lower().endswith(".gz"):
        name = name[:-3]
    return Path(name).stem


def is_image(path: Path) -> bool:
    """Whether the name is that of an image file, possibly gzipped; hidden files are not."""
    name = path.name.lower()
    name = name.removesuffix(".gz")
    return not name.startswith(".") and Path(name).suffix in IMAGE_SUFFIXES and path.is_file()


def images_by_stem(folder: Path, *, prefix: str = "", suffix: str = "") -> dict[str, Path]:
    """Image files of a folder by their stem without `prefix` and `suffix`, sorted.

    Files without the prefix or suffix are left out.

    Raises:
        UserError: no such folder, unreadable, or two files with one stem.
    """
    try:
        names = sorted(folder_of(folder).iterdir())
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(folder)) from error
    found: dict[str, Path] = {}
    for path in names:
        stem = stem_of(path)
        if not (is_image(path) and stem.startswith(prefix) and stem.endswith(suffix)):
            continue
        key = stem[len(prefix) : len(stem) - len(suffix)]
        if not key:
            continue
        if key in found:
            raise UserError(
                f"{found[key].name} and {path.name} would both be '{key}'",
                where=str(folder),
                hint="keep one of them",
            )
        found[key] = path
    return found


def no_images(folder: Path, expected: str) -> UserError:
    """The error for a folder in which nothing of the layout was found."""
    return UserError(
        "no images found",
        where=str(folder),
        allowed=expected,
        hint="check the folder and the layout ('vesselflow data import LAYOUT --help')",
    )


def missing(image: Path, what: str, folder: Path) -> UserError:
    """The error for an image without its mask."""
    return UserError(
        f"image {image.name} has no {what}",
        where=str(folder),
        hint="add it, or take the image away",
    )


def few(names: Iterable[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    text = ", ".join(names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"
