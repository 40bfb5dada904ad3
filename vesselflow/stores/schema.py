"""What a store holds: sources, their description, and the digests that name their content.

A store is one HDF5 file, or several under an index (`shards`)::

    user block             512 bytes of text: magic words and the size of the whole file
    /                      attributes schema, kind, domain, digest, importer (JSON)
                           and, of schema 2, layout (JSON) and seal
    /index                 JSON (UTF-8 bytes), one entry per source
    /sources/<n>/image     (*S, C), of the layout's type
    /sources/<n>/fov       uint8 (*S), 0 or 1
    /sources/<n>/target    uint8 (*S) or (*S, K): of a patch store
    /sources/<n>/keypoints float64 (k, D), voxels: of a keypoint store
    /sources/<n>/classes   int32 (k,): of a keypoint store
    /sources/<n>/heatmap   float32 (*S / ds_factor, K): of one that has them

S are the spatial sizes, (H, W) or (D, H, W). Images of 8 bits with one mask are written as schema
1, all else as schema 2 (`layout.Layout` says which).

The index is one piece of JSON, not attributes spread over groups: ten thousand pre-cut patches then
open in milliseconds. The size in the user block makes every truncation visible before HDF5 looks;
the seal is a digest of the index and of all attributes, so that no damaged byte of them is taken
for another spacing or name.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesselflow.config.fingerprint import canonical_json
from vesselflow.errors import UserError
from vesselflow.stores.arrays import array_faults, arrays_of
from vesselflow.stores.keypoints import Keypoints
from vesselflow.stores.layout import Layout

#: The newest schema; `Layout.schema` is the one that a store needs.
SCHEMA = 2
MAGIC = b"vesselflow store, "
HEADER_BYTES = 512
SPLITS = ("train", "test", "")
#: In the lineage of a source that nobody has labelled: its target is 0, and means nothing.
UNLABELLED = "unlabelled"
#: Images of 8 bits with one mask; the number of channels stands in the index.
PLAIN = Layout()

#: Of 2 axes (y0, x0, y1, x1), of 3 (z0, y0, x0, z1, y1, x1), end exclusive.
Box = tuple[Any, ...]
#: Micrometres a voxel: one number for each axis.
Spacing = tuple[Any, ...]
Bytes = NDArray[np.uint8]

ANGSTROM_PER_UM = 1e4


def in_angstrom(spacing_um: Spacing | None) -> Spacing | None:
    """A size along each axis in angstrom instead of micrometres; None of none."""
    return None if spacing_um is None else tuple(ANGSTROM_PER_UM * um for um in spacing_um)


#: Bytes of a patch store, None of a keypoint store; who has such a source knows which.
Target = Any


@dataclass(frozen=True)
class Source:
    """One image or volume with its truth and field of view, on its way into a store.

    Attributes:
        id: Name of the source, unique in its store; no slash, control character or asterisk.
        group: What must stay on one side of a split (patient, specimen).
        image: (*S, C), of the layout's type; finite.
        target: Of a patch store: uint8 or bool (*S) or (*S, K), see `Layout`; else None.
        fov: uint8 or bool (*S), 0 or 1; at least one voxel is 1.
        split: "train", "test" or "" where the data set names none.
        lineage: Where it came from: names and sha256 of the files, never paths.
        spacing_um: Size of a voxel along each axis in micrometres, where known.
        keypoints: Of a keypoint store.
        heatmap: Of a keypoint store with heat-maps: float32 (*coarse S, K), 0 to 1.
        origin: Where voxel 0 lies in what the source was cut from, in voxels, where known: a
            keypoint's place there is its position and this.
    """

    id: str
    group: str
    image: NDArray[Any]
    target: Target
    fov: Bytes
    split: str = ""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    spacing_um: Spacing | None = None
    keypoints: Keypoints | None = None
    heatmap: NDArray[np.float32] | None = None
    origin: tuple[float, ...] | None = None


@dataclass(frozen=True)
class SourceInfo:
    """What a store knows about one source without reading its voxels.

    Attributes:
        index: Position in the store.
        id: Name, unique in the store.
        group: What must stay on one side of a split.
        split: "train", "test" or "".
        height: Voxels along y.
        width: Voxels along x.
        channels: Channels of the image.
        digest: Hash of all arrays.
        image_digest: Hash of the image alone (the same image in two stores has the same one).
        fov_box: Bounding box of the fov, end exclusive: (y0, x0, y1, x1), of a volume
            (z0, y0, x0, z1, y1, x1).
        lineage: File names and their sha256.
        spacing_um: Size of a voxel along each axis in micrometres, where known.
        depth: Voxels along z; None of an image.
        keypoint_counts: Of a keypoint store: how many of each class; else ().
        origin: Where voxel 0 lies in what the source was cut from, in voxels, where known.
        fov_full: Every voxel of the fov's box lies in the fov. False where the index does not say
            so: in schema 1, and in stores that were written before it did.
    """

    index: int
    id: str
    group: str
    split: str
    height: int
    width: int
    channels: int
    digest: str
    image_digest: str
    fov_box: Box
    lineage: Mapping[str, Any]
    spacing_um: Spacing | None = None
    depth: int | None = None
    keypoint_counts: tuple[int, ...] = ()
    origin: tuple[float, ...] | None = None
    fov_full: bool = False

    @property
    def spacing_angstrom(self) -> Spacing | None:
        """Size of a voxel along each axis in angstrom, where known."""
        return in_angstrom(self.spacing_um)

    @property
    def shape(self) -> tuple[int, ...]:
        """All spatial sizes: (H, W) or (D, H, W)."""
        plane = (self.height, self.width)
        return plane if self.depth is None else (self.depth, *plane)

    def plain(self) -> dict[str, Any]:
        """The entry as plain data, without its position."""
        values = dataclasses.asdict(self)
        del values["index"]
        return values

    @classmethod
    def of(cls, index: int, values: Mapping[str, Any]) -> SourceInfo:
        """The entry at a position, of plain data; what is a tuple came as a list.

        Raises:
            ValueError: the fov's box has other axes than the source.
            TypeError: an unknown key, or a missing one.
        """
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        source = cls(index=index, **plain)
        if len(source.fov_box) != 2 * len(source.shape):
            raise ValueError("the fov's box has other axes than the source")
        return source


@dataclass(frozen=True)
class Shard:
    """One file of a store.

    Attributes:
        name: Its path, relative to the store's index.
        digest: Of the store that the file is.
        sources: Positions of its sources in the whole store.
        nbytes: Size of the file.
    """

    name: str
    digest: str
    sources: range
    nbytes: int


@dataclass(frozen=True)
class Head:
    """What a store says of itself; see `reader.Store`."""

    layout: Layout
    domain: str
    digest: str
    importer: Mapping[str, Any]
    sources: tuple[SourceInfo, ...]


def _text_digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def array_digest(name: str, array: NDArray[Any]) -> str:
    """Hash of an array's name, type, shape and C-ordered values."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(
        canonical_json([name, array.dtype.str, list(array.shape)], escaped=False).encode()
    )
    # An empty array has no memory that a hash could look at.
    digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.hexdigest()


