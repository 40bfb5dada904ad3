"""Pictures of a store for `vesselflow data inspect --png`: every image beside its target."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vesselflow.cli.data_inspect import counted
from vesselflow.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from vesselflow.stores.store import Store

#: The contact sheet: about this wide, this many pairs in a row, at most this many sources.
SHEET_PX = 1600
SHEET_COLUMNS = 3
SHEET_SOURCES = 60
#: Frame and caption of a source with suspicions.
DOUBT_COLOUR = (205, 30, 30)


def contact_sheet(store: Store) -> Image.Image:
    """A picture of the store: each source with its fov outlined, and with its target overlaid.

    Args:
        store: An open store of images with masks.

    Returns:
        RGB image about `SHEET_PX` wide; the first `SHEET_SOURCES` sources, and a note about the
        rest. Sources that look wrong have a red frame and say why.
    """
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from vesselflow.stores.store import suspicions

    shown = store.sources[:SHEET_SOURCES]
    columns = min(SHEET_COLUMNS, len(shown))
    margin, gap, caption = 24, 6, 26
    cell = (SHEET_PX - margin * (SHEET_COLUMNS + 1)) // SHEET_COLUMNS
    side = (cell - gap) // 2
    tallest = max(source.height / source.width for source in shown)
    tile = min(round(side * tallest), 2 * side)
    title_height = 76
    rows = -(-len(shown) // columns)
    more = len(store.sources) - len(shown)
    height = title_height + rows * (tile + caption + margin) + (40 if more else 0)
    width = max(margin + columns * (cell + margin), 620)
    sheet = Image.new("RGB", (width, height), (250, 250, 248))
    draw = ImageDraw.Draw(sheet)
    big, small = ImageFont.load_default(24), ImageFont.load_default(14)
    groups = len({source.group for source in store.sources})
    draw.text((margin, 16), store.domain, fill=(20, 20, 20), font=big)
    line = f"{counted(len(store))} in {groups} groups, digest {store.digest[:12]}"
    draw.text((margin, 48), f"{line}; left: fov outline, right: target", (110,) * 3, font=small)
    for number, source in enumerate(shown):
        left = margin + (number % columns) * (cell + margin)
        top = title_height + (number // columns) * (tile + caption + margin)
        image, target, fov = (
            np.asarray(read(source.index)) for read in (store.image, store.target, store.fov)
        )
        if target.ndim > fov.ndim:
            target = target.max(axis=-1)
        target = (target > 0).astype(np.uint8)
        share = 100 * float(target[fov > 0].mean())
        doubts = suspicions(image, target, fov)
        scale = min(side / source.width, tile / source.height)
        size = (max(1, round(source.width * scale)), max(1, round(source.height * scale)))
        image = image if image.dtype == np.uint8 else in_grey(image)
        pixels = image[:, :, :3] if source.channels >= 3 else image[:, :, :1].repeat(3, axis=2)
        plain = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.LANCZOS)
        # Reduced masks keep their share of each pixel, so thin vessels stay visible as tints.
        cover, inside = (
            np.asarray(Image.fromarray(mask * 255).resize(size, Image.Resampling.BOX)) / 255.0
            for mask in (target, fov)
        )
        ring = (inside >= 0.5) ^ _eroded(inside >= 0.5)
        outlined = np.where(ring[:, :, None], (90, 235, 255), np.asarray(plain))
        grey = np.asarray(plain.convert("L"))[:, :, None] * np.array([0.75, 0.75, 0.75])
        alpha = np.clip(1.3 * cover, 0, 1)[:, :, None]
        overlaid = grey * (1 - alpha) + np.array([70.0, 255.0, 130.0]) * alpha
        for x, picture in ((left, outlined), (left + side + gap, overlaid)):
            sheet.paste(Image.fromarray(np.rint(picture).astype(np.uint8)), (x, top))
        split = f", {source.split}" if source.split else ""
        text = f"{source.id}  (group {source.group}{split})  {share:.1f} % vessel"
        if doubts:
            text = f"{', '.join(doubts)}!  {text}"
            box = (left - 4, top - 4, left + cell + 3, top + size[1] + 3)
            draw.rectangle(box, outline=DOUBT_COLOUR, width=3)
        while draw.textlength(text, font=small) > cell and len(text) > 8:
            text = text[:-4] + "..."
        colour = DOUBT_COLOUR if doubts else (60, 60, 60)
        draw.text((left, top + size[1] + 5), text, fill=colour, font=small)
    if more:
        note = f"{more} more not shown"
        draw.text((margin, height - 40), note, fill=(110, 110, 110), font=small)
    return sheet


def _eroded(mask: Any) -> Any:
    """The mask without its outermost ring of pixels (two px, so that the outline can be seen)."""
    from scipy import ndimage

    return ndimage.binary_erosion(mask, iterations=2)


def in_grey(values: Any) -> Any:
    """Any values as uint8 of the same shape; the 1st percentile becomes 0, the 99th 255."""
    import numpy as np

    low, high = np.percentile(values, [1, 99])
    scaled = (values.astype(np.float64) - low) / max(float(high - low), 1e-12)
    return np.rint(255 * np.clip(scaled, 0, 1)).astype(np.uint8)


def save_png(image: Image.Image, path: Path) -> None:
    """Write a picture, whole or not at all.

    Raises:
        UserError: it cannot be written.
    """
    from vesselflow.records.atomic import write_bytes

    picture = io.BytesIO()
    image.save(picture, format="PNG")
    try:
        write_bytes(path, picture.getvalue())
    except OSError as error:
        raise UserError(f"cannot be written: {error.strerror or error}", where=str(path)) from error
