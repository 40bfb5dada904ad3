"""Reads keypoints from CSV and STAR files."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesselflow.errors import UserError
from vesselflow.stores.importers.volume_files import decoding, library

#: Suffixes of files of keypoints.
POINT_SUFFIXES = (".csv", ".star")
#: Columns that say of which volume a keypoint is.
_OF = ("source", "tomogram", "volume", "image", "id")
_STAR_OF = ("rlnTomoName", "rlnMicrographName", "rlnImageName")
#: What a column's name may end in -> the unit.
_UNITS = {"voxel": "voxel", "voxels": "voxel", "px": "voxel", "angstrom": "angstrom"}
_AXES = "zyx"


@dataclass(frozen=True)
class Point:
    """One keypoint of a file.

    Attributes:
        line: Where it stands: of a CSV the line, of a STAR file the row of the table.
        of: The volume that the file names, "" where it names none.
        place: Its coordinates in the order of the axes, in the file's unit.
        kind: Its class, "" where the file names none.
    """

    line: int
    of: str
    place: tuple[float, ...]
    kind: str


@dataclass(frozen=True)
class Table:
    """The keypoints of one file.

    Attributes:
        path: The file.
        sha256: Its hash.
        axes: "yx" or "zyx": the axes that it has coordinates for.
        points: In the order of the file.
        names_sources: Whether it says of which volume each keypoint is.
    """

    path: Path
    sha256: str
    axes: str
    points: tuple[Point, ...]
    names_sources: bool

    def where(self, point: Point) -> str:
        """Where a keypoint stands, for an error."""
        unit = "line" if self.path.suffix.lower() == ".csv" else "row"
        return f"{self.path}: {unit} {point.line}"


def read_points(path: Path, units: str, class_column: str | None) -> Table:
    """Read a file of keypoints.

    Args:
        path: CSV with a header that names columns z, y, x (of images y, x), and perhaps class and
            source; or STAR with rlnCoordinateX and so on.
        units: "voxel" or "angstrom": of the coordinates; a header that says otherwise is refused.
        class_column: Name of the column of classes; None: "class" where a CSV has it.

    Raises:
        UserError: no such file, no header, other units, a coordinate that is no finite number.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError("no such file", where=str(path), hint="check the name") from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if path.suffix.lower() == ".star":
        header, rows = _star_rows(path)
        places = {f"rlnCoordinate{axis.upper()}": axis for axis in _AXES}
        columns = {axis: name for name, axis in places.items() if name in header}
        of = next((name for name in _STAR_OF if name in header), None)
    else:
        header, rows = _csv_rows(path, data)
        columns = _csv_columns(path, header, units)
        of = next((name for name in header if name.strip().lower() in _OF), None)
        if class_column is None:
            class_column = next((n for n in header if n.strip().lower() == "class"), None)
    axes = "".join(axis for axis in _AXES if axis in columns)
    if axes not in ("zyx", "yx"):
        wanted = "rlnCoordinateZ, rlnCoordinateY, rlnCoordinateX"
        raise UserError(
            f"has no columns of coordinates among {', '.join(header)}",
            where=str(path),
            allowed=wanted if path.suffix.lower() == ".star" else "z,y,x, of images y,x",
        )
    if class_column is not None and class_column not in header:
        raise UserError(
            f"has no column '{class_column}'", where=str(path), allowed=", ".join(header)
        )
    points = tuple(
        Point(
            line,
            str(row[of] or "").strip() if of else "",
            tuple(_coordinate(path, line, columns[axis], row[columns[axis]]) for axis in axes),
            str(row[class_column] or "").strip() if class_column else "",
        )
        for line, row in rows
    )
    if class_column is not None:
        for point in points:
            if not point.kind:
                raise UserError("has no class", where=f"{path}: line {point.line}")
    return Table(path, hashlib.sha256(data).hexdigest(), axes, points, of is not None)


def _coordinate(path: Path, line: int, column: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UserError(
            f"{column} {value!r} is no finite number",
            where=f"{path}: line {line}",
            allowed="numbers, with a point before decimals",
        )
    return number


_Rows = list[tuple[int, Mapping[str, Any]]]


def _csv_rows(path: Path, data: bytes) -> tuple[list[str], _Rows]:
    """Header and rows with their line numbers; empty lines are passed over."""
    try:
        reader = csv.reader(data.decode("utf-8-sig").splitlines())
        lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"cannot be read: {error}", where=str(path)) from error
    if not lines:
        raise UserError("is empty", where=str(path), allowed="a header z,y,x and a line for each")
    header = [name.strip() for name in lines[0][1]]
    if len(set(header)) < len(header):
        raise UserError(f"names a column twice: {', '.join(header)}", where=str(path))
    rows: _Rows = []
    for line, row in lines[1:]:
        if len(row) != len(header):
            raise UserError(
                f"has {len(row)} value(s), the header {len(header)}", where=f"{path}: line {line}"
            )
        rows.append((line, dict(zip(header, row, strict=True))))
    return header, rows


def _csv_columns(path: Path, header: Sequence[str], units: str) -> dict[str, str]:
    """Axis -> column, for those that are there.

    Raises:
        UserError: there is no header, or it says other units.
    """
    columns: dict[str, str] = {}
    for name in header:
        axis, _, unit = name.lower().replace("[", "_").replace("]", "").partition("_")
        if axis not in ("z", "y", "x"):
            continue
        if unit and _UNITS.get(unit) is None:
            raise UserError(
                f"the column '{name}' is in '{unit}'",
                where=str(path),
                allowed="voxel or angstrom",
                hint="convert it, and call it z, y or x",
            )
        if unit and _UNITS[unit] != units:
            raise UserError(
                f"the column '{name}' is in {_UNITS[unit]}, the units are {units}",
                where=str(path),
                hint=f"--units {_UNITS[unit]}",
            )
        columns[axis] = name
    if not {"y", "x"} <= set(columns):
        numbers = all(_is_number(name) for name in header)
        what = "has no header" if numbers else "has no columns z, y and x"
        raise UserError(
            f"{what}: its first line is {', '.join(header)[:80]}",
            where=str(path),
            allowed="a first line that names the columns: z,y,x or z,y,x,class",
        )
    return columns


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _star_rows(path: Path) -> tuple[list[str], _Rows]:
    """The columns and rows of the table that holds coordinates."""
    starfile = library("starfile", path)
    with decoding(path):
        blocks = starfile.read(path, always_dict=True)
        tables = [block for block in blocks.values() if hasattr(block, "columns")]
        for table in tables:
            if "rlnCoordinateX" in table.columns:
                header = [str(name) for name in table.columns]
                return header, list(enumerate(table.to_dict("records"), start=1))
    names = [str(name) for table in tables for name in table.columns]
    centred = any("Angst" in name and name.startswith("rlnCentered") for name in names)
    raise UserError(
        "holds centred coordinates in angstrom" if centred else "has no column rlnCoordinateX",
        where=str(path),
        allowed="rlnCoordinateX, rlnCoordinateY, rlnCoordinateZ, from the volume's first voxel",
    )
