"""Picked keypoints, and their files: CSV, and STAR as RELION reads it."""

from __future__ import annotations

import csv
import importlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from vesselflow.errors import ShapeError, UserError, closest
from vesselflow.records.atomic import write_bytes

Unit = Literal["voxel", "angstrom"]

#: Names of the axes, by how many there are.
AXES = {2: ("y", "x"), 3: ("z", "y", "x")}
UNITS = ("voxel", "angstrom")


@dataclass(frozen=True, eq=False)
class Picks:
    """Picks of one image or volume.

    Attributes:
        coordinates: float64 (K, D) in full-resolution voxels, (y, x) or (z, y, x); the centre of
            voxel i lies at i.
        class_index: int64 (K,), from 0.
        score: float64 (K,): larger ones are surer.
        undefined: Cells of the heat-maps that were NaN.
    """

    coordinates: npt.NDArray[np.float64]
    class_index: npt.NDArray[np.int64]
    score: npt.NDArray[np.float64]
    undefined: int = 0

    def __post_init__(self) -> None:
        count = (len(self.coordinates),)
        if self.coordinates.ndim != 2 or self.coordinates.shape[1] not in AXES:
            raise ShapeError(f"coordinates are (K, 2) or (K, 3), not {self.coordinates.shape}")
        if self.class_index.shape != count or self.score.shape != count:
            raise ShapeError(
                f"{count[0]} picks have {self.class_index.shape} classes and {self.score.shape} "
                "scores"
            )

    def __len__(self) -> int:
        return len(self.coordinates)

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of the axes."""
        return AXES[self.coordinates.shape[1]]


def write_csv(
    path: Path,
    picks: Picks,
    classes: Sequence[str],
    *,
    unit: Unit = "voxel",
    spacing_angstrom: Sequence[float] | None = None,
) -> None:
    """Write picks as a table ``z_voxel,y_voxel,x_voxel,class,score``, the surest first.

    2-D ones have no z; in angstrom the columns are called ``z_angstrom`` and so on, so that no file
    is taken for one of the other unit. Numbers are written so that they are read back exactly.

    Args:
        path: The file.
        picks: In voxels.
        classes: Names of the classes.
        unit: Of the coordinates in the file; the centre of the first voxel is 0 in both.
        spacing_angstrom: Angstrom per voxel along each axis, for that unit.

    Raises:
        UserError: The unit is unknown, or angstrom without a spacing.
    """
    scale = _scale(unit, spacing_angstrom, len(picks.axes))
    sink = io.StringIO(newline="")
    table = csv.writer(sink, lineterminator="\n")
    table.writerow([*(f"{axis}_{unit}" for axis in picks.axes), "class", "score"])
    for row in _surest_first(picks):
        place = [repr(float(x)) for x in picks.coordinates[row] * scale]
        name, score = classes[picks.class_index[row]], repr(float(picks.score[row]))
        table.writerow([*place, name, score])
    write_bytes(path, sink.getvalue().encode())


def table_of(picks: Mapping[str, Picks], classes: Sequence[str]) -> str:
    """Picks of several sources as one CSV: ``source,z_voxel,y_voxel,x_voxel,class,score``.

    `vesselflow data import volume --keypoints` reads it, and so does whoever reads `read_csv`'s.

    Args:
        picks: Source id -> its picks; each source's surest first, sources in order.
        classes: Names of the classes.
    """
    axes = next((each.axes for each in picks.values()), AXES[3])
    sink = io.StringIO(newline="")
    table = csv.writer(sink, lineterminator="\n")
    table.writerow(["source", *(f"{axis}_voxel" for axis in axes), "class", "score"])
    for source, own in picks.items():
        for row in _surest_first(own):
            place = [repr(float(x)) for x in own.coordinates[row]]
            name, score = classes[own.class_index[row]], repr(float(own.score[row]))
            table.writerow([source, *place, name, score])
    return sink.getvalue()


def read_csv(
    path: Path,
    classes: Sequence[str],
    *,
    unit: Unit | None = None,
    spacing_angstrom: Sequence[float] | None = None,
) -> Picks:
    """Read picks, or any table with coordinates, class and, if there is one, score.

    Args:
        path: The file.
        classes: Names of the classes.
        unit: Of the coordinates, where its columns are plain ``z``, ``y`` and ``x``.
        spacing_angstrom: Angstrom per voxel along each axis, for coordinates in angstrom.

    Returns:
        In voxels, in the order of the file; scores are 1 where there are none.

    Raises:
        UserError: The file has no header or no such columns, does not say its unit or another one
            than was given, an unknown class, or something that is no finite number; with the line.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"it cannot be read as text: {error}", where=str(path)) from None
    table = csv.DictReader(io.StringIO(text, newline=""), skipinitialspace=True)
    header = [] if table.fieldnames is None else [name.strip() for name in table.fieldnames]
    table.fieldnames = header
    said = _unit(header, unit, str(path))
    columns = {name.partition("_")[0]: name for name in header if name.split("_")[0] in AXES[3]}
    axes = AXES[3] if "z" in columns else AXES[2]
    missing = [name for name in axes if name not in columns]
    missing += [] if "class" in header else ["class"]
    if missing:
        raise UserError(
            f"the header lacks {', '.join(missing)}; it is {','.join(header)!r}",
            where=str(path),
            allowed="z_voxel,y_voxel,x_voxel,class,score (2-D: without z; score may be left out)",
        )
    scale = _scale(said, spacing_angstrom, len(axes), str(path))
    places, kinds, scores = [], [], []
    for row in table:
        where = f"{path}: line {table.line_num}"
        place = [_number(row[columns[name]], columns[name], where) for name in axes]
        places.append([x / s for x, s in zip(place, scale, strict=True)])
        kinds.append(_class(row["class"], classes, where))
        scores.append(_number(row["score"], "score", where) if "score" in header else 1.0)
    return Picks(
        np.array(places, np.float64).reshape(-1, len(axes)),
        np.array(kinds, np.int64),
        np.array(scores, np.float64),
    )


