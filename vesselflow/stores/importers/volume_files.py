"""Reads a volume (or an image) of the formats of their fields, each by its own library.

The libraries are the optional dependencies `volumes`, and are imported when a file needs them.
"""

from __future__ import annotations

import hashlib
import importlib
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesselflow.errors import UserError
from vesselflow.stores.importers.listing import entries, few, folder_of

#: Micrometres in what files call their units of length.
UNITS_UM = {
    "angstrom": 1e-4,
    "nanometer": 1e-3,
    "nm": 1e-3,
    "micrometer": 1.0,
    "micron": 1.0,
    "um": 1.0,
    "µm": 1.0,
    "μm": 1.0,
    "\\u00b5m": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "meter": 1e6,
}


@dataclass(frozen=True)
class Volume:
    """A decoded file.

    Attributes:
        values: (*S) or (*S, C); of a file that says nothing of channels, all its axes.
        channels_last: Whether the file says that the last axis is channels.
        spacing_um: Micrometres a voxel along each axis, where the file says so.
        sha256: Hash of the file.
    """

    values: NDArray[Any]
    channels_last: bool
    spacing_um: tuple[float, ...] | None
    sha256: str


def volume_stem(path: Path) -> str:
    """Name without the suffix of its format, in the Unicode form NFC."""
    name = unicodedata.normalize("NFC", path.name)
    found = _suffix(name)
    return name[: len(name) - len(found)].removesuffix(".ome") if found else name


def is_volume(path: Path, slices: bool = False) -> bool:
    """Whether a path is a volume by its name; hidden ones are none.

    Args:
        path: A file, or a folder.
        slices: Volumes are folders with a TIFF file for each slice.
    """
    if slices:
        return not path.name.startswith(".") and path.is_dir() and bool(_slices_in(path))
    if path.name.startswith(".") or not _suffix(path.name):
        return False
    return path.is_dir() if _suffix(path.name) == ".zarr" else path.is_file()


def volumes_in(path: Path, suffix: str = "", slices: bool = False) -> dict[str, Path]:
    """Volumes by their stem without `suffix`, sorted; of a volume the one.

    Raises:
        UserError: no such folder, or two files with one stem.
    """
    if is_volume(path, slices):
        return {volume_stem(path).removesuffix(suffix): path}
    found: dict[str, Path] = {}
    for entry in entries(folder_of(path)):
        stem = volume_stem(entry)
        if not is_volume(entry, slices) or not stem.endswith(suffix) or stem == suffix:
            continue
        key = stem.removesuffix(suffix)
        if key in found:
            raise UserError(
                f"{found[key].name} and {entry.name} would both be '{key}'",
                where=str(path),
                hint="keep one of them",
            )
        found[key] = entry
    return found


def read_volume(path: Path, dataset: str | None = None) -> Volume:
    """Decode a file completely.

    Args:
        path: TIFF stack, HDF5, MRC, NIfTI or a Zarr folder, by its name; any other folder is one of
            slices.
        dataset: Which array of an HDF5 or Zarr file; None: the only one.

    Raises:
        UserError: a file that is missing, damaged, of another kind, with slices of other sizes, or
            one whose library is not installed.
    """
    if not path.exists():
        raise UserError("no such file", where=str(path), hint="check the name")
    suffix = _suffix(path.name)
    if path.is_dir() and suffix != ".zarr":
        suffix = "slices"
    if dataset is not None and suffix not in _NAMED:
        raise UserError(
            f"has no dataset '{dataset}': only HDF5 and Zarr have some", where=str(path)
        )
    reader = _slices if suffix == "slices" else _READERS[suffix]
    values, channels_last, spacing = reader(path, dataset)
    if values.dtype.kind not in "uif" or 0 in values.shape:
        raise UserError(
            f"holds {values.dtype} {values.shape}", where=str(path), allowed="numbers, one or more"
        )
    return Volume(values, channels_last, spacing, _sha256(path))


def _suffix(name: str) -> str:
    """The suffix of a format that can be read, lower case; "" of any other."""
    lower = name.lower()
    return next((suffix for suffix in _READERS if lower.endswith(suffix)), "")


