"""What to say when an image has no mask: which file is there, and which option takes it."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from vesselflow.stores.importers.listing import entries, is_image, stem_of

#: A name's last part with the sign before it: "_manual1" of "21_manual1".
_TAIL = re.compile(r"[\W_][^\W_]*$")


@dataclass(frozen=True)
class Wanted:
    """A mask that was looked for and not found.

    Attributes:
        key: Id of the image.
        suffix: What its mask's name should carry beyond the id.
        folder: Where it was looked for.
        label: That folder as the user named it.
        option: "mask" or "fov", as in ``--mask-suffix``.
    """

    key: str
    suffix: str
    folder: Path
    label: str
    option: str


def hint(wanted: Wanted, pictures: Mapping[str, Path], image_suffix: str) -> str:
    """Name the file that is there instead and the option that takes it.

    Tried in this order: the right name on a file that cannot be read, the right name in another
    case, a further suffix, another suffix on images and masks, a prefix, a subfolder.

    Args:
        wanted: What was looked for.
        pictures: The images by their ids; one folder may hold them and the masks.
        image_suffix: The suffix of images that was given.

    Returns:
        The hint; "" when nothing near is there.
    """
    keys, taken = pictures.keys(), set(pictures.values())
    files = [
        path
        for path in entries(wanted.folder)
        if path not in taken and not path.is_dir() and not path.name.startswith(".")
    ]
    label = "" if wanted.label in ("", ".") else f"{wanted.label.rstrip('/')}/"
    exact = [path for path in files if _same(stem_of(path), wanted.key + wanted.suffix)]
    for path in exact:
        if path.is_symlink() and not path.exists():
            return f"{label}{path.name} is a broken link"
        if is_image(path):
            return f"{label}{path.name} is there, in another case: --ignore-case takes it"
        return f"{label}{path.name} is there, but its format is not read"
    named = {stem_of(path): f"{label}{path.name}" for path in files if is_image(path)}
    return (
        _other_suffix(wanted, keys, named)
        or _two_suffixes(wanted, keys, named, image_suffix)
        or _prefix(wanted, keys, named)
        or _deeper(wanted, label)
    )


def option(name: str, value: str) -> str:
    """An option as one types it; a value that begins with a dash needs the equals sign."""
    between = "=" if value.startswith("-") else " "
    return f"--{name}{between}{shlex.quote(value)}"


def _same(one: str, other: str) -> bool:
    return one.casefold() == other.casefold()


def _owners(stems: Collection[str], keys: Collection[str]) -> dict[str, tuple[str, str]]:
    """Stem -> (key that it begins with, the rest of it), for stems that begin with a key.

    The longest key owns a stem: ``a_b_mask`` belongs to the image ``a_b``, not to ``a``. No key
    ends within a word: ``10_mask`` does not begin with ``1``. A stem that is a key has no rest.
    """
    folded = {key.casefold(): key for key in keys}
    owners = {}
    for stem in stems:
        for end in range(len(stem), 0, -1):
            key = folded.get(stem[:end].casefold())
            apart = end == len(stem) or not (stem[end].isalnum() and stem[end - 1].isalnum())
            if key is not None and apart:
                owners[stem] = key, stem[end:]
                break
    return owners


def _other_suffix(wanted: Wanted, keys: Collection[str], named: Mapping[str, str]) -> str:
    owners = _owners(named, keys)
    near = {stem: rest for stem, (key, rest) in owners.items() if key == wanted.key and rest}
    if not near:
        return ""
    # Which suffix the other masks have decides between two files of one image.
    fits = Counter(rest for _, rest in {*owners.values()})
    stem = max(near, key=lambda candidate: (fits[near[candidate]], -len(candidate)))
    rest = near[stem]
    if wanted.suffix and _same(rest, wanted.suffix):
        return f"{named[stem]} is there, in another case: --ignore-case takes it"
    text = f"{named[stem]} is there: {option(f'{wanted.option}-suffix', rest)}"
    if not stem.startswith(wanted.key):
        text += " --ignore-case"
    return text + _share(fits[rest], len(keys))


def _two_suffixes(
    wanted: Wanted, keys: Collection[str], named: Mapping[str, str], image_suffix: str
) -> str:
    tail = _TAIL.search(wanted.key)
    if image_suffix or tail is None or tail.start() == 0:
        return ""
    end = tail[0]
    if not all(key.endswith(end) and len(key) > len(end) for key in keys):
        return ""
    owners = _owners(named, [key[: -len(end)] for key in keys])
    fits = Counter(rest for _, rest in {*owners.values()})
    for stem, (base, rest) in owners.items():
        if base == wanted.key[: -len(end)] and rest:
            options = f"{option('image-suffix', end)} {option(f'{wanted.option}-suffix', rest)}"
            return f"{named[stem]} is there: {options}{_share(fits[rest], len(keys))}"
    return ""


def _prefix(wanted: Wanted, keys: Collection[str], named: Mapping[str, str]) -> str:
    owners, key = _owners(named, keys), wanted.key.casefold()
    for stem, name in named.items():
        before, found, rest = stem.casefold().rpartition(key)
        if stem not in owners and found and not rest and not before[-1:].isalnum():
            return f"{name} is there: rename it, names have to begin like the image's"
    return ""


def _deeper(wanted: Wanted, label: str) -> str:
    for path in entries(wanted.folder, recursive=True):
        if path.parent != wanted.folder and is_image(path):
            stem = stem_of(path)
            if _same(stem, wanted.key + wanted.suffix):
                inside = str(path.parent.relative_to(wanted.folder))
                folders = "masks" if wanted.option == "mask" else wanted.option
                return f"{label}{inside}/{path.name} is there: {option(folders, label + inside)}"
    return ""


def _share(fits: int, images: int) -> str:
    return f" (fits {fits} of {images} images)" if images > 1 else ""
