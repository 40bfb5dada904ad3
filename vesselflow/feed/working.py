"""Sources at the working resolution, read from a store: whole, in patches, or one patch alone.

Plain numpy and Pillow, whose integer resampling gives the same bytes everywhere. Types that Pillow
does not resample (uint16, float16) go through its float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vesselflow.errors import ShapeError
from vesselflow.feed.layout import Arrays, SampleLayout, Size
from vesselflow.feed.view import (
    Box,
    Frame,
    View,
    no_samples,
    patch_positions,
    sample_frames,
    sample_shape,
    slices,
)

if TYPE_CHECKING:
    from vesselflow.stores.store import Store

_BILINEAR, _BOX, _NEAREST = (
    Image.Resampling.BILINEAR,
    Image.Resampling.BOX,
    Image.Resampling.NEAREST,
)


def layout_of(store: Store, shape: Size) -> SampleLayout:
    """The layout of a store's samples of a size: a plane of the target for each class.

    Keypoints are no planes: they travel beside the records.
    """
    held = store.layout
    planes = len(held.classes) if held.kind == "patch" else 0
    return SampleLayout(shape, held.channels, planes, held.dtype)


def sample_layout(store: Store, view: View, frames: Sequence[Frame]) -> SampleLayout:
    """The one layout of all samples of a store.

    Records hold no fov where all sources lie in it wholly and none is padded: nothing but ones
    could be in it. The store's index and the geometry say so, no voxel is read: whoever reads any
    part of the store comes to the same layout.

    Args:
        store: The store.
        view: How its sources are seen.
        frames: Of all its sources.
    """
    layout = layout_of(store, sample_shape(view, frames))
    full = all(
        source.fov_full and at.inner == at.shape
        for source, at in zip(store.sources, frames, strict=True)
    )
    return replace(layout, has_fov=not full)


def working_source(store: Store, source: int, at: Frame) -> tuple[SampleLayout, NDArray[np.uint8]]:
    """One source at the working resolution, as a record.

    The image is resized bilinearly over its whole support (antialiased), the fov to the nearest
    pixel. The target becomes soft: the covered area along axes that shrink, bilinear along those
    that grow.

    Returns:
        The layout, and uint8 (nbytes,): image, target 0..255, fov 0 or 1; zero in the padding.
    """
    layout = layout_of(store, at.shape)
    record = layout.empty()
    arrays = layout.arrays(record)
    inside = (slice(None), *at.inside)
    image = store.image(source, at.box)
    for channel in range(layout.channels):
        arrays.image[channel][at.inside] = resized(image[..., channel], at.inner, _BILINEAR)
    if layout.targets:
        arrays.target[inside] = _soft(store, source, at)
    arrays.fov[inside] = _fov(store, source, at)
    return layout, record


def working_fov(store: Store, source: int, at: Frame) -> NDArray[np.uint8]:
    """The fov of `working_source` without the rest: uint8 (*S), 0 or 1."""
    fov = np.zeros(at.shape, dtype=np.uint8)
    fov[at.inside] = _fov(store, source, at)
    return fov


def _fov(store: Store, source: int, at: Frame) -> NDArray[np.generic]:
    return resized(store.fov(source, at.box), at.inner, _NEAREST)


def _soft(store: Store, source: int, at: Frame) -> NDArray[np.generic]:
    """The target (K, *S) of a source, 0..255."""
    planes = _planes(store, store.target(source, at.box))

    def rule(axes: slice) -> Image.Resampling:
        ends = zip(at.inner[axes], planes.shape[1:][axes], strict=True)
        return _BOX if all(new <= old for new, old in ends) else _BILINEAR

    plane, along = rule(slice(-2, None)), rule(slice(0, -2))
    return np.stack([resized(each, at.inner, plane, along) for each in planes])


def native_target(store: Store, source: int) -> NDArray[np.uint8]:
    """The untouched target of a source: uint8 (*S), 0 or 1.

    Of several classes (K, *S), of a keypoint store (0, *S).
    """
    if store.kind == "keypoint":
        return np.zeros((0, *store.sources[source].shape), np.uint8)
    target = store.target(source)
    if len(store.layout.classes) == 1 and store.layout.target == "binary":
        return target
    planes = _planes(store, target) // np.uint8(255)
    return planes[0] if len(planes) == 1 else np.ascontiguousarray(planes)


def _planes(store: Store, target: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A stored target as (K, *S), 0 or 255 for each class."""
    kind = store.layout.target
    if kind == "labels":
        numbers = np.arange(1, len(store.layout.classes) + 1, dtype=np.uint8)
        inside = target[None] == numbers.reshape(-1, *[1] * target.ndim)
        return inside.astype(np.uint8) * np.uint8(255)
    planes = np.moveaxis(target, -1, 0) if kind == "planes" else target[None]
    return planes * np.uint8(255)


def resized(
    array: NDArray[np.generic],
    size: Size,
    plane: Image.Resampling,
    along: Image.Resampling | None = None,
) -> NDArray[np.generic]:
    """Resample an array of two or three axes, antialiased where it shrinks.

    A volume is resampled in the plane, slice by slice, and then along its axis.

    Args:
        array: (*S).
        size: Its new size.
        plane: How, along the last two axes.
        along: How, along the first of three; None: as in the plane.
    """
    if array.shape == size:
        return array
    if array.ndim == 2:
        return _plane(array, size, plane)
    slices = np.stack([_plane(each, size[1:], plane) for each in array])
    flat = slices.reshape(len(slices), -1)
    return _plane(flat, (size[0], flat.shape[1]), along or plane).reshape(size)


