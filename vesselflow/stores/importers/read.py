"""Reads the files of a listing into sources, and refuses every picture that would mislead."""

from __future__ import annotations

import gzip
import hashlib
import io
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from scipy import ndimage

from vesselflow.errors import UserError
from vesselflow.stores.importers.listing import Item, Listing
from vesselflow.stores.schema import Bytes, Source

#: Called after each source: done, total, name of the source.
Progress = Callable[[int, int, str], None]

_EXIF_ORIENTATION = 274
#: How far from the background to the retina's brightness the edge of the estimated fov lies.
_FOV_LEVEL = 0.15


def read_sources(listing: Listing, progress: Progress | None = None) -> Iterator[Source]:
    """Read the sources of a listing, one at a time.

    Raises:
        UserError: a file that cannot be decoded, sizes that differ, a mask that is not binary.
    """
    for number, item in enumerate(listing.items, start=1):
        yield read_source(item)
        if progress is not None:
            progress(number, len(listing.items), item.id)


def read_source(item: Item) -> Source:
    """Read one source: image uint8 (H, W, C), target and fov uint8 (H, W), 0 or 1.

    Raises:
        UserError: as `read_sources`.
    """
    image, image_hash = _decode(item.image)
    pixels = _image_array(image, item.image)
    mask, target_hash = _decode(item.target)
    target = _mask_array(mask, item.target)
    _same_size(item.image, pixels, item.target, target)
    files = {
        "image": {"name": item.image.name, "sha256": image_hash},
        "target": {"name": item.target.name, "sha256": target_hash},
    }
    if item.fov is not None:
        mask, fov_hash = _decode(item.fov)
        fov = _mask_array(mask, item.fov)
        _same_size(item.image, pixels, item.fov, fov)
        files["fov"] = {"name": item.fov.name, "sha256": fov_hash}
        if not fov.any():
            raise UserError(
                "the fov mask is empty",
                where=str(item.fov),
                allowed="one pixel or more inside the field of view",
            )
        kind = "mask"
    elif item.missing_fov == "estimate":
        fov, kind = estimate_fov(pixels), "estimated"
    else:
        fov, kind = np.ones(pixels.shape[:2], np.uint8), "full"
    return Source(
        id=item.id,
        group=item.group,
        split=item.split,
        image=pixels,
        target=target,
        fov=fov,
        lineage={"files": files, "fov": kind},
    )


