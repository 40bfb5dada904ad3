"""Pictures of what a network is given, for `vesselflow data inspect SPACE --augment POINT`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vesselflow.cli.data_points import CLASS_COLOURS
from vesselflow.cli.data_sheet import SHEET_PX

if TYPE_CHECKING:
    from PIL import Image

    from vesselflow.sweeps.given import Drawn, Look

#: Samples in a row and on a sheet.
COLUMNS, SAMPLES = 2, 12
#: The only class of a mask, in an overlay.
VESSEL_COLOUR = (70, 255, 130)
#: What lies outside the fov: this much of it is left, the rest is of this colour.
SHADE, SHADE_COLOUR = 0.25, (70.0, 60.0, 110.0)
#: How much of a pixel the target covers at most.
COVER = 0.55
#: Slices on each side of the middle one whose keypoints are shown.
NEAR = 6
_MARGIN, _GAP, _CAPTION, _TITLE = 24, 6, 46, 76


def given_sheet(drawn: Sequence[Drawn], title: str) -> Image.Image:
    """Samples as they are stored, as the network is given them, and that with their target.

    The first picture has the target over it as well, so that the two can be compared; the last
    has what the loss is given. Outside the fov all are shaded. Keypoints are circles. Of volumes
    it is the middle slice.

    Args:
        drawn: Of `vesselflow.sweeps.given.given`.
        title: In large letters above.

    Returns:
        RGB image about `SHEET_PX` wide.
    """
    from PIL import Image, ImageDraw, ImageFont

    cell = (SHEET_PX - _MARGIN * (COLUMNS + 1)) // COLUMNS
    side = (cell - 2 * _GAP) // 3
    height, width = drawn[0].after.fov.shape[-2:]
    size = (side, round(side * height / width))
    rows = -(-len(drawn) // COLUMNS)
    sheet = Image.new(
        "RGB", (SHEET_PX, _TITLE + rows * (size[1] + _CAPTION + _MARGIN)), (250, 250, 248)
    )
    draw = ImageDraw.Draw(sheet)
    big, small = ImageFont.load_default(24), ImageFont.load_default(14)
    draw.text((_MARGIN, 14), title, fill=(20, 20, 20), font=big)
    slices = ", the middle slice" if drawn[0].after.fov.ndim == 3 else ""
    told = "as stored, with its target; as the network is given it; the same with what the loss is"
    draw.text((_MARGIN, 46), f"{told} given{slices}", fill=(110, 110, 110), font=small)
    for number, sample in enumerate(drawn):
        left = _MARGIN + (number % COLUMNS) * (cell + _MARGIN)
        top = _TITLE + (number // COLUMNS) * (size[1] + _CAPTION + _MARGIN)
        for place, (look, marked) in enumerate(
            ((sample.before, True), (sample.after, False), (sample.after, True))
        ):
            sheet.paste(_picture(look, size, marked), (left + place * (side + _GAP), top))
        for line, text in enumerate((sample.name, ", ".join(sample.parts) or "as it is")):
            while draw.textlength(text, font=small) > cell:
                text = text[:-4] + "..."
            grey = 60 if line == 0 else 110
            draw.text(
                (left, top + size[1] + 5 + 18 * line), text, fill=(grey, grey, grey), font=small
            )
    return sheet


def _picture(look: Look, size: tuple[int, int], marked: bool) -> Image.Image:
    """One of them, (width, height) px."""
    import numpy as np
    from PIL import Image, ImageDraw

    middle = None if look.fov.ndim == 2 else look.fov.shape[0] // 2
    depth = 1 if middle is None else look.fov.shape[0]
    image, fov, target = (
        each if middle is None else each[..., middle * each.shape[-3] // depth, :, :]
        for each in (look.image, look.fov, look.target)
    )
    inside = fov > 0
    shown = image[:3] if len(image) >= 3 else image[:1].repeat(3, axis=0)
    pixels = _resized(np.moveaxis(_levels(shown, inside), 0, -1), size, smooth=True)
    outside = 1 - _resized(inside.astype(np.uint8) * 255, size)[..., None] / 255
    pixels += outside * (1 - SHADE) * (np.array(SHADE_COLOUR) - pixels)
    if marked:
        for kind, plane in enumerate(target):
            share = np.rint(255 * np.clip(plane, 0, 1)).astype(np.uint8)
            cover = COVER * _resized(share, size)[..., None] / 255
            pixels += cover * (np.array(_colour(kind, len(target))) - pixels)
    picture = Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))
    if marked:
        draw = ImageDraw.Draw(picture)
        for place, kind in zip(look.points, look.classes.tolist(), strict=True):
            if middle is not None and abs(place[0] - middle) > NEAR:
                continue
            scale = (size[1] / look.fov.shape[-2], size[0] / look.fov.shape[-1])
            y, x = (place[-2:] + 0.5) * scale
            reach = max(4, size[0] // 45)
            box = (x - reach, y - reach, x + reach, y + reach)
            draw.ellipse(box, outline=_colour(kind, 2), width=1)
    return picture


def _colour(kind: int, classes: int) -> tuple[int, int, int]:
    return VESSEL_COLOUR if classes == 1 else CLASS_COLOURS[kind % len(CLASS_COLOURS)]


def _levels(image: Any, inside: Any) -> Any:
    """Any values as uint8 of the same shape: the 1st percentile of the fov becomes 0, the 99th 255.

    All channels by the same two, so that their colours stay.
    """
    import numpy as np

    seen = image[:, inside] if inside.any() else image
    low, high = np.nanpercentile(seen.astype(np.float64), [0.5, 99.5])
    scaled = (image.astype(np.float64) - low) / max(float(high - low), 1e-12)
    return np.rint(255 * np.nan_to_num(np.clip(scaled, 0, 1))).astype(np.uint8)


def _resized(plane: Any, size: tuple[int, int], *, smooth: bool = False) -> Any:
    """A plane (H, W) or (H, W, 3) of uint8 at (width, height), as float64."""
    import numpy as np
    from PIL import Image

    # Cells of a coarse grid are to be seen as such, and thin vessels keep their share.
    way = Image.Resampling.BICUBIC if smooth else Image.Resampling.BOX
    picture = Image.fromarray(np.ascontiguousarray(plane)).resize(size, way)
    return np.asarray(picture, np.float64).copy()