def _plane(plane: NDArray[np.generic], size: Size, method: Image.Resampling) -> NDArray[np.generic]:
    if plane.shape == size:
        return plane
    # Pillow's 8-bit integers and float32; what lies between is rounded back.
    values = np.ascontiguousarray(plane)
    direct = values.dtype in (np.uint8, np.float32)
    picture = Image.fromarray(values if direct else values.astype(np.float32))
    found = np.asarray(picture.resize((size[1], size[0]), method))
    if direct:
        return found
    if plane.dtype == np.uint16:
        found = np.clip(np.floor(found + 0.5), 0, np.iinfo(np.uint16).max)
    return found.astype(plane.dtype)


def native_patch(
    store: Store, source: int, at: Frame, corner: Sequence[int], layout: SampleLayout
) -> NDArray[np.uint8]:
    """One patch of a source that is not resized, read without the rest of the source.

    Returns:
        uint8 (nbytes,), the record of that window of `working_source`.

    Raises:
        ShapeError: The patch reaches out of the source, and its record could not say so.
    """
    record = layout.empty()
    parts = layout.arrays(record)
    inside, window = _native_window(at, corner, layout)
    if window is None:
        return record
    found = read_native(store, source, window, layout)
    parts.image[inside], parts.target[inside] = found.image, found.target
    if layout.has_fov:
        parts.fov[inside] = found.fov
    return record


def native_box(
    store: Store, source: int, at: Frame, corner: Sequence[int], layout: SampleLayout
) -> Arrays:
    """The arrays of `native_patch`; where nothing is padded, those that were read."""
    inside, window = _native_window(at, corner, layout)
    if window is not None and all(
        part == slice(0, side) for part, side in zip(inside[1:], layout.shape, strict=True)
    ):
        return read_native(store, source, window, layout)
    return layout.arrays(native_patch(store, source, at, corner, layout))


def read_native(store: Store, source: int, window: Box, layout: SampleLayout) -> Arrays:
    """Image, target 0..255 and fov of a window of a source, in native voxels.

    Args:
        store: The store.
        source: Index of the source.
        window: It lies in the source.
        layout: Of its shape; without a fov none is read, and it is 1 everywhere.
    """
    image = np.ascontiguousarray(np.moveaxis(store.image(source, window), -1, 0))
    shape = image.shape[1:]
    target = np.empty((0, *shape), np.uint8)
    if layout.targets:
        target = _planes(store, store.target(source, window))
    fov = np.broadcast_to(np.uint8(1), (1, *shape))
    if layout.has_fov:
        fov = store.fov(source, window)[None]
    return Arrays(image, target, fov)


def _native_window(
    at: Frame, corner: Sequence[int], layout: SampleLayout
) -> tuple[tuple[slice, ...], Box | None]:
    """Where a patch lies in its source: the part of it that does, and that part's native window."""
    axes = len(corner)
    lows = [max(0, o - c) for o, c in zip(at.offset, corner, strict=True)]
    highs = [
        min(size, o + inner - c)
        for size, o, inner, c in zip(layout.shape, at.offset, at.inner, corner, strict=True)
    ]
    if not layout.has_fov and (any(lows) or tuple(highs) != layout.shape):
        raise ShapeError(f"a patch at {list(corner)} of a source needs padding and a fov")
    if any(high <= low for low, high in zip(lows, highs, strict=True)):
        return (), None
    shift = [b + c - o for b, c, o in zip(at.box[:axes], corner, at.offset, strict=True)]
    window = tuple(
        end + move for ends in (lows, highs) for end, move in zip(ends, shift, strict=True)
    )
    return (slice(None), *(slice(*ends) for ends in zip(lows, highs, strict=True))), window


def cut(
    layout: SampleLayout,
    record: NDArray[np.uint8],
    corners: NDArray[np.int32],
    patch: SampleLayout,
) -> NDArray[np.uint8]:
    """Patches of a source, as records.

    Args:
        layout: Of the whole source.
        record: uint8 (nbytes,), the whole source.
        corners: int32 (k, axes).
        patch: Layout of the patches; without a fov where they all lie in it.

    Returns:
        uint8 (k, patch.nbytes).
    """
    if patch == layout:
        return np.repeat(record[None], len(corners), axis=0)
    found = patch.empty(len(corners))
    for one, corner in zip(found, corners.tolist(), strict=True):
        place = (slice(None), *slices(corner, patch.shape))
        parts, wholes = patch.arrays(one), layout.arrays(record)
        parts.image[...], parts.target[...] = wholes.image[place], wholes.target[place]
        if patch.has_fov:
            parts.fov[...] = wholes.fov[place]
    return found


def sample_index(
    store: Store, view: View, sources: Sequence[int]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The samples of some sources, in their order, patches row by row.

    Returns:
        int32 (n,), the source of each; int32 (n, axes), its lower corner in working px.

    Raises:
        UserError: Not one sample has enough fov.
    """
    frames = sample_frames(store.sources, view)
    owner, corners = [], []
    for source in sources:
        found = patch_positions(view, working_fov(store, source, frames[source]))
        owner.append(np.full(len(found), source, dtype=np.int32))
        corners.append(found)
    if not sum(len(part) for part in corners):
        raise no_samples(view, str(store.path))
    return np.concatenate(owner), np.concatenate(corners)