def source_digests(arrays: Mapping[str, NDArray[Any]]) -> tuple[str, str]:
    """Hash of the image, and of all arrays in the layout's order (image first), without names."""
    parts = [array_digest(name, array) for name, array in arrays.items()]
    return parts[0], _text_digest(canonical_json(parts, escaped=False))


def store_digest(sources: Iterable[SourceInfo], layout: Layout = PLAIN) -> str:
    """Logical digest of a store: layout, ids, groups, splits and arrays, in the store's order.

    Paths, chunks, compression, the domain's name, lineage, spacing and origin do not enter: they
    cannot change a run's result, or are named where they do. The standard deviations that a
    keypoint store declares do.
    """
    head = ["patch"] if layout.schema == 1 else [layout.kind, layout.plain()]
    entries = ([s.id, s.group, s.split, s.digest] for s in sources)
    return _text_digest(canonical_json([*head, *entries], escaped=False))


def seal_of(attributes: Mapping[str, str], index: bytes) -> str:
    """Digest of a store's attributes (texts) and of the bytes of its index."""
    digest = hashlib.blake2b(canonical_json(dict(attributes), escaped=False).encode())
    digest.update(index)
    return digest.hexdigest()[:32]


def fov_bounds(fov: NDArray[Any]) -> Box:
    """Bounding box of the voxels that are not 0: lows, then highs, end exclusive.

    Raises:
        ValueError: no voxel is set.
    """
    low, high = [], []
    for axis in range(fov.ndim):
        others = tuple(other for other in range(fov.ndim) if other != axis)
        places = np.flatnonzero(fov.any(axis=others))
        if not places.size:
            raise ValueError("the fov is empty")
        low.append(int(places[0]))
        high.append(int(places[-1]) + 1)
    return (*low, *high)


def fills_box(fov: NDArray[Any]) -> bool:
    """Whether every voxel of the bounding box of a fov, which is not empty, is set."""
    box = fov_bounds(fov)
    inside = tuple(map(slice, box[: fov.ndim], box[fov.ndim :]))
    return bool(fov[inside].all())


