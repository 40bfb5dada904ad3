"""Reads a volume with its labels or keypoints into a source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesselflow.errors import UserError
from vesselflow.stores.importers.listing import Item, few
from vesselflow.stores.importers.point_files import Point, Table
from vesselflow.stores.importers.volume_files import read_volume
from vesselflow.stores.keypoints import Keypoints
from vesselflow.stores.layout import Layout
from vesselflow.stores.schema import Bytes, Source, layout_of

#: Type of a file -> type in the store, where it holds every value and no other type is asked for.
_KEPT = {"int8": "float16", "int16": "float32", "uint8": "uint8", "uint16": "uint16"}
_KEPT |= {"float16": "float16", "float32": "float32", "bool": "uint8"}


@dataclass(frozen=True)
class Options:
    """How volumes are read; each as `volume.VolumeArguments` says."""

    dataset: str | None
    label_dataset: str | None
    channels: str
    dtype: str | None
    values: tuple[int, ...] | None
    classes: tuple[str, ...] | None
    units: str
    spacing_um: tuple[float, ...] | None
    spacing_angstrom: tuple[float, ...] | None
    ds_factor: int
    ds_sigma: float | None
    sigma_angstrom: float | None


@dataclass(frozen=True)
class VolumeItem(Item):
    """The files of one volume; `target` is the file of its labels or keypoints.

    Attributes:
        table: Keypoints of the file, where it has some.
        points: Those of this volume.
    """

    table: Table | None = None
    points: tuple[Point, ...] = ()


def read_item(item: Item, options: Options, classes: tuple[str, ...]) -> Source:
    """Read a volume and its truth into a source."""
    assert isinstance(item, VolumeItem)
    held = read_volume(item.image, options.dataset)
    values = held.values
    if not held.channels_last and options.channels == "first":
        values = np.moveaxis(values, 0, -1)
    elif not held.channels_last and options.channels == "none":
        values = values[..., None]
    if values.ndim not in (3, 4):
        raise UserError(
            f"has {held.values.ndim} axes: {' x '.join(map(str, held.values.shape))}",
            where=str(item.image),
            allowed="y, x or z, y, x, and perhaps channels",
            hint="--channels first or last says where these are",
        )
    image = _stored(values, options.dtype, item.image)
    shape = image.shape[:-1]
    spacing = _spacing(held.spacing_um, len(shape), options, item.image)
    files = {"image": {"name": item.image.name, "sha256": held.sha256}}
    target = keypoints = None
    assert item.target is not None
    if item.table is None:
        target, sha256 = _target(item.target, shape, options)
        files["target"] = {"name": item.target.name, "sha256": sha256}
    else:
        keypoints = _keypoints(item, shape, spacing, options.units, classes)
        files["keypoints"] = {"name": item.target.name, "sha256": item.table.sha256}
    changed = {} if image.dtype == held.values.dtype else {"type": held.values.dtype.name}
    return Source(
        id=item.id,
        group=item.group,
        split=item.split,
        image=image,
        target=target,
        fov=np.ones(shape, np.uint8),
        lineage={"files": files, "fov": "full", **changed},
        spacing_um=spacing,
        keypoints=keypoints,
    )


def _stored(values: NDArray[Any], dtype: str | None, path: Path) -> NDArray[Any]:
    """Values in the type that the store has; UserError where they do not fit it."""
    kind = dtype or _KEPT.get(values.dtype.name)
    if kind is None:
        raise UserError(
            f"holds {values.dtype.name}",
            where=str(path),
            allowed="uint8, uint16, float16, float32, int8, int16",
            hint="--dtype float32 rounds to what that holds",
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError("holds values that are not finite", where=str(path))
    wanted = np.dtype(kind)
    limits = np.iinfo(wanted) if wanted.kind == "u" else np.finfo(wanted)
    low, high = values.min(), values.max()
    whole = (
        wanted.kind == "f" or values.dtype.kind in "ui" or bool((values == np.rint(values)).all())
    )
    if low < limits.min or high > limits.max or not whole:
        what = f"values from {low:g} to {high:g}" if whole else "values that are no whole numbers"
        raise UserError(
            f"holds {what}, which {kind} cannot hold",
            where=str(path),
            hint="--dtype names a type that can",
        )
    return np.ascontiguousarray(values.astype(wanted, copy=False))


def _spacing(
    found: tuple[float, ...] | None, dims: int, options: Options, path: Path
) -> tuple[float, ...] | None:
    """Micrometres a voxel: what is given, else what the file says."""
    given = options.spacing_um
    if options.spacing_angstrom is not None:
        given = tuple(side * 1e-4 for side in options.spacing_angstrom)
    if given is None:
        usable = (
            found is not None
            and len(found) == dims
            and all(np.isfinite(side) and side > 0 for side in found)
        )
        return found if usable else None
    if len(given) not in (1, dims):
        raise UserError(
            f"{len(given)} spacings for {dims} axes", where=str(path), allowed=f"1 or {dims}"
        )
    return given * dims if len(given) == 1 else given


def layout_with(first: Source, options: Options, classes: tuple[str, ...]) -> Layout:
    """The layout of a store by its first source and the options.

    Args:
        first: The source.
        options: How volumes are read.
        classes: Of keypoints; empty: of labels those of the options.
    """
    if classes:
        return layout_of(
            first,
            classes=classes,
            ds_factor=options.ds_factor,
            ds_sigma=options.ds_sigma,
            sigma_angstrom=options.sigma_angstrom,
        )
    if options.classes is None:
        return layout_of(first)
    return layout_of(first, classes=options.classes, target="labels")


def _target(path: Path, shape: Sequence[int], options: Options) -> tuple[Bytes, str]:
    """Labels of a volume (*S) as uint8, and the hash of their file."""
    held = read_volume(path, options.label_dataset)
    values = held.values
    if values.shape != tuple(shape):
        sizes = (" x ".join(map(str, sides)) for sides in (values.shape, shape))
        raise UserError("is {}, the volume {}".format(*sizes), where=str(path))
    if values.dtype.kind == "f":
        whole = np.rint(values)
        if not np.array_equal(whole, values):
            raise UserError("labels are no whole numbers", where=str(path))
        values = whole.astype(np.int64)
    if options.values is not None:
        return np.isin(values, options.values).astype(np.uint8), held.sha256
    there = np.unique(values)
    if options.classes is not None:
        if there[0] < 0 or there[-1] > len(options.classes):
            raise UserError(
                f"holds the label {there[0] if there[0] < 0 else there[-1]}",
                where=str(path),
                allowed=f"0 to {len(options.classes)}, for {', '.join(options.classes)}",
            )
        return values.astype(np.uint8), held.sha256
    if len(there) > 2 or (len(there) == 2 and there[0] != 0):
        raise UserError(
            f"holds the labels {few((str(v) for v in there.tolist()), 8)}",
            where=str(path),
            allowed="0 and one other",
            hint="--values 1,3 says which are vessel, --classes a,b names 1 and 2",
        )
    return (values != 0).astype(np.uint8), held.sha256


def _keypoints(
    item: VolumeItem,
    shape: Sequence[int],
    spacing_um: Sequence[float] | None,
    units: str,
    classes: tuple[str, ...],
) -> Keypoints:
    """The keypoints of a volume in voxels; UserError for one outside."""
    table = item.table
    assert table is not None
    if len(table.axes) != len(shape):
        raise UserError(
            f"has the coordinates {','.join(table.axes)}, {item.image.name} {len(shape)} axes",
            where=str(table.path),
        )
    scale = np.ones(len(shape))
    if units == "angstrom":
        if spacing_um is None:
            raise UserError(
                f"keypoints in angstrom, and no spacing of {item.image.name} is known",
                where=str(table.path),
                hint="--spacing-angstrom or --spacing-um gives it",
            )
        scale = 1e4 * np.asarray(spacing_um)
    positions = np.array([point.place for point in item.points]).reshape(-1, len(shape)) / scale
    outside = ((positions < -0.5) | (positions >= np.asarray(shape) - 0.5)).any(axis=1)
    if outside.any():
        number = int(outside.argmax())
        at = ", ".join(f"{value:g}" for value in positions[number])
        sizes = " x ".join(map(str, shape))
        raise UserError(
            f"the keypoint at voxel ({at}) lies outside {item.image.name}",
            where=table.where(item.points[number]),
            allowed=f"places in {sizes} voxels ({', '.join(table.axes)})",
            hint=f"{int(outside.sum())} of {len(positions)} do: check --units and the axes",
        )
    kinds = [classes.index(point.kind) if point.kind else 0 for point in item.points]
    return Keypoints(positions, np.array(kinds, np.int32))