def write_star(path: Path, picks: Picks, name: str) -> None:
    """Write picks as a STAR table of particles, the surest first.

    Coordinates are pixels counted from 0 at the centre of the first, as RELION counts; classes are
    numbered from 1, in the order of their indices.

    Args:
        path: The file.
        picks: In voxels.
        name: Of the tomogram (3-D) or the micrograph (2-D) that they belong to.
    """
    import pandas as pd

    order = _surest_first(picks)
    solid = len(picks.axes) == 3
    table = pd.DataFrame({f"rln{'TomoName' if solid else 'MicrographName'}": [name] * len(picks)})
    for axis in reversed(picks.axes):
        place = picks.coordinates[order, picks.axes.index(axis)]
        table[f"rlnCoordinate{axis.upper()}"] = [repr(float(x)) for x in place]
    table["rlnClassNumber"] = picks.class_index[order] + 1
    table["rlnAutopickFigureOfMerit"] = [repr(float(x)) for x in picks.score[order]]
    write_bytes(path, _starfile().to_string({"particles": table}).encode())


def read_star(path: Path, classes: int) -> Picks:
    """Read a STAR table of particles, of one tomogram or micrograph.

    Args:
        path: The file; the first of its tables that has coordinates is taken.
        classes: How many classes there are; without a class number, particles are of the first.

    Returns:
        In voxels, in the order of the file; scores are 1 where there are none.

    Raises:
        UserError: It is no STAR file, no table has coordinates, particles are of several images,
            a class is unknown, or a number is not finite.
    """
    starfile = _starfile()
    try:
        tables = starfile.read(path, always_dict=True)
    except Exception as error:  # The library raises whatever it stumbles over.
        raise UserError(f"it cannot be read as STAR: {error}", where=str(path)) from None
    found = [each for each in tables.values() if "rlnCoordinateY" in each]
    if not found:
        raise UserError(
            "none of its tables has coordinates", where=str(path), allowed="rlnCoordinateX, Y (, Z)"
        )
    table: Any = found[0]
    columns = {name: list(np.atleast_1d(table[name])) for name in table}
    axes = AXES[3] if "rlnCoordinateZ" in columns else AXES[2]
    for image in ("rlnTomoName", "rlnMicrographName"):
        names = sorted({str(each) for each in columns.get(image, ())})
        if len(names) > 1:
            raise UserError(
                f"it holds particles of {len(names)} images ({names[0]}, {names[1]}, ...)",
                where=str(path),
                hint="give each its own file",
            )
    count = len(columns["rlnCoordinateY"])
    where = str(path)

    def numbers(column: str, default: float) -> npt.NDArray[np.float64]:
        given = columns.get(column, [default] * count)
        return np.array([_number(each, column, where) for each in given], np.float64)

    for axis in axes:
        if f"rlnCoordinate{axis.upper()}" not in columns:
            raise UserError(f"it has no rlnCoordinate{axis.upper()}", where=where)
    kinds = numbers("rlnClassNumber", 1)
    wrong = kinds[(kinds < 1) | (kinds > classes) | (kinds % 1 != 0)]
    if len(wrong):
        raise UserError(
            f"rlnClassNumber {wrong[0]:g} is unknown", where=where, allowed=f"1 to {classes}"
        )
    place = np.stack([numbers(f"rlnCoordinate{axis.upper()}", 0) for axis in axes], axis=1)
    return Picks(place, kinds.astype(np.int64) - 1, numbers("rlnAutopickFigureOfMerit", 1.0))