def estimate_fov(image: Bytes) -> Bytes:
    """Estimate the field of view of a fundus photograph from its dark surround.

    Background is the median of the four corners (squares of a twentieth of the shorter side). A
    pixel belongs to the fov where the first channel (red, in which the retina is brightest),
    smoothed over 1/120 of the shorter side, exceeds the background by 15 % of the way to the 95th
    percentile; the largest connected part is kept and its holes are filled. Against the masks that
    others derived for CHASE_DB1 and STARE the worst intersection over union is 0.96, the mean 0.99.

    Args:
        image: uint8 (H, W, C).

    Returns:
        uint8 (H, W), 0 or 1. An image whose corners are as bright as the rest counts whole.
    """
    whole = np.ones(image.shape[:2], np.uint8)
    shorter = min(image.shape[:2])
    red = ndimage.uniform_filter(image[:, :, 0].astype(np.float64), size=max(3, shorter // 120))
    side = max(1, shorter // 20)
    ends = (slice(None, side), slice(-side, None))
    background = float(np.median([red[rows, columns] for rows in ends for columns in ends]))
    retina = float(np.percentile(red, 95))
    if background > 0.5 * retina:
        return whole
    parts, _ = ndimage.label(red > background + _FOV_LEVEL * (retina - background))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    if not sizes.any():
        return whole
    return np.asarray(ndimage.binary_fill_holes(parts == sizes.argmax()), np.uint8)


def _decode(path: Path) -> tuple[Image.Image, str]:
    """Decode a picture completely; also the sha256 of its file."""
    where = str(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=where) from error
    if not data:
        raise UserError("the file is empty", where=where, hint="fetch the file again")
    content = data
    try:
        if path.name.lower().endswith(".gz"):
            content = gzip.decompress(data)
        with warnings.catch_warnings():
            # Pillow warns about odd metadata; what matters here are the pixels.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content))
            image.load()
    except UnidentifiedImageError:
        raise UserError(
            "not an image that can be read", where=where, hint="fetch the file again"
        ) from None
    except Image.DecompressionBombError:
        raise UserError(
            "the image is larger than 178 million pixels",
            where=where,
            hint="cut it into parts",
        ) from None
    except (OSError, EOFError, zlib.error, ValueError, SyntaxError, IndexError) as error:
        raise UserError(
            f"the image is corrupt or truncated ({str(error) or type(error).__name__})",
            where=where,
            hint="fetch the file again",
        ) from error
    return image, hashlib.sha256(data).hexdigest()


def _image_array(image: Image.Image, path: Path) -> Bytes:
    """Pixels as uint8 (H, W, 3) for colour, (H, W, 1) for grey."""
    where = str(path)
    orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    if orientation != 1:
        # Which way the mask was drawn cannot be known: before or after turning.
        raise UserError(
            f"the image is stored turned (EXIF orientation {orientation})",
            where=where,
            hint="save it upright, without the EXIF tag",
        )
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        with_alpha = image.convert("RGBA")
        if np.asarray(with_alpha.getchannel("A")).min() < 255:
            raise UserError(
                "the image has transparent pixels", where=where, hint="save it without alpha"
            )
        grey = image.mode in ("LA", "L")
        image = with_alpha.convert("L" if grey else "RGB")
    if image.mode == "P":
        image = image.convert("RGB")
    if image.mode in ("L", "1"):
        return np.asarray(image.convert("L"))[:, :, None]
    if image.mode != "RGB":
        raise UserError(
            f"pixels of type {image.mode} are not supported",
            where=where,
            allowed="8-bit RGB or grey",
            hint="convert the image to 8 bits per channel",
        )
    return np.asarray(image)


def _mask_array(mask: Image.Image, path: Path) -> Bytes:
    """A binary mask as uint8 (H, W), 0 or 1.

    Grey values 0/255 and 0/1, 1-bit images, and colour images whose channels are equal are taken.
    A palette is taken only when the colours in use are the greys 0/255 or 0/1 (DRIVE's GIFs): the
    index of any other colour says nothing about vessels.
    """
    where = str(path)
    binary = "a binary mask: 0 and 255, or 0 and 1"
    palette = mask.mode in ("P", "PA")
    if palette or mask.mode in ("RGB", "RGBA", "LA"):
        alpha = mask.mode in ("RGBA", "LA", "PA") or "transparency" in mask.info
        if alpha and np.asarray(mask.convert("RGBA").getchannel("A")).min() < 255:
            raise UserError("the mask has transparent pixels", where=where, allowed=binary)
        colours = np.asarray(mask.convert("RGB"))
        if (colours != colours[:, :, :1]).any():
            used = np.unique(colours.reshape(-1, 3), axis=0)
            shown = ", ".join(str(tuple(int(v) for v in colour)) for colour in used[:4])
            more = ", ..." if len(used) > 4 else ""
            raise UserError(
                f"the mask is {'a palette image' if palette else 'coloured'} ({shown}{more})",
                where=where,
                allowed=binary,
                hint="save it as one grey channel with vessel 255 and background 0",
            )
        values: NDArray[Any] = colours[:, :, 0]
    else:
        values = np.asarray(mask)
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    found = np.unique(values)
    for high in (1, 255):
        if np.isin(found, (0, high)).all():
            return (values == high).astype(np.uint8)
    odd = [value for value in found.tolist() if value not in (0, 255)]
    shown = ", ".join(f"{value:g}" for value in odd[:8]) + (", ..." if len(odd) > 8 else "")
    lossy = path.suffix.lower() in (".jpg", ".jpeg")
    hint = "JPEG does not keep a mask's values: use PNG" if lossy else "threshold it first"
    raise UserError(
        f"the {'palette ' if palette else ''}mask is not binary, it also holds {shown}",
        where=where,
        allowed=binary,
        hint=hint,
    )


def _same_size(image: Path, pixels: Bytes, other: Path, mask: Bytes) -> None:
    if pixels.shape[:2] != mask.shape:
        (height, width), (mask_height, mask_width) = pixels.shape[:2], mask.shape
        raise UserError(
            f"is {mask_width} x {mask_height} px, its image {image.name} {width} x {height} px",
            where=str(other),
            allowed="a mask of the size of its image",
            hint="fetch the pair again, or draw the mask again at that size",
        )