def _sha256(path: Path) -> str:
    """Of a file; of a folder that of all names and contents in order."""
    digest = hashlib.sha256()
    if path.is_dir():
        for part in sorted(part for part in path.rglob("*") if part.is_file()):
            digest.update(f"{part.relative_to(path)}\n{part.stat().st_size}\n".encode())
            digest.update(part.read_bytes())
        return digest.hexdigest()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def library(name: str, path: Path) -> Any:
    """A library that reads one format; UserError when it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"needs the library {name}",
            where=str(path),
            hint="pip install 'vesselflow[volumes]'",
        ) from error


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Whatever a library raises on a broken file is one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        hint = "fetch the file again"
        if "imagecodecs" in said:
            hint = "save it without compression, or pip install imagecodecs"
        raise UserError(f"cannot be decoded ({said})", where=str(path), hint=hint) from error


_Read = tuple[NDArray[Any], bool, tuple[float, ...] | None]


def _tiff(path: Path, _: str | None) -> _Read:
    tifffile = library("tifffile", path)
    with decoding(path), tifffile.TiffFile(path) as file:
        pages = list(file.pages)
        kinds = [(page.shape, page.dtype) for page in pages]
        for number, kind in enumerate(kinds):
            if kind != kinds[0]:
                shapes = (" x ".join(map(str, s)) + f" {t}" for s, t in (kind, kinds[0]))
                raise UserError(
                    "slice {} is {}, the first {}".format(number + 1, *shapes),
                    where=str(path),
                    allowed="slices of one size and type",
                )
        if len(file.series) != 1:
            raise UserError(
                f"holds {len(file.series)} series of images", where=str(path), allowed="one"
            )
        series = file.series[0]
        axes, values = series.axes, np.asarray(series.asarray())
        spacing = _ome_spacing(file.ome_metadata) or _imagej_spacing(file)
    channel = next((k for k, name in enumerate(axes) if name in "CS"), None)
    if channel is not None:
        values = np.moveaxis(values, channel, -1)
    dims = values.ndim - (channel is not None)
    if spacing is not None:
        spacing = spacing[-dims:] if dims <= 3 else None
    return values, channel is not None, spacing


def _slices_in(path: Path) -> list[Path]:
    """The TIFF files of a folder in the order of the numbers in their names: 2 before 10."""
    files = [
        part
        for part in entries(path)
        if part.suffix.lower() in (".tif", ".tiff") and not part.name.startswith(".")
    ]

    def order(part: Path) -> list[tuple[int, int, str]]:
        pieces = re.findall(r"\d+|\D+", part.stem)
        return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces]

    return sorted(files, key=order)


def _slices(path: Path, _: str | None) -> _Read:
    """A volume whose slices are files of their own; it says no spacing."""
    planes: list[NDArray[Any]] = []
    for part in _slices_in(path):
        plane, channels_last, _spacing = _tiff(part, None)
        if plane.ndim != 2 or channels_last:
            raise UserError(
                f"a slice of {' x '.join(map(str, plane.shape))}",
                where=str(part),
                allowed="one plane of one channel",
            )
        if planes and (plane.shape, plane.dtype) != (planes[0].shape, planes[0].dtype):
            one, first = (" x ".join(map(str, p.shape)) + f" {p.dtype}" for p in (plane, planes[0]))
            raise UserError(
                f"is {one}, the first slice {first}",
                where=str(part),
                allowed="slices of one size and type",
            )
        planes.append(plane)
    return np.stack(planes), False, None


def _imagej_spacing(file: Any) -> tuple[float, ...] | None:
    """Along z, y and x, of the metadata that Fiji writes."""
    told = file.imagej_metadata or {}
    unit = UNITS_UM.get(str(told.get("unit", "")).lower())
    tags = file.pages[0].tags
    if unit is None or "XResolution" not in tags or "YResolution" not in tags:
        return None
    sides = []
    for name in ("YResolution", "XResolution"):
        over, under = tags[name].value
        if not over:
            return None
        sides.append(under / over * unit)
    return (float(told.get("spacing", 1.0)) * unit, *sides)


def _ome_spacing(text: str | None) -> tuple[float, ...] | None:
    """Along z, y and x, of OME-XML; a size without unit is in micrometres."""
    sides = []
    for axis in "ZYX":
        size = re.search(rf'PhysicalSize{axis}="([^"]+)"', text or "")
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]+)"', text or "")
        factor = UNITS_UM.get(unit[1].lower()) if unit else 1.0
        if not size and axis == "Z":
            sides.append(1.0)
        elif not size or factor is None:
            return None
        else:
            sides.append(float(size[1]) * factor)
    return tuple(sides)


def _hdf5(path: Path, dataset: str | None) -> _Read:
    h5py = library("h5py", path)
    with decoding(path), h5py.File(path, "r", locking=False) as file:
        found: dict[str, Any] = {}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset) and item.ndim >= 2:
                found[name] = item

        file.visititems(visit)
        chosen = found[_named(path, dataset, {name: d.shape for name, d in found.items()})]
        sides = chosen.attrs.get("element_size_um")
        spacing = None if sides is None else tuple(float(side) for side in np.ravel(sides))
        return chosen[()], False, spacing


def _named(path: Path, dataset: str | None, found: Mapping[str, tuple[int, ...]]) -> str:
    """The array that is meant; UserError with those that are there."""
    there = few((f"{name} {'x'.join(map(str, shape))}" for name, shape in found.items()), 8)
    name = (dataset or "").strip("/")
    if dataset is not None and name not in found:
        raise UserError(f"has no dataset '{dataset}'", where=str(path), allowed=there or "none")
    if dataset is None and len(found) != 1:
        raise UserError(
            f"holds {len(found)} arrays",
            where=str(path),
            allowed=there or "one of 2 axes or more",
            hint="--dataset names one of them" if found else "",
        )
    return name if dataset is not None else next(iter(found))


def _mrc(path: Path, _: str | None) -> _Read:
    mrcfile = library("mrcfile", path)
    with decoding(path), mrcfile.open(path, permissive=False) as file:
        header = file.header
        order = (int(header.mapc), int(header.mapr), int(header.maps))
        if order != (1, 2, 3):
            raise UserError(
                f"its axes are in the order {order}", where=str(path), allowed="(1, 2, 3): x, y, z"
            )
        if file.is_volume_stack():
            raise UserError("holds a stack of volumes", where=str(path), allowed="one volume")
        values = np.array(file.data)
        sides = [float(getattr(file.voxel_size, axis)) * UNITS_UM["angstrom"] for axis in "zyx"]
    spacing = tuple(sides[-values.ndim :])
    return values, False, spacing if all(side > 0 for side in spacing) else None


def _nifti(path: Path, _: str | None) -> _Read:
    nibabel = library("nibabel", path)
    with decoding(path):
        image = nibabel.load(path)
        # The file counts x first; the array is stored as it is, without a turn by its affine.
        values = np.asarray(image.dataobj).T
        unit = UNITS_UM.get(image.header.get_xyzt_units()[0])
        zooms = [float(side) for side in image.header.get_zooms()[:3]]
    if values.ndim == 3 and values.shape[0] == 1:
        values, zooms = values[0], zooms[:2]
    spacing = tuple(side * unit for side in reversed(zooms)) if unit else None
    return values, False, spacing


def _zarr(path: Path, dataset: str | None) -> _Read:
    zarr = library("zarr", path)
    with decoding(path):
        opened = zarr.open(str(path), mode="r")
        if isinstance(opened, zarr.Array):
            if dataset is not None:
                _named(path, dataset, {})
            return np.asarray(opened[...]), False, None
        found = {name: item for name, item in opened.members(None) if isinstance(item, zarr.Array)}
        name = _named(path, dataset, {name: item.shape for name, item in found.items()})
        values = np.asarray(found[name][...])
        attributes = dict(opened.attrs)
    spacing = _ngff_spacing(attributes.get("ome", attributes), name)
    return values, False, spacing[-values.ndim :] if spacing else None


def _ngff_spacing(attributes: Mapping[str, Any], name: str) -> tuple[float, ...] | None:
    """Of the axes of space of an array of OME-Zarr."""
    try:
        scales = attributes["multiscales"][0]
        (level,) = [entry for entry in scales["datasets"] if entry["path"] == name]
        (change,) = [
            entry for entry in level["coordinateTransformations"] if entry["type"] == "scale"
        ]
        return tuple(
            float(side) * UNITS_UM[axis["unit"]]
            for axis, side in zip(scales["axes"], change["scale"], strict=True)
            if axis.get("type") == "space"
        )
    except (LookupError, TypeError, ValueError):
        return None


#: Formats whose arrays have names.
_NAMED = (".h5", ".hdf5", ".hdf", ".zarr")
_READERS: dict[str, Callable[[Path, str | None], _Read]] = {
    ".nii.gz": _nifti,
    ".nii": _nifti,
    ".tiff": _tiff,
    ".tif": _tiff,
    ".hdf5": _hdf5,
    ".hdf": _hdf5,
    ".h5": _hdf5,
    ".mrc": _mrc,
    ".rec": _mrc,
    ".map": _mrc,
    ".zarr": _zarr,
}
