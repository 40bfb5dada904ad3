"""What an importer returns, and how it finds files."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vesselflow.errors import UserError

if TYPE_CHECKING:
    from vesselflow.stores.layout import Layout
    from vesselflow.stores.schema import Source

#: What counts as an image file; other files in a folder are passed over.
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".ppm", ".pgm", ".pbm", ".webp"}
)
#: Files that often lie beside images and that nobody takes for one: passed over without a word.
_COMPANIONS = frozenset(
    {".csv", ".db", ".html", ".ini", ".json", ".md", ".pdf", ".py", ".tsv", ".txt"}
    | {".xls", ".xlsx", ".xml", ".yaml", ".yml"}
)


@dataclass(frozen=True)
class Item:
    """The files of one source.

    Attributes:
        id: Name of the source.
        group: What must stay on one side of a split.
        image: Image file.
        target: Vessel mask; None: nobody has drawn one.
        fov: Field-of-view mask; None: see `missing_fov`.
        split: "train", "test" or "".
        missing_fov: Without a mask: "estimate" the bright disc, or "full": every pixel counts.
        spacing_um: Height and width of a pixel in micrometres, where known.
    """

    id: str
    group: str
    image: Path
    target: Path | None
    fov: Path | None = None
    split: str = ""
    missing_fov: Literal["full", "estimate"] = "estimate"
    spacing_um: tuple[float, float] | None = None


@dataclass(frozen=True)
class Conversion:
    """How pictures become 8-bit images and binary masks; without it such files are refused.

    Attributes:
        window: (low, high): in images deeper than 8 bits, low to high becomes 0 to 255.
        threshold: In masks and fov masks that are not binary, values of this or more are set.
        values: In vessel masks these values are vessel and all others are not; of a palette image
            the indices. With a threshold it is for palette images only.
    """

    window: tuple[float, float] | None = None
    threshold: float | None = None
    values: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Listing:
    """All sources of a folder, and what the user should know about how they were found.

    Attributes:
        items: The files of each source.
        notes: What was passed over or found in an unusual way.
        conversion: What the layout's options say; None where the layout has none.
        read: Reads an item; None: as pictures.
        layout: The layout of the store by its first source; None: what its arrays say.
    """

    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()
    conversion: Conversion | None = None
    read: Callable[[Item], Source] | None = None
    layout: Callable[[Source], Layout] | None = None


@dataclass(frozen=True)
class PassedOver:
    """What lies in a folder and is not read; names relative to it, hidden files left out.

    Attributes:
        links: Links to files that are not there.
        foreign: Files whose names are not those of images.
        subfolders: Folders with images in them, and how many.
    """

    links: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    subfolders: dict[str, int] = field(default_factory=dict)

    def phrases(self) -> list[str]:
        """One phrase per kind, with a count and the first names."""
        found = []
        if self.subfolders:
            names = few(f"{name}/ ({count})" for name, count in self.subfolders.items())
            images = sum(self.subfolders.values())
            found.append(f"{images} image file(s) in {len(self.subfolders)} subfolder(s): {names}")
        if self.links:
            found.append(f"{len(self.links)} broken link(s): {few(self.links)}")
        if self.foreign:
            count = len(self.foreign)
            found.append(f"{count} file(s) that are of no image format read: {few(self.foreign)}")
        return found


def folder_of(path: Path, *, what: str = "folder") -> Path:
    """The path, when it is a folder that can be read; UserError otherwise."""
    if not path.exists():
        raise UserError(f"no such {what}", where=str(path), hint="check the name")
    if not path.is_dir():
        raise UserError("is a file, not a folder", where=str(path), hint="give the folder it is in")
    return path


def stem_of(path: Path) -> str:
    """Name without its image suffix and without .gz, in the Unicode form NFC.

    A Mac writes an umlaut as two characters (NFD), most others as one; both are the same name.
    """
    name = path.name
    if name.lower().endswith(".gz"):
        name = name[:-3]
    return unicodedata.normalize("NFC", Path(name).stem)


def is_image(path: Path) -> bool:
    """Whether the name is that of an image file, possibly gzipped; hidden files are not."""
    name = path.name.lower()
    name = name.removesuffix(".gz")
    return not name.startswith(".") and Path(name).suffix in IMAGE_SUFFIXES and path.is_file()


def entries(
    folder: Path, *, recursive: bool = False, skip: Collection[Path] = ()
) -> Iterator[Path]:
    """What lies in a folder, sorted; folders too, but hidden ones only by name.

    Args:
        folder: The folder.
        recursive: Also what lies in its subfolders, hidden ones and those of `skip` left out.
        skip: Resolved paths of folders that are not entered.

    Raises:
        UserError: no such folder, or one that cannot be read.
    """
    yield from _entries(folder_of(folder), recursive, {*skip, folder.resolve()})


def _entries(folder: Path, recursive: bool, seen: set[Path]) -> Iterator[Path]:
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(folder)) from error
    for path in paths:
        yield path
        # A link may lead back to a folder above: each folder is entered once.
        if recursive and path.is_dir() and not path.name.startswith("."):
            place = path.resolve()
            if place not in seen:
                seen.add(place)
                yield from _entries(path, recursive, seen)


def images_by_stem(
    folder: Path,
    *,
    prefix: str = "",
    suffix: str = "",
    recursive: bool = False,
    ignore_case: bool = False,
    skip: Collection[Path] = (),
) -> dict[str, Path]:
    """Image files of a folder by their stem without `prefix` and `suffix`, sorted.

    Files without the prefix or suffix are left out. With `recursive`, the names of the subfolders
    go before the stem, joined by "_": ``left/01.png`` is "left_01".

    Args:
        folder: The folder.
        prefix: Start of the stems that is not part of the key.
        suffix: End of the stems that is not part of the key.
        recursive: Read subfolders too.
        ignore_case: The suffix matches in any case, and keys that differ in case only collide.
        skip: Resolved paths of folders that are not entered.

    Raises:
        UserError: no such folder, unreadable, or two files with one key.
    """
    found: dict[str, Path] = {}
    taken: dict[str, Path] = {}
    prefix, suffix = (unicodedata.normalize("NFC", text) for text in (prefix, suffix))
    for path in entries(folder, recursive=recursive, skip=skip):
        stem = stem_of(path)
        end = stem[len(stem) - len(suffix) :]
        if not (
            is_image(path)
            and stem.startswith(prefix)
            and len(stem) >= len(prefix) + len(suffix)
            and same_name(end, suffix, ignore_case)
        ):
            continue
        above = [unicodedata.normalize("NFC", part) for part in path.relative_to(folder).parts[:-1]]
        rest = stem[len(prefix) : len(stem) - len(suffix)]
        key = "_".join([*above, *([rest] if rest else [])])
        if not key:
            continue
        folded = key.casefold() if ignore_case else key
        if folded in taken:
            first, second = (str(p.relative_to(folder)) for p in (taken[folded], path))
            raise UserError(
                f"{first} and {second} would both be '{key}'",
                where=str(folder),
                hint="keep one of them",
            )
        found[key] = taken[folded] = path
    return found


def same_name(one: str, other: str, ignore_case: bool) -> bool:
    """Whether two texts are equal, in any case where that is asked for."""
    return one.casefold() == other.casefold() if ignore_case else one == other


def passed_over(
    folder: Path, *, recursive: bool = False, skip: Collection[Path] = ()
) -> PassedOver:
    """What in a folder is not read: broken links, files of other formats, images in subfolders."""
    links, foreign, subfolders = [], [], {}
    for path in entries(folder, recursive=recursive, skip=skip):
        name = str(path.relative_to(folder))
        if path.name.startswith("."):
            continue
        if path.is_symlink() and not path.exists():
            links.append(name)
        elif path.is_dir():
            if not recursive and path.resolve() not in skip:
                inside = entries(path, recursive=True, skip=skip)
                count = sum(is_image(other) for other in inside)
                if count:
                    subfolders[name] = count
        elif not is_image(path) and path.suffix.lower() not in _COMPANIONS:
            foreign.append(name)
    return PassedOver(tuple(links), tuple(foreign), subfolders)


def no_images(folder: Path, expected: str, passed: PassedOver | None = None) -> UserError:
    """The error for a folder in which nothing of the layout was found."""
    phrases = passed.phrases() if passed else []
    hint = "check the folder and the layout ('vesselflow data import LAYOUT --help')"
    if passed and passed.subfolders:
        hint = "--recursive reads the subfolders"
    return UserError(
        f"no images found{', only ' if phrases else ''}{', '.join(phrases)}",
        where=str(folder),
        allowed=expected,
        hint=hint,
    )


def missing(image: Path, what: str, folder: Path, hint: str = "") -> UserError:
    """The error for an image without its mask."""
    return UserError(
        f"image {image.name} has no {what}",
        where=str(folder),
        hint=hint or "add it, or take the image away",
    )


def few(names: Iterable[str], limit: int = 5) -> str:
    """The first names, and how many more there are."""
    names = list(names)
    text = ", ".join(names[:limit])
    return text if len(names) <= limit else f"{text} and {len(names) - limit} more"
