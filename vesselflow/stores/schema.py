"""What a patch store holds: sources, their description, and the digests that name their content.

A store is one HDF5 file::

    user block          512 bytes of text: magic words and the size of the whole file
    /                   attributes schema, kind, domain, digest, importer (JSON)
    /index              JSON (UTF-8 bytes), one entry per source
    /sources/<n>/image  uint8 (H, W, C), chunks of 256 x 256
    /sources/<n>/target uint8 (H, W), 0 or 1
    /sources/<n>/fov    uint8 (H, W), 0 or 1

The index is one piece of JSON, not attributes spread over groups: ten thousand pre-cut patches then
open in milliseconds. The size in the user block makes every truncation visible before HDF5 looks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesselflow.config.fingerprint import canonical_json
from vesselflow.errors import UserError

SCHEMA = 1
KIND = "patch"
MAGIC = b"vesselflow store, "
HEADER_BYTES = 512
SPLITS = ("train", "test", "")

Box = tuple[int, int, int, int]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """One image with its target and field of view, on its way into a store.

    Attributes:
        id: Name of the source, unique in its store; no slash, control character or asterisk.
        group: What must stay on one side of a split (patient, specimen).
        image: uint8 (H, W, C).
        target: uint8 or bool (H, W), 0 or 1.
        fov: uint8 or bool (H, W), 0 or 1; at least one pixel is 1.
        split: "train", "test" or "" where the data set names none.
        lineage: Where it came from: names and sha256 of the files, never paths.
        spacing_um: Height and width of a pixel in micrometres, where known.
    """

    id: str
    group: str
    image: Bytes
    target: Bytes
    fov: Bytes
    split: str = ""
    lineage: Mapping[str, Any] = field(default_factory=dict)
    spacing_um: tuple[float, float] | None = None


@dataclass(frozen=True)
class SourceInfo:
    """What a store knows about one source without reading its pixels.

    Attributes:
        index: Position in the store.
        id: Name, unique in the store.
        group: What must stay on one side of a split.
        split: "train", "test" or "".
        height: Pixels.
        width: Pixels.
        channels: Channels of the image.
        digest: Hash of image, target and fov.
        image_digest: Hash of the image alone (the same image in two stores has the same one).
        fov_box: Bounding box of the fov (y0, x0, y1, x1), end exclusive.
        lineage: File names and their sha256.
        spacing_um: Height and width of a pixel in micrometres, where known.
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
    spacing_um: tuple[float, float] | None = None


def _text_digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def array_digest(name: str, array: NDArray[Any]) -> str:
    """Hash of an array's name, type, shape and C-ordered values."""
    digest = hashlib.blake2b(digest_size=16)
    digest.update(
        canonical_json([name, array.dtype.str, list(array.shape)], escaped=False).encode()
    )
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def source_digest(image_digest: str, target: Bytes, fov: Bytes) -> str:
    """Hash of one source's content: image, target and fov, not its name."""
    parts = [image_digest, array_digest("target", target), array_digest("fov", fov)]
    return _text_digest(canonical_json(parts, escaped=False))


def store_digest(sources: Iterable[SourceInfo]) -> str:
    """Logical digest of a store: ids, groups, splits and arrays, in the order of the store.

    Paths, chunks, compression, the domain's name, lineage and spacing do not enter: none of them
    can change a run's result.
    """
    return _text_digest(
        canonical_json(
            [KIND, *([s.id, s.group, s.split, s.digest] for s in sources)], escaped=False
        )
    )


def fov_bounds(fov: NDArray[Any]) -> Box:
    """Bounding box (y0, x0, y1, x1) of the pixels that are not 0, end exclusive.

    Raises:
        ValueError: no pixel is set.
    """
    rows, columns = np.flatnonzero(fov.any(axis=1)), np.flatnonzero(fov.any(axis=0))
    if not rows.size:
        raise ValueError("the fov is empty")
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


def id_fault(name: object) -> str:
    """What is wrong with the id of a source, or ""; ids become parts of file names."""
    if not isinstance(name, str) or not name.strip():
        return "an id must be a text that is not empty"
    if any(letter in "/\\*" or ord(letter) < 32 for letter in name):
        return "an id must not hold a slash, an asterisk or a control character"
    return ""


def array_faults(image: NDArray[Any], target: NDArray[Any], fov: NDArray[Any]) -> list[str]:
    """What is wrong with the arrays of one source; empty when all is well."""
    if image.dtype != np.uint8 or image.ndim != 3 or 0 in image.shape:
        return [f"image must be uint8 (H, W, C), is {image.dtype} {image.shape}"]
    faults = []
    for name, mask in (("target", target), ("fov", fov)):
        if mask.shape != image.shape[:2]:
            faults.append(f"{name} is {mask.shape}, the image {image.shape[:2]}")
        elif mask.dtype not in (np.uint8, np.bool_):
            faults.append(f"{name} must be uint8 0 or 1, is {mask.dtype}")
        elif mask.max() > 1:
            faults.append(f"{name} holds {int(mask.max())}, allowed are 0 and 1")
    if not faults and not fov.any():
        faults.append("the fov is empty")
    return faults


def describe(index: int, source: Source) -> SourceInfo:
    """The entry of a source in the store's index.

    Raises:
        UserError: bad id, group, split or spacing, or arrays that do not fit each other.
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
    if source.spacing_um is not None and not all(
        np.isfinite(s) and s > 0 for s in source.spacing_um
    ):
        raise UserError(
            f"spacing_um {source.spacing_um} is not allowed", where=where, allowed="> 0"
        )
    faults = array_faults(source.image, source.target, source.fov)
    if faults:
        raise UserError("; ".join(faults), where=where)
    image_digest = array_digest("image", source.image)
    target, fov = (mask.astype(np.uint8, copy=False) for mask in (source.target, source.fov))
    height, width, channels = source.image.shape
    return SourceInfo(
        index=index,
        id=source.id,
        group=source.group,
        split=source.split,
        height=height,
        width=width,
        channels=channels,
        digest=source_digest(image_digest, target, fov),
        image_digest=image_digest,
        fov_box=fov_bounds(fov),
        lineage=dict(source.lineage),
        spacing_um=source.spacing_um,
    )
