"""How a source is seen: cropped to its field of view, resized, padded, cut into patches.

Geometry alone, in two or three dimensions: sizes, corners and spacings hold one number for each
spatial axis, (y, x) or (z, y, x), boxes those of their lower and then those of their upper corner.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from vesselflow.errors import UserError
from vesselflow.feed.layout import Size

if TYPE_CHECKING:
    from vesselflow.stores.schema import SourceInfo

#: (y0, x0, y1, x1) or (z0, y0, x0, z1, y1, x1), end exclusive.
Box = tuple[int, ...]
#: Size of a pixel in micrometres along each axis; a single number stands for all of them.
Spacing = tuple[float, ...]


#: What to do about a source without a spacing.
NO_SPACING_HINT = (
    "import it again with --spacing-um, make a synthetic one again, or give stores.<name>.scale"
)


@dataclass(frozen=True)
class Around:
    """Patches around keypoints, besides those of the grid.

    Attributes:
        copies: Patches around each keypoint.
        jitter: Largest distance of a keypoint from the middle of its patch along each axis, as a
            share of the patch's side.
    """

    copies: int
    jitter: float


@dataclass(frozen=True)
class View:
    """What of a source the model sees.

    Of `working_size_px`, `spacing_um` and `scale` the last one that is given decides the size of a
    working px; without any of them sources keep their native resolution.

    Attributes:
        working_size_px: The longer side of the fov's bounding box after resizing, aspect kept.
        patch: Side of patches in working px, of all axes or one for each, or "full": whole
            sources.
        stride: Distance of neighbouring patches in px, likewise; None: the patch's side.
        min_fov: A patch is kept when at least this share of it, in [0, 1], lies in the fov.
        divisor: Sides are multiples of it (the model's down-sampling), likewise.
        scope: Over what the image is normalised; "source" carries statistics along.
        method: How centre and scale are measured.
        per_channel: One centre and scale for each channel, or one for all.
        spacing_um: Size of a working px in micrometres: every source is resampled to it from its
            own spacing.
        scale: Working px per native px, whatever the spacing.
        around: Patches around keypoints as well; None: those of the grid alone.

    Raises:
        UserError: A size that is not positive, a patch that is no multiple of `divisor`, a share
            outside [0, 1].
    """

    working_size_px: int | None
    patch: int | Size | Literal["full"]
    stride: int | Size | None
    min_fov: float
    divisor: int | Size
    scope: str = "source"
    method: str = "standard"
    per_channel: bool = True
    spacing_um: Spacing | None = None
    scale: float | None = None
    around: Around | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be cut."""
        sizes = {
            "working_size_px": self.working_size_px,
            "patch": None if self.patch == "full" else self.patch,
            "stride": self.stride,
            "divisor": self.divisor,
        }
        for name, value in sizes.items():
            if value is not None and np.min(value) < 1:
                raise UserError(f"{value} is not allowed", where=f"data.{name}", allowed="1 px on")
        for name, factor in (("spacing_um", self.spacing_um), ("scale", self.scale)):
            if factor is not None and not np.all(np.isfinite(factor) & (np.array(factor) > 0)):
                raise UserError(f"{factor} is not allowed", where=f"data.{name}", allowed="> 0")
        if self.patch != "full" and not isinstance(self.patch, int):
            # A model's divisors say how many axes it takes.
            axes = len(self.patch) if isinstance(self.divisor, int) else len(self.divisor)
            per_axis(self.patch, axes, "data.patch")
        if self.patch != "full" and np.any(np.mod(self.patch, self.divisor)):
            below = np.maximum(1, np.floor_divide(self.patch, self.divisor)) * self.divisor
            raise UserError(
                f"patches of {told(self.patch)} px do not fit the model, which halves them",
                where="data.patch",
                allowed=f"multiples of {told(self.divisor)}",
                hint=f"try {told(below)}",
            )
        if not 0 <= self.min_fov <= 1:
            raise UserError(f"{self.min_fov} is not allowed", where="data.min_fov", allowed="0..1")

    @property
    def one_size(self) -> bool:
        """Whether all sources get one size, whatever their own is."""
        return self.working_size_px is not None and self.spacing_um is None and self.scale is None

    @property
    def by_spacing(self) -> bool:
        """Whether a source without a spacing cannot be seen."""
        return self.spacing_um is not None and self.scale is None

    def patch_of(self, axes: int) -> Size:
        """Size of a patch.

        Raises:
            UserError: It has another number of axes.
        """
        assert self.patch != "full"
        return per_axis(self.patch, axes, "data.patch")

    def stride_of(self, axes: int) -> Size:
        """Distance of neighbouring patches along each axis."""
        if self.stride is None:
            return self.patch_of(axes)
        return per_axis(self.stride, axes, "data.stride")


def per_axis(value: int | Size, axes: int, where: str) -> Size:
    """One number for each axis: those that are given, or one for all.

    Raises:
        UserError: There are others than `axes` of them.
    """
    if isinstance(value, int):
        return (value,) * axes
    if len(value) != axes:
        raise UserError(
            f"{list(value)} has {len(value)} numbers, the images have {axes} axes",
            where=where,
            allowed=f"one number, or {axes}",
        )
    return tuple(value)


def told(size: int | Size | np.ndarray) -> str:
    """A size as people write it: 64, or 16 x 64 x 64."""
    return " x ".join(str(int(side)) for side in np.atleast_1d(size))


@dataclass(frozen=True)
class Frame:
    """Where a source's fov box lies in its working array.

    Attributes:
        box: Of the fov in native px.
        inner: Size of the resized box.
        offset: Lower corner of the resized box inside the working array.
        shape: Size of the working array.
    """

    box: Box
    inner: Size
    offset: Size
    shape: Size

    @property
    def native_scale(self) -> bool:
        """Whether nothing is resized."""
        return self.inner == box_size(self.box)

    @property
    def inside(self) -> tuple[slice, ...]:
        """The resized box as slices of the working array."""
        return slices(self.offset, self.inner)

    def working(self, spacing: Spacing) -> Spacing:
        """The size of a working px along each axis, by that of a native px in any unit."""
        sizes = zip(spacing, box_size(self.box), self.inner, strict=True)
        return tuple(own * native / inner for own, native, inner in sizes)

    def padded_to(self, shape: Size) -> Frame:
        """The same box, centred in a larger array."""
        offset = ((whole - part) // 2 for whole, part in zip(shape, self.inner, strict=True))
        return Frame(self.box, self.inner, tuple(offset), shape)


def slices(lower: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    """Slices of a size from a lower corner on; of a `Box`, of which the lows come first, as well.

    Args:
        lower: The corner; what stands behind its first numbers is not looked at.
        size: Along each axis.
    """
    return tuple(slice(low, low + side) for low, side in zip(lower, size, strict=False))


def box_size(box: Box) -> Size:
    """Size of a box along each axis."""
    axes = len(box) // 2
    return tuple(high - low for low, high in zip(box[:axes], box[axes:], strict=True))


def frame(box: Box, view: View, spacing_um: Spacing | None = None) -> Frame:
    """Geometry of one source: its box resized and centred in the least array that fits `view`.

    The array's sides are multiples of the divisor and at least a patch; for whole images of a
    given working size it is square, so that all sources get one shape.

    Args:
        box: Of the fov in native px.
        view: How it is seen.
        spacing_um: Of a native px, where known.

    Raises:
        UserError: The box is empty, or the view needs a spacing and there is none.
    """
    native = box_size(box)
    axes = len(native)
    if min(native) < 1:
        raise UserError(f"the field of view's box {box} is empty", hint="run 'data verify'")
    inner = _resized(native, view, spacing_um)
    if view.patch == "full":
        # Volumes are rarely cubes: only images are padded to one square.
        square = view.working_size_px if view.one_size and axes == 2 else None
        least = inner if square is None else (square,) * axes
    else:
        patch = view.patch_of(axes)
        least = tuple(max(side, part) for side, part in zip(inner, patch, strict=True))
    divisors = per_axis(view.divisor, axes, "data.patch")
    shape = tuple(_up(side, divisor) for side, divisor in zip(least, divisors, strict=True))
    return Frame(box, inner, (0,) * axes, shape).padded_to(shape)


def _resized(native: Size, view: View, spacing_um: Spacing | None) -> Size:
    """Size of a box of the fov at the working resolution."""
    axes = len(native)
    if view.scale is not None:
        factors = [view.scale] * axes
    elif view.spacing_um is not None:
        if spacing_um is None:
            raise UserError("the source's spacing is not known", hint=NO_SPACING_HINT)
        working = view.spacing_um * axes if len(view.spacing_um) == 1 else view.spacing_um
        if len(working) != axes:
            raise UserError(
                f"{list(working)} has {len(working)} numbers, the images have {axes} axes",
                where="data.spacing_um",
                allowed=f"one number, or {axes}",
            )
        factors = [own / wanted for own, wanted in zip(spacing_um, working, strict=True)]
    elif view.working_size_px is not None:
        # Of a volume, in the plane: its axis may be sampled otherwise.
        size, longest = view.working_size_px, max(native[-2:])
        # Halves round up, in whole numbers: no platform's float rounding can differ.
        return tuple(max(1, (2 * side * size + longest) // (2 * longest)) for side in native)
    else:
        return native
    # One division, one product and one sum, each rounded as IEEE 754 says: equal everywhere.
    return tuple(
        max(1, math.floor(side * factor + 0.5))
        for side, factor in zip(native, factors, strict=True)
    )


def image_frame(box: Box, view: View, spacing_um: Spacing | None = None) -> Frame:
    """Geometry of a whole image: that of `frame` for whole sources, whatever patches are cut."""
    return frame(box, replace(view, patch="full", stride=None), spacing_um)


def source_frame(source: SourceInfo, view: View) -> Frame:
    """`frame` of a source by what its store knows of it."""
    return frame(source.fov_box, view, source.spacing_um)


def sample_frames(sources: Sequence[SourceInfo], view: View) -> list[Frame]:
    """Geometry of all sources of a store, in arrays of one shape when samples are whole sources.

    Raises:
        UserError: A source without a spacing, where the view needs one.
    """
    check_spacing(sources, view)
    frames = [source_frame(source, view) for source in sources]
    if view.patch != "full" or not frames:
        return frames
    shape = tuple(map(max, zip(*(at.shape for at in frames), strict=True)))
    return [at.padded_to(shape) for at in frames]


def sample_shape(view: View, frames: Sequence[Frame]) -> Size:
    """Size of every sample."""
    shape = frames[0].shape
    return shape if view.patch == "full" else view.patch_of(len(shape))


def _up(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor


def patch_positions(view: View, fov: np.ndarray) -> np.ndarray:
    """Lower corners of the patches of one source, row by row.

    Patches start every `stride` px from the lower corner, and the last along each axis is flush
    with the border, so that all of the source is covered. Kept are those of which at least
    `min_fov` lies in the fov.

    Args:
        view: Patch, stride, least share of fov.
        fov: uint8 (*S) at the working resolution, 0 or 1.

    Returns:
        int32 (k, axes). One corner of zeros for whole sources; none when no patch has enough fov.
    """
    if view.patch == "full":
        return np.zeros((1, fov.ndim), dtype=np.int32)
    size, stride = view.patch_of(fov.ndim), view.stride_of(fov.ndim)
    starts = [_starts(*each) for each in zip(fov.shape, size, stride, strict=True)]
    grid = np.stack([axis.ravel() for axis in np.meshgrid(*starts, indexing="ij")], axis=1)
    return grid[in_fov(view, fov, grid)].astype(np.int32)


def in_fov(view: View, fov: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Which patches have at least `min_fov` of theirs in the fov.

    Args:
        view: Patch, least share of fov.
        fov: uint8 (*S) at the working resolution, 0 or 1.
        corners: int (k, axes), of patches inside it.

    Returns:
        bool (k,).
    """
    size = view.patch_of(fov.ndim)
    # Sums over all windows from one table of running sums.
    table = fov.astype(np.int64)
    for axis in range(fov.ndim):
        table = np.cumsum(table, axis=axis)
    table = np.pad(table, [(1, 0)] * fov.ndim)
    inside = np.zeros(len(corners), dtype=np.int64)
    for upper in itertools.product((0, 1), repeat=fov.ndim):
        sign = (-1) ** (fov.ndim - sum(upper))
        inside += sign * table[tuple((corners + np.multiply(upper, size)).T)]
    kept: np.ndarray = inside >= view.min_fov * math.prod(size)
    return kept


def _starts(side: int, size: int, stride: int) -> np.ndarray:
    starts = list(range(0, side - size + 1, stride))
    if starts[-1] != side - size:
        starts.append(side - size)
    return np.array(starts)


def check_spacing(sources: Sequence[SourceInfo], view: View) -> None:
    """Refuse sources whose spacing is not known, where the view needs it."""
    if view.by_spacing:
        lacking = [source.id for source in sources if source.spacing_um is None]
        if lacking:
            raise UserError(
                f"{len(lacking)} of {len(sources)} sources have no spacing, the first is "
                f"'{lacking[0]}'",
                hint=NO_SPACING_HINT,
            )


def most_patches(view: View, at: Frame) -> int:
    """How many samples a source can give at most, from its geometry alone."""
    if view.patch == "full":
        return 1
    axes = len(at.shape)
    steps = zip(at.shape, view.patch_of(axes), view.stride_of(axes), strict=True)
    return math.prod(len(_starts(*each)) for each in steps)


def no_samples(view: View, path: str) -> UserError:
    """The error of a store whose every patch has too little fov."""
    assert view.patch != "full"
    return UserError(
        f"no patch of {told(view.patch)} px has {view.min_fov:g} of its area in the field of view",
        where=path,
        hint="lower data.min_fov or data.patch",
    )


def image_view(view: View) -> View:
    """The view of whole images: what patches are cut does not change it."""
    return replace(view, patch="full", stride=None, min_fov=0.0, around=None)
