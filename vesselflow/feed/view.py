"""How a source is seen: cropped to its field of view, resized, padded, cut into patches.

Plain numpy and Pillow, whose integer resampling gives the same bytes everywhere. One source at the
working resolution is held as *planes*: uint8 (C + 2, h, w), the image's channels, then the soft
target (0..255), then the fov (0 or 1). A sample's planes lie together in memory, so that one copy
gathers all of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from vesselflow.errors import UserError

if TYPE_CHECKING:
    from vesselflow.stores.schema import SourceInfo
    from vesselflow.stores.store import Store

Box = tuple[int, int, int, int]
Size = tuple[int, int]
#: Height and width of a pixel in micrometres.
Spacing = tuple[float, float]


#: What to do about a source without a spacing.
NO_SPACING_HINT = (
    "import it again with --spacing-um, make a synthetic one again, or give stores.<name>.scale"
)


@dataclass(frozen=True)
class View:
    """What of a source the model sees.

    Of `working_size_px`, `spacing_um` and `scale` the last one that is given decides the size of a
    working px; without any of them sources keep their native resolution.

    Attributes:
        working_size_px: The longer side of the fov's bounding box after resizing, aspect kept.
        patch: Side of square patches in working px, or "full": whole sources.
        stride: Distance of neighbouring patches in px; None: the patch's side.
        min_fov: A patch is kept when at least this share of it, in [0, 1], lies in the fov.
        divisor: Heights and widths are multiples of it (the model's down-sampling).
        scope: Over what the image is normalised; "source" carries statistics along.
        method: How centre and scale are measured.
        per_channel: One centre and scale for each channel, or one for all.
        spacing_um: Height and width of a working px in micrometres: every source is resampled to
            it from its own spacing.
        scale: Working px per native px, whatever the spacing.

    Raises:
        UserError: A size that is not positive, a patch that is no multiple of `divisor`, a share
            outside [0, 1].
    """

    working_size_px: int | None
    patch: int | Literal["full"]
    stride: int | None
    min_fov: float
    divisor: int
    scope: str = "source"
    method: str = "standard"
    per_channel: bool = True
    spacing_um: Spacing | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be cut."""
        sizes = {
            "working_size_px": self.working_size_px,
            "patch": None if self.patch == "full" else self.patch,
            "stride": self.stride,
            "divisor": self.divisor,
        }
        for name, value in sizes.items():
            if value is not None and value < 1:
                raise UserError(f"{value} is not allowed", where=f"data.{name}", allowed="1 px on")
        for name, factor in (("spacing_um", self.spacing_um), ("scale", self.scale)):
            if factor is not None and not np.all(np.isfinite(factor) & (np.array(factor) > 0)):
                raise UserError(f"{factor} is not allowed", where=f"data.{name}", allowed="> 0")
        if self.patch != "full" and self.patch % self.divisor:
            below = max(1, self.patch // self.divisor) * self.divisor
            raise UserError(
                f"patches of {self.patch} px do not fit the model, which halves them",
                where="data.patch",
                allowed=f"multiples of {self.divisor}",
                hint=f"try {below}",
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


@dataclass(frozen=True)
class Frame:
    """Where a source's fov box lies in its working array.

    Attributes:
        box: (y0, x0, y1, x1) of the fov in native px.
        inner: (height, width) of the resized box.
        offset: (top, left) of the resized box inside the working array.
        shape: (height, width) of the working array.
    """

    box: Box
    inner: Size
    offset: Size
    shape: Size

    @property
    def native_scale(self) -> bool:
        """Whether nothing is resized."""
        y0, x0, y1, x1 = self.box
        return self.inner == (y1 - y0, x1 - x0)

    def padded_to(self, shape: Size) -> Frame:
        """The same box, centred in a larger array."""
        top, left = ((whole - part) // 2 for whole, part in zip(shape, self.inner, strict=True))
        return Frame(self.box, self.inner, (top, left), shape)


def frame(box: Box, view: View, spacing_um: Spacing | None = None) -> Frame:
    """Geometry of one source: its box resized and centred in the least array that fits `view`.

    The array's sides are multiples of the divisor and at least a patch; for whole sources of a
    given working size it is square, so that all sources get one shape.

    Args:
        box: (y0, x0, y1, x1) of the fov in native px.
        view: How it is seen.
        spacing_um: Of a native px, where known.

    Raises:
        UserError: The box is empty, or the view needs a spacing and there is none.
    """
    height, width = box[2] - box[0], box[3] - box[1]
    if height < 1 or width < 1:
        raise UserError(f"the field of view's box {box} is empty", hint="run 'data verify'")
    height, width = _resized((height, width), view, spacing_um)
    if view.patch == "full":
        size = view.working_size_px if view.one_size else None
        least = (height, width) if size is None else (size, size)
    else:
        least = (max(height, view.patch), max(width, view.patch))
    shape = (_up(least[0], view.divisor), _up(least[1], view.divisor))
    return Frame(box, (height, width), (0, 0), shape).padded_to(shape)


def _resized(native: Size, view: View, spacing_um: Spacing | None) -> Size:
    """(height, width) of a box of the fov at the working resolution."""
    height, width = native
    if view.scale is not None:
        factors = (view.scale, view.scale)
    elif view.spacing_um is not None:
        if spacing_um is None:
            raise UserError("the source's spacing is not known", hint=NO_SPACING_HINT)
        factors = (spacing_um[0] / view.spacing_um[0], spacing_um[1] / view.spacing_um[1])
    elif view.working_size_px is not None:
        size, longest = view.working_size_px, max(native)
        # Halves round up, in whole numbers: no platform's float rounding can differ.
        height, width = (max(1, (2 * side * size + longest) // (2 * longest)) for side in native)
        return height, width
    else:
        return native
    # One division, one product and one sum, each rounded as IEEE 754 says: equal everywhere.
    return (
        max(1, math.floor(height * factors[0] + 0.5)),
        max(1, math.floor(width * factors[1] + 0.5)),
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
    shape = (max(f.shape[0] for f in frames), max(f.shape[1] for f in frames))
    return [f.padded_to(shape) for f in frames]


def sample_shape(view: View, frames: Sequence[Frame]) -> Size:
    """(height, width) of every sample."""
    return frames[0].shape if view.patch == "full" else (view.patch, view.patch)


def _up(value: int, divisor: int) -> int:
    return -(-value // divisor) * divisor


def resize(plane: np.ndarray, size: Size, method: Image.Resampling) -> np.ndarray:
    """Resample one (h, w) plane, antialiased where it shrinks."""
    if plane.shape == size:
        return plane
    return np.asarray(Image.fromarray(plane).resize((size[1], size[0]), method))


def working_planes(store: Store, source: int, at: Frame) -> np.ndarray:
    """One source at the working resolution.

    The image is resized bilinearly over its whole support (antialiased), the fov to the nearest
    pixel. The target becomes soft: the covered area where it shrinks, bilinear where it grows.

    Returns:
        uint8 (C + 2, h, w): image, target 0..255, fov 0 or 1; zero in the padding.
    """
    image = store.image(source, at.box)
    target = store.target(source, at.box)
    planes = np.zeros((image.shape[2] + 2, *at.shape), dtype=np.uint8)
    (top, left), (height, width) = at.offset, at.inner
    inside = planes[:, top : top + height, left : left + width]
    for channel in range(image.shape[2]):
        plane = np.ascontiguousarray(image[:, :, channel])
        inside[channel] = resize(plane, at.inner, Image.Resampling.BILINEAR)
    shrinks = height <= target.shape[0] and width <= target.shape[1]
    soft = Image.Resampling.BOX if shrinks else Image.Resampling.BILINEAR
    inside[-2] = resize(target * np.uint8(255), at.inner, soft)
    inside[-1] = _inner_fov(store, source, at)
    return planes


def working_fov(store: Store, source: int, at: Frame) -> np.ndarray:
    """The last of `working_planes` without the others: uint8 (h, w), 0 or 1."""
    fov = np.zeros(at.shape, dtype=np.uint8)
    (top, left), (height, width) = at.offset, at.inner
    fov[top : top + height, left : left + width] = _inner_fov(store, source, at)
    return fov


def _inner_fov(store: Store, source: int, at: Frame) -> np.ndarray:
    fov = np.ascontiguousarray(store.fov(source, at.box))
    return resize(fov, at.inner, Image.Resampling.NEAREST)


def native_patch(store: Store, source: int, at: Frame, y: int, x: int, size: int) -> np.ndarray:
    """One patch of a source that is not resized, read without the rest of the source.

    Returns:
        uint8 (C + 2, size, size), the same bytes as that window of `working_planes`.
    """
    (top, left), (height, width), (y0, x0) = at.offset, at.inner, at.box[:2]
    above, before = max(0, top - y), max(0, left - x)
    rows, columns = min(size, top + height - y), min(size, left + width - x)
    planes = np.zeros((store.sources[source].channels + 2, size, size), dtype=np.uint8)
    if rows <= above or columns <= before:
        return planes
    window = (
        y0 + y + above - top,
        x0 + x + before - left,
        y0 + y + rows - top,
        x0 + x + columns - left,
    )
    inside = planes[:, above:rows, before:columns]
    inside[:-2] = np.moveaxis(store.image(source, window), 2, 0)
    inside[-2] = store.target(source, window) * np.uint8(255)
    inside[-1] = store.fov(source, window)
    return planes


def patch_positions(view: View, fov: np.ndarray) -> np.ndarray:
    """Upper left corners of the patches of one source, row by row.

    Patches start every `stride` px from the upper left, and the last of a row or column is flush
    with the border, so that all of the source is covered. Kept are those with at least `min_fov` of
    their area in the fov.

    Args:
        view: Patch, stride, least share of fov.
        fov: uint8 (h, w) at the working resolution, 0 or 1.

    Returns:
        int32 (k, 2): y, x. One (0, 0) for whole sources; none when no patch has enough fov.
    """
    if view.patch == "full":
        return np.zeros((1, 2), dtype=np.int32)
    size, (height, width) = view.patch, fov.shape
    stride = view.stride or size
    ys, xs = (_starts(side, size, stride) for side in (height, width))
    # Sums over all windows from one table of running sums.
    table = np.zeros((height + 1, width + 1), dtype=np.int64)
    table[1:, 1:] = fov.astype(np.int64).cumsum(axis=0).cumsum(axis=1)
    y, x = np.meshgrid(ys, xs, indexing="ij")
    inside = table[y + size, x + size] - table[y, x + size] - table[y + size, x] + table[y, x]
    keep = inside >= view.min_fov * size * size
    return np.stack([y[keep], x[keep]], axis=1).astype(np.int32)


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
    stride = view.stride or view.patch
    rows, columns = (len(_starts(side, view.patch, stride)) for side in at.shape)
    return rows * columns


@dataclass(frozen=True)
class SampleIndex:
    """Which window of which source each sample is.

    Attributes:
        source: int32 (n,), index of the source in its store.
        y: int32 (n,), upper edge in working px.
        x: int32 (n,), left edge in working px.
    """

    source: np.ndarray
    y: np.ndarray
    x: np.ndarray

    def __len__(self) -> int:
        return len(self.source)


def sample_index(store: Store, view: View, sources: Sequence[int]) -> SampleIndex:
    """The samples of some sources, in their order, patches row by row.

    Raises:
        UserError: Not one sample has enough fov.
    """
    frames = sample_frames(store.sources, view)
    owner, corners = [], []
    for source in sources:
        found = patch_positions(view, working_planes(store, source, frames[source])[-1])
        owner.append(np.full(len(found), source, dtype=np.int32))
        corners.append(found)
    if not sum(len(part) for part in corners):
        raise no_samples(view, str(store.path))
    corner = np.concatenate(corners)
    return SampleIndex(np.concatenate(owner), corner[:, 0].copy(), corner[:, 1].copy())


def no_samples(view: View, path: str) -> UserError:
    """The error of a store whose every patch has too little fov."""
    return UserError(
        f"no patch of {view.patch} px has {view.min_fov:g} of its area in the field of view",
        where=path,
        hint="lower data.min_fov or data.patch",
    )


def image_view(view: View) -> View:
    """The view of whole images: what patches are cut does not change it."""
    return replace(view, patch="full", stride=None, min_fov=0.0)