def _unit(header: Sequence[str], given: Unit | None, where: str) -> str:
    """The unit that the columns of coordinates say, which is the given one if there is one."""
    said = {unit for name in header if name[:2] in ("z_", "y_", "x_") and (unit := name[2:])}
    found = said or ({given} if given else set())
    if len(found) != 1 or (given and found != {given}) or not found <= set(UNITS):
        what = f"{', '.join(sorted(found))}" if found else "not said"
        raise UserError(
            f"the unit of its coordinates is {what}",
            where=where,
            allowed=given or "voxel, angstrom, as in z_voxel,y_voxel,x_voxel",
        )
    return found.pop()


def _starfile() -> Any:
    try:
        return importlib.import_module("starfile")
    except ImportError:
        raise UserError(
            "STAR files need the library starfile", hint="pip install starfile"
        ) from None


def _surest_first(picks: Picks) -> npt.NDArray[np.intp]:
    return np.lexsort((*picks.coordinates.T[::-1], picks.class_index, -picks.score))


def _scale(
    unit: str | None, spacing: Sequence[float] | None, axes: int, where: str = ""
) -> Sequence[float]:
    if unit not in UNITS:
        raise UserError(f"unit {unit!r} is unknown", where=where, allowed=", ".join(UNITS))
    if unit == "voxel":
        return (1.0,) * axes
    if spacing is None or len(spacing) != axes or not all(0 < s < math.inf for s in spacing):
        raise UserError(
            f"coordinates in angstrom need the spacing of the voxels, not {spacing}",
            where=where,
            allowed=f"{axes} positive numbers",
        )
    return spacing


def _number(text: object, name: str, where: str) -> float:
    try:
        value = float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{name} is {text!r}", where=where, allowed="a finite number")
    return value


def _class(text: object, classes: Sequence[str], where: str) -> int:
    name = str(text).strip()
    if name not in classes:
        raise UserError(
            f"class {name!r} is unknown",
            where=where,
            allowed=", ".join(classes),
            hint=closest(name, classes),
        )
    return list(classes).index(name)