def id_fault(name: object) -> str:
    """What is wrong with the id of a source, or ""; ids become parts of file names."""
    if not isinstance(name, str) or not name.strip():
        return "an id must be a text that is not empty"
    if any(letter in "/\\*" or ord(letter) < 32 for letter in name):
        return "an id must not hold a slash, an asterisk or a control character"
    return ""


def numbers_fault(numbers: Sequence[float] | None, dims: int, least: float) -> str:
    """What is wrong with one number for each axis, all above `least`, or ""; None is nothing."""
    if numbers is None or (
        len(numbers) == dims and all(math.isfinite(n) and n > least for n in numbers)
    ):
        return ""
    return f"{dims} numbers{' > 0' if least == 0 else ''}"


def layout_of(source: Source, **declared: Any) -> Layout:
    """The layout that a source of its kind has, by its arrays.

    Args:
        source: Any source of a store.
        declared: What arrays do not say, or what differs: classes, target, ds_sigma and so on.

    Raises:
        UserError: a type or number of axes that no store takes, or a declared value.
    """
    image, keypoints = source.image, source.keypoints is not None
    names = {3: "yx", 4: "zyx"}
    if image.ndim not in names:
        raise UserError(
            f"the image has the shape {image.shape}",
            where=f"source '{source.id}'",
            allowed="(H, W, C) or (D, H, W, C)",
        )
    known: dict[str, Any] = {
        "kind": "keypoint" if keypoints else "patch",
        "axes": names[image.ndim],
        "dtype": image.dtype.name,
        "channels": image.shape[-1],
        "target": "" if keypoints else "binary",
        "heatmaps": source.heatmap is not None,
    }
    try:
        return Layout(**{**known, **declared})
    except UserError as error:
        where = f"source '{source.id}'"
        raise UserError(error.what, where=where, allowed=error.allowed) from None


def stored_arrays(source: Source, layout: Layout) -> dict[str, NDArray[Any]]:
    """All arrays of a source as they are stored, in the order in which digests take them.

    Raises:
        UserError: One that the layout wants is missing, or one that it does not know is there.
    """
    points = source.keypoints
    given = {
        "image": source.image,
        "target": source.target,
        "fov": source.fov,
        "keypoints": None if points is None else points.positions,
        "classes": None if points is None else points.classes,
        "heatmap": source.heatmap,
    }
    return arrays_of(given, layout)


def describe(
    index: int, source: Source, layout: Layout = PLAIN
) -> tuple[SourceInfo, dict[str, NDArray[Any]]]:
    """The entry of a source in the store's index, and its arrays as they are stored.

    Raises:
        UserError: bad id, group, split, spacing or origin, or arrays that do not fit each other
            or the layout.
    """
    fault = id_fault(source.id)
    if fault:
        raise UserError(f"source {source.id!r}: {fault}")
    where = f"source '{source.id}'"
    if not isinstance(source.group, str) or not source.group:
        raise UserError(f"group {source.group!r} is not allowed", where=where, allowed="a text")
    if source.split not in SPLITS:
        raise UserError(
            f"split {source.split!r} is not allowed", where=where, allowed="train, test or empty"
        )
    for name, numbers, least in (
        ("spacing_um", source.spacing_um, 0.0),
        ("origin", source.origin, -math.inf),
    ):
        wanted = numbers_fault(numbers, layout.dims, least)
        if wanted:
            raise UserError(f"{name} {numbers} is not allowed", where=where, allowed=wanted)
    points = source.keypoints
    try:
        arrays = stored_arrays(source, layout)
    except UserError as error:
        raise UserError(error.what, where=where) from None
    faults = array_faults(arrays, layout)
    if faults:
        raise UserError("; ".join(faults), where=where)
    *depth, height, width, channels = arrays["image"].shape
    image_digest, digest = source_digests(arrays)
    info = SourceInfo(
        index=index,
        id=source.id,
        group=source.group,
        split=source.split,
        height=height,
        width=width,
        channels=channels,
        digest=digest,
        image_digest=image_digest,
        fov_box=fov_bounds(arrays["fov"]),
        lineage=dict(source.lineage),
        spacing_um=_floats(source.spacing_um),
        depth=depth[0] if depth else None,
        keypoint_counts=() if points is None else points.counts(len(layout.classes)),
        origin=_floats(source.origin),
        fov_full=fills_box(arrays["fov"]),
    )
    return info, arrays


def _floats(numbers: Sequence[float] | None) -> tuple[float, ...] | None:
    return None if numbers is None else tuple(numbers)
