"""Pictures of volumes and of keypoints for `vesselflow data inspect --png`: three planes each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vesselflow.cli.data_distances import distance_text, nearest, spacing_text, spread
from vesselflow.cli.data_inspect import counted
from vesselflow.cli.data_points import (
    CLASS_COLOURS,
    Distances,
    histogram,
    rendered,
    target_plane,
)
from vesselflow.cli.data_sheet import DOUBT_COLOUR, in_grey

if TYPE_CHECKING:
    from PIL import Image

    from vesselflow.stores.store import SourceInfo, Store

#: At most this many sources, one a row; each plane at most this wide and high.
PLANES_SOURCES = 12
PLANE_PX = 420
#: The same where the target stands beside each plane.
PAIRED_PX = 300
#: Standard deviations that a keypoint's circle is wide, and within which of a plane it is shown.
CIRCLE = 2.0
#: Height of the histogram of distances.
HISTOGRAM_PX = 190
#: Voxels on each side of the plane through the centre that are averaged with it, against noise.
SLAB = 2
#: Vessels in an overlay.
VESSEL_COLOUR = (70.0, 255.0, 130.0)
_MARGIN, _GAP, _CAPTION = 24, 8, 30


def planes_sheet(store: Store, distances: Distances) -> Image.Image:
    """A picture of a store of volumes or keypoints, one source a row.

    Of volumes with masks the three maximum projections, with the mask's over them; of volumes with
    keypoints the three planes through the centre, each the mean of a few, with the keypoints near
    them as circles of two standard deviations; of images with keypoints the image. Beside a plane
    with keypoints stands their target, rendered on the grid that the store declares, and below all
    of them how far keypoints are from each other. Planes have the proportions of the specimen where
    the spacing is known.

    Args:
        store: An open store.
        distances: Of `apart`.

    Returns:
        RGB image; the first `PLANES_SOURCES` sources, and a note about the rest.
    """
    from PIL import Image, ImageDraw, ImageFont

    shown = store.sources[:PLANES_SOURCES]
    rows = [_row(store, source) for source in shown]
    widths = [sum(plane.width + _GAP for plane in row) for row in rows]
    heights = [max(plane.height for plane in row) for row in rows]
    title, more = 76, len(store.sources) - len(shown)
    width = max(*widths, 900)
    below = histogram(store, distances, width, HISTOGRAM_PX)
    height = title + sum(side + _CAPTION + _MARGIN for side in heights) + (40 if more else 0)
    foot, height = height, height + (below.height + _MARGIN if below else 0)
    sheet = Image.new("RGB", (width + 2 * _MARGIN, height), (250, 250, 248))
    draw = ImageDraw.Draw(sheet)
    big, small = ImageFont.load_default(24), ImageFont.load_default(14)
    draw.text((_MARGIN, 14), store.domain, fill=(20, 20, 20), font=big)
    line = f"{counted(len(store))}, digest {store.digest[:12]}; {_what(store)}"
    draw.text((_MARGIN, 46), line, fill=(110, 110, 110), font=small)
    left = _MARGIN + draw.textlength(line, font=small) + 24
    for number, name in enumerate(store.layout.classes if store.kind == "keypoint" else ()):
        colour = CLASS_COLOURS[number % len(CLASS_COLOURS)]
        draw.ellipse((left, 47, left + 13, 60), outline=colour, width=3)
        draw.text((left + 18, 46), name, fill=(60, 60, 60), font=small)
        left += 40 + draw.textlength(name, font=small)
    top = title
    for source, row, side in zip(shown, rows, heights, strict=True):
        left = _MARGIN
        for plane in row:
            sheet.paste(plane, (round(left), top))
            left += plane.width + _GAP
        text, doubtful = _caption(store, source)
        colour = DOUBT_COLOUR if doubtful else (60, 60, 60)
        draw.text((_MARGIN, top + side + 5), text, fill=colour, font=small)
        top += side + _CAPTION + _MARGIN
    if more:
        note = f"{more} more not shown"
        draw.text((_MARGIN, foot - 40), note, fill=(110, 110, 110), font=small)
    if below is not None:
        sheet.paste(below, (_MARGIN, foot))
    return sheet


def _what(store: Store) -> str:
    if store.kind == "patch":
        return "maximum along z, y and x, the target over it"
    target = f"beside it the target, in cells of {store.layout.ds_factor} px"
    circles = f"keypoints as circles of {CIRCLE:g} sigma, {target}"
    if store.layout.dims == 2:
        return circles
    return f"planes z, y and x through the centre, means of {2 * SLAB + 1}; {circles}"


def _caption(store: Store, source: SourceInfo) -> tuple[str, bool]:
    """A line about a source, and whether something looks wrong with it."""
    from vesselflow.stores.store import suspicions

    target = store.target(source.index) if store.kind == "patch" else None
    fov = store.fov(source.index)
    held = store.keypoints(source.index) if store.kind == "keypoint" else None
    doubts = suspicions(store.image(source.index), target, fov, held)
    split = f", {source.split}" if source.split else ""
    sizes = " x ".join(map(str, source.shape[::-1]))
    parts = [f"{source.id}  (group {source.group}{split})  {sizes}"]
    if source.spacing_um is not None:
        parts.append(f"{spacing_text(source.spacing_um)} um a voxel")
    if target is not None:
        drawn: Any = target > 0 if target.ndim == fov.ndim else target.any(axis=-1)
        parts.append(f"{100 * float(drawn[fov > 0].mean()):.1f} % vessel")
    else:
        counts = zip(store.layout.classes, source.keypoint_counts, strict=True)
        parts.append(", ".join(f"{name}: {count}" for name, count in counts))
        found = None if held is None else spread(nearest(held, source.spacing_um))
        if found:
            text = distance_text(found, source.spacing_um, short=False)
            parts.append(f"nearest neighbour {text}")
    text = ", ".join(parts)
    return (f"{', '.join(doubts)}!  {text}" if doubts else text), bool(doubts)


def _row(store: Store, source: SourceInfo) -> list[Image.Image]:
    """The planes of a source: across z, y and x of a volume, or the image itself."""
    image = store.image(source.index)[..., 0].astype("float64")
    spacing = source.spacing_um or (1.0,) * len(source.shape)
    axes = range(3) if image.ndim == 3 else (None,)
    points = store.kind == "keypoint"
    target = rendered(store, source) if points else None
    scale = (PAIRED_PX if points else PLANE_PX) / max(
        n * size for n, size in zip(source.shape, spacing, strict=True)
    )
    planes = []
    for axis in axes:
        kept = [k for k in range(image.ndim) if k != axis]
        size = [max(1, round(source.shape[k] * spacing[k] * scale)) for k in kept]
        if store.kind == "patch":
            target = store.target(source.index)
            drawn = (target > 0 if target.ndim == image.ndim else target.any(axis=-1)) * 1.0
            planes.append(_overlaid(image.max(axis=axis), drawn.max(axis=axis), size))
        else:
            plane = _slab(image, axis)
            planes.append(_marked(store, source, plane, axis, size, scale, spacing))
            planes.append(target_plane(target, source, axis, store.layout.ds_factor, size))
    return planes


def _slab(image: Any, axis: int | None) -> Any:
    """The plane through the centre across an axis, averaged with a few beside it."""
    if axis is None:
        return image
    middle = image.shape[axis] // 2
    part = [slice(None)] * 3
    part[axis] = slice(max(0, middle - SLAB), middle + SLAB + 1)
    return image[tuple(part)].mean(axis=axis)


def _resized(plane: Any, size: Sequence[int]) -> Image.Image:
    """A plane of uint8 at a size of (height, width)."""
    import numpy as np
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(plane))
    return picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)


def _overlaid(image: Any, target: Any, size: Sequence[int]) -> Image.Image:
    import numpy as np
    from PIL import Image

    grey = np.asarray(_resized(in_grey(image), size), np.float64)[:, :, None]
    cover = np.asarray(_resized((255 * target).astype(np.uint8), size)) / 255.0
    # Both are to be seen: the image through the mask, and where it has none.
    mixed = grey * (1 - 0.35 * cover[:, :, None]) + 0.35 * cover[:, :, None] * VESSEL_COLOUR
    return Image.fromarray(np.rint(np.clip(mixed, 0, 255)).astype(np.uint8))


def _marked(
    store: Store,
    source: SourceInfo,
    plane: Any,
    axis: int | None,
    size: Sequence[int],
    scale: float,
    spacing: Sequence[float],
) -> Image.Image:
    """A plane with the keypoints that are near it, as circles in the colours of their classes."""
    from PIL import ImageDraw

    picture = _resized(in_grey(plane), size).convert("RGB")
    draw = ImageDraw.Draw(picture)
    held = store.keypoints(source.index)
    kept = [k for k in range(len(source.shape)) if k != axis]
    for place, kind in zip(held.positions, held.classes.tolist(), strict=True):
        radius = _radius(store, source, kind) / max(spacing)
        if axis is not None and abs(place[axis] - (source.shape[axis] - 1) / 2) > radius:
            continue
        y, x = ((place[k] + 0.5) * spacing[k] * scale for k in kept)
        reach = max(3.0, radius * max(spacing) * scale)
        box = (x - reach, y - reach, x + reach, y + reach)
        draw.ellipse(box, outline=CLASS_COLOURS[kind % len(CLASS_COLOURS)], width=2)
    return picture


def _radius(store: Store, source: SourceInfo, kind: int) -> float:
    """`CIRCLE` deviations of a keypoint's Gaussian, in micrometres or, without spacing, px."""
    layout = store.layout
    for sigma, unit in (
        (layout.sigma_angstrom, 1e-4 if source.spacing_um else None),
        (layout.ds_sigma, layout.ds_factor * max(source.spacing_um or (1.0,))),
    ):
        if sigma is not None and unit is not None:
            return CIRCLE * unit * (sigma[kind] if isinstance(sigma, tuple) else sigma)
    spacing = source.spacing_um or (1.0,) * len(source.shape)
    return 0.03 * max(n * size for n, size in zip(source.shape, spacing, strict=True))
