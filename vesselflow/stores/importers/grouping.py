"""What several layouts share: groups by expression, split files, numbers given as text."""

from __future__ import annotations

import csv
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vesselflow.errors import UserError
from vesselflow.stores.importers.listing import stem_of


def numbers_in(value: Any, kind: type[float] | type[int]) -> tuple[float, ...] | None:
    """Numbers of a list or of a text with commas; None when it is neither or one is no number."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        parts = [parts]
    if any(isinstance(part, bool) or not isinstance(part, str | int | float) for part in parts):
        return None
    try:
        numbers = tuple(kind(part) for part in parts)
    except (ValueError, OverflowError):
        return None
    same = all(isinstance(p, str) or p == n for p, n in zip(parts, numbers, strict=True))
    return numbers if same and all(map(math.isfinite, numbers)) else None


def whole_numbers(value: Any) -> tuple[int, ...] | None:
    """A validator: whole numbers of a list or of a text with commas, each once; None is None.

    Raises:
        ValueError: It holds anything else, or nothing.
    """
    if value is None:
        return None
    numbers = numbers_in(value, int)
    if not numbers:
        raise ValueError("whole numbers with commas between: 1,3")
    return tuple(dict.fromkeys(int(number) for number in numbers))


def one_group(value: str | None) -> str | None:
    """A regular expression with one group, or None; ValueError for any other text."""
    if value is None:
        return None
    try:
        pattern = re.compile(value)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from None
    if pattern.groups != 1 and "group" not in pattern.groupindex:
        raise ValueError("a regular expression with one group, or one named (?P<group>...)")
    return value


def group_of(pattern: str, key: str) -> str:
    """What an expression (of `one_group`) finds in an id; UserError where it finds nothing."""
    match = re.search(pattern, key)
    found = match and (match["group"] if "group" in match.re.groupindex else match[1])
    if not found:
        raise UserError(f"'{pattern}' finds no group in '{key}'", where="group")
    return found


def read_splits(path: Path, images: Path, pictures: Mapping[str, Path]) -> dict[str, str]:
    """Ids (or file names, with `recursive` from the folder of images on) to splits."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            header = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = header
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot be read: {reason}", where=str(path)) from error
    if not {"id", "split"} <= set(header):
        shown = f"its first line is {', '.join(header)}" if header else "it is empty"
        raise UserError(
            f"needs the columns id and split, {shown}",
            where=str(path),
            hint="the first line names the columns, with commas between: id,split",
        )
    if not rows:
        raise UserError("has no line below the header", where=str(path))
    times = Counter(stem_of(image) for image in pictures.values())
    names = {stem_of(i): key for key, i in pictures.items() if times[stem_of(i)] == 1}
    for key, image in pictures.items():
        inside = image.relative_to(images).parent.parts
        folders = [unicodedata.normalize("NFC", part) for part in inside]
        names["/".join([*folders, stem_of(image)])] = key
    splits: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, row in rows:
        name = unicodedata.normalize("NFC", (row["id"] or "").strip())
        value = (row["split"] or "").strip()
        above, slash, last = name.rpartition("/")
        key = name if name in pictures else names.get(f"{above}{slash}{stem_of(Path(last))}", "")
        if not key:
            raise UserError(f"no image is called '{name}'", where=f"{path}: line {number}")
        if key in lines:
            raise UserError(
                f"'{key}' is named twice, as {splits[key] or 'empty'} in line {lines[key]} "
                f"and as {value or 'empty'} in line {number}",
                where=str(path),
                hint="keep one of the two lines",
            )
        if value not in ("train", "test", ""):
            raise UserError(
                f"split '{value}' is not allowed",
                where=f"{path}: line {number}",
                allowed="train, test or empty",
            )
        splits[key], lines[key] = value, number
    return splits
