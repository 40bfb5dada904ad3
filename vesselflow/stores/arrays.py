"""The arrays of one source: what they must be by the layout, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesselflow.errors import UserError
from vesselflow.stores.keypoints import keypoint_faults
from vesselflow.stores.layout import Layout

Arrays = Mapping[str, NDArray[Any]]


def arrays_of(given: Mapping[str, NDArray[Any] | None], layout: Layout) -> dict[str, NDArray[Any]]:
    """A source's arrays as they are stored: little-endian, masks of truth values as uint8.

    Args:
        given: All that the source holds, None where it has none.
        layout: The store's.

    Raises:
        UserError: one that the layout wants is missing, or one that it does not know is there.
    """
    wanted = layout.arrays()
    found = {}
    for name, array in given.items():
        if (array is None) == (name in wanted):
            there = "is missing" if array is None else "is there"
            raise UserError(f"{name} {there}, in a {layout.kind} store with {', '.join(wanted)}")
    for name in wanted:
        array = np.asarray(given[name])
        if array.dtype == np.bool_:
            array = array.astype(np.uint8)
        elif name == "classes" and array.dtype.kind in "iu":
            array = array.astype(np.int32, copy=False)
        found[name] = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return found


def expected(
    layout: Layout, name: str, shape: Sequence[int], channels: int, keypoints: int
) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """Type and shape of an array of a source.

    Args:
        layout: The store's.
        name: One of `Layout.arrays`.
        shape: Spatial sizes of the source.
        channels: Of its image.
        keypoints: How many it has.
    """
    size, classes = tuple(shape), len(layout.classes)
    planes = (classes,) if layout.target == "planes" else ()
    types: dict[str, tuple[Any, tuple[int, ...]]] = {
        "image": (layout.dtype, (*size, channels)),
        "fov": (np.uint8, size),
        "target": (np.uint8, (*size, *planes)),
        "keypoints": (np.float64, (keypoints, layout.dims)),
        "classes": (np.int32, (keypoints,)),
        "heatmap": (np.float32, (*layout.coarse(size), classes)),
    }
    kind, dimensions = types[name]
    return np.dtype(kind), dimensions


def array_faults(arrays: Arrays, layout: Layout) -> list[str]:
    """What is wrong with the arrays of one source; empty when all is well.

    Args:
        arrays: All that the layout wants.
        layout: The store's.
    """
    image = arrays["image"]
    named = np.dtype(layout.dtype)
    if image.dtype != named or image.ndim != layout.dims + 1 or 0 in image.shape:
        return [f"image must be {named} ({layout.sizes}, C), is {image.dtype} {image.shape}"]
    faults = []
    if image.dtype.kind == "f":
        broken = int(image.size - np.count_nonzero(np.isfinite(image)))
        if broken:
            faults.append(f"{broken} value(s) of the image are not finite")
    *size, channels = image.shape
    for name, most in _masks(layout).items():
        mask = arrays[name]
        kind, shape = expected(layout, name, size, channels, 0)
        if mask.shape != shape:
            what = "the image" if shape == tuple(size) else "it must be"
            faults.append(f"{name} is {mask.shape}, {what} {shape}")
        elif mask.dtype != kind:
            allowed = "0 or 1" if most == 1 else f"0 to {most}"
            faults.append(f"{name} must be uint8 {allowed}, is {mask.dtype}")
        elif mask.max() > most:
            allowed = "0 and 1" if most == 1 else f"0 to {most}"
            faults.append(f"{name} holds {int(mask.max())}, allowed are {allowed}")
    if not faults and not arrays["fov"].any():
        faults.append("the fov is empty")
    if layout.kind == "keypoint":
        faults += keypoint_faults(arrays["keypoints"], arrays["classes"], size, layout.classes)
    if layout.heatmaps:
        faults += _heatmap_faults(arrays["heatmap"], layout, size, channels)
    return faults


def _masks(layout: Layout) -> dict[str, int]:
    """The largest value that each mask of a layout may hold."""
    if layout.kind == "keypoint":
        return {"fov": 1}
    return {"target": len(layout.classes) if layout.target == "labels" else 1, "fov": 1}


def _heatmap_faults(
    heatmap: NDArray[Any], layout: Layout, size: Sequence[int], channels: int
) -> list[str]:
    kind, shape = expected(layout, "heatmap", size, channels, 0)
    if (heatmap.dtype, heatmap.shape) != (kind, shape):
        return [f"heatmap must be {kind} {shape}, is {heatmap.dtype} {heatmap.shape}"]
    if not (np.isfinite(heatmap).all() and heatmap.min() >= 0 and heatmap.max() <= 1):
        return ["heatmap holds values beyond 0 to 1"]
    return []
