"""Reads the files of a listing into sources, and refuses every picture that would mislead."""

from __future__ import annotations

import gzip
import hashlib
import io
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from scipy import ndimage

from vesselflow.errors import UserError
from vesselflow.stores.importers.deep import bits_of, deep_values, scaled, window_option
from vesselflow.stores.importers.listing import Conversion, Item, Listing
from vesselflow.stores.schema import UNLABELLED, Bytes, Source

#: Called after each source: done, total, name of the source.
Progress = Callable[[int, int, str], None]

_EXIF_ORIENTATION, _TIFF_SUBFILE = 274, 254
_TIFF_HEADS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
#: What is decoded, whatever the file is called: of other formats the depth would not be known.
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "PPM", "WEBP")
_BINARY = "a binary mask: 0 and 255, or 0 and 1"
_GREY_HINT = "save it as one grey channel with vessel 255 and background 0"
#: How many values of a mask a message lists; a mask with more is no label image.
_SHOWN = 8
#: How far from the background to the retina's brightness the edge of the estimated fov lies.
_FOV_LEVEL = 0.15


def read_sources(listing: Listing, progress: Progress | None = None) -> Iterator[Source]:
    """Read the sources of a listing, one at a time.

    Raises:
        UserError: a file that cannot be decoded, sizes that differ, a mask that is not binary.
    """
    for number, item in enumerate(listing.items, start=1):
        try:
            if listing.read is not None:
                source = listing.read(item)
            else:
                source = read_source(item, listing.conversion or Conversion())
        except UserError as error:
            plain = listing.conversion is None and listing.read is None
            if not plain or "--" not in error.hint:
                raise
            hint = "the layout 'folder' has options for such files"
            raise UserError(
                error.what, where=error.where, allowed=error.allowed, hint=hint
            ) from None
        yield source
        if progress is not None:
            progress(number, len(listing.items), item.id)


def read_source(item: Item, conversion: Conversion) -> Source:
    """Read one source: image uint8 (H, W, C), target and fov uint8 (H, W), 0 or 1.

    The target of an item without a mask is 0. The lineage names the files with their sha256, says
    so, how the fov was found ("mask", "estimated", "full"), and where they were used the window
    with the share of values it clipped, the threshold, and the values taken for vessel with those
    taken for background.

    Raises:
        UserError: as `read_sources`.
    """
    picture = _decode(item.image)
    pixels, scaling = _image_array(picture, conversion.window)
    files = {"image": {"name": item.image.name, "sha256": picture.sha256}}
    if item.target is None:
        target, rule = np.zeros(pixels.shape[:2], np.uint8), {UNLABELLED: True}
    else:
        drawn = _decode(item.target)
        target, rule = _mask_array(drawn, conversion, vessels=True)
        _same_size(item.image, pixels, item.target, target)
        files["target"] = {"name": item.target.name, "sha256": drawn.sha256}
    if item.fov is not None:
        drawn = _decode(item.fov)
        fov, _ = _mask_array(drawn, conversion, vessels=False)
        _same_size(item.image, pixels, item.fov, fov)
        files["fov"] = {"name": item.fov.name, "sha256": drawn.sha256}
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
        lineage={"files": files, "fov": kind, **scaling, **rule},
        spacing_um=item.spacing_um,
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


@dataclass(frozen=True)
class _Picture:
    """A decoded file.

    Attributes:
        path: Where it was read.
        sha256: Hash of the file.
        image: As Pillow decodes it.
        deep: The full values (H, W, C) where the file has more than 8 bits a channel, else None.
    """

    path: Path
    sha256: str
    image: Image.Image
    deep: NDArray[Any] | None


def _decode(path: Path) -> _Picture:
    """Decode a picture completely; refuse what holds several, or is stored turned."""
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
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
            pages = _pages(image)
            # Before decoding: Pillow turns TIFF files as it decodes them.
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
            if pages == 1 and orientation == 1:
                image.load()
    except UnidentifiedImageError:
        tiff = content[:4] in _TIFF_HEADS
        raise UserError(
            "this kind of TIFF file cannot be read" if tiff else "not an image that can be read",
            where=where,
            hint="save it as PNG, 8 or 16 bits per channel" if tiff else "fetch the file again",
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
    if pages != 1:
        raise UserError(
            f"the file holds {pages} pictures",
            where=where,
            allowed="one picture per file",
            hint="save each as a file of its own, or only the one that is meant",
        )
    if orientation != 1:
        # Which way the mask was drawn cannot be known: before or after turning.
        raise UserError(
            f"is stored turned (EXIF orientation {orientation})",
            where=where,
            hint="save it upright, without the EXIF tag",
        )
    deep = deep_values(image, content, path) if bits_of(image, content) > 8 else None
    return _Picture(path, hashlib.sha256(data).hexdigest(), image, deep)


def _pages(image: Image.Image) -> int:
    """How many pictures a file holds, previews of reduced size left out.

    The further pictures of a JPEG file (MPO) are previews or depth maps of the first, by its
    standard.
    """
    count = int(getattr(image, "n_frames", 1))
    if count == 1 or image.format in ("JPEG", "MPO"):
        return 1
    if image.format != "TIFF":
        return count
    reduced = []
    for page in range(count):
        image.seek(page)
        reduced.append(bool(getattr(image, "tag_v2", {}).get(_TIFF_SUBFILE, 0) & 1))
    image.seek(0)
    return 1 if not reduced[0] and all(reduced[1:]) else count


def _image_array(
    picture: _Picture, window: tuple[float, float] | None
) -> tuple[Bytes, dict[str, Any]]:
    """Pixels as uint8 (H, W, 3) for colour, (H, W, 1) for grey; what was done, for the lineage."""
    image, where = picture.image, str(picture.path)
    if picture.deep is not None:
        values = picture.deep
        if window is None:
            kind = "16 bits" if values.dtype == np.uint16 else str(values.dtype)
            raise UserError(
                f"has {kind} per channel, values {values.min():g} to {values.max():g}",
                where=where,
                allowed="8 bits per channel",
                hint="--window LOW,HIGH scales such images (one window for all), for example "
                + window_option(values),
            )
        pixels, clipped = scaled(values, window)
        return pixels, {"window": list(window), "clipped_share": clipped}
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
        return np.asarray(image.convert("L"))[:, :, None], {}
    if image.mode != "RGB":
        raise UserError(
            f"pixels of type {image.mode} are not supported",
            where=where,
            allowed="RGB or grey",
            hint="save it as RGB, 8 bits per channel",
        )
    return np.asarray(image), {}


def _mask_array(
    picture: _Picture, conversion: Conversion, *, vessels: bool
) -> tuple[Bytes, dict[str, Any]]:
    """A mask as uint8 (H, W), 0 or 1, and by which rule where one was needed.

    Without a rule grey values 0/255 and 0/1, 1-bit images, and colour images whose channels are
    equal are taken, and a palette only when the colours in use are the greys 0/255 or 0/1 (DRIVE's
    GIFs): the index of any other colour says nothing about vessels. `Conversion.threshold` takes
    further grey masks, `Conversion.values` makes all vessel masks label images.
    """
    path, mask = picture.path, picture.image
    palette = mask.mode in ("P", "PA")
    labels = conversion.values if vessels else None
    if conversion.threshold is not None and not palette:
        labels = None
    values = _indices(mask) if palette and labels else _grey_values(picture, vessels=vessels)
    found = np.unique(values)
    if labels is not None:
        if not palette and values.dtype != np.bool_ and found.tolist() == [0, 255]:
            _refuse_plain(path, labels)
        vessel = [value for value in found.tolist() if value in labels]
        others = [value for value in found.tolist() if value not in labels]
        rule = {"vessel_values": vessel, "background_values": others[: 2 * _SHOWN]}
        return np.isin(values, labels).astype(np.uint8), rule
    if values.dtype == np.bool_:
        return values.astype(np.uint8), {}
    for high in (1, 255):
        if np.isin(found, (0, high)).all():
            return (values == high).astype(np.uint8), {}
    if conversion.threshold is not None:
        chosen = (values >= conversion.threshold).astype(np.uint8)
        return chosen, {"threshold": conversion.threshold} if vessels else {}
    odd = [value for value in found.tolist() if value not in (0, 255)]
    shown = ", ".join(f"{value:g}" for value in odd[:_SHOWN])
    more = ", ..." if len(odd) > _SHOWN else ""
    raise UserError(
        f"the {'palette ' if palette else ''}mask is not binary, it also holds {shown}{more}",
        where=str(path),
        allowed=_BINARY,
        hint=_mask_hint(mask, values, found, vessels=vessels),
    )


def _refuse_plain(path: Path, labels: Collection[int]) -> None:
    """UserError for a plain mask among label images, unless its values are named."""
    if not {0, 255} & set(labels):
        named = ",".join(map(str, labels))
        raise UserError(
            f"the mask holds 0 and 255, of which --values {named} names none",
            where=str(path),
            hint=f"--values {named},255 takes 255 too; with --threshold 128 beside it, --values is "
            "for palette images only",
        )


def _indices(mask: Image.Image) -> NDArray[Any]:
    """The indices of a palette image (H, W)."""
    return np.asarray(mask.getchannel(0) if mask.mode == "PA" else mask)


def _mask_hint(
    mask: Image.Image, values: NDArray[Any], found: NDArray[Any], *, vessels: bool
) -> str:
    """Which option takes a mask of these grey values."""
    highest = found[-1].item()
    eight_bits = values.dtype == np.uint8 and highest >= 128
    half = 128 if eight_bits else highest / 2 if values.dtype.kind == "f" else (highest + 1) // 2
    threshold = f"--threshold {half:g} takes values of {half:g} or more as "
    threshold += "vessel" if vessels else "inside"
    if mask.format in ("JPEG", "MPO"):
        return f"JPEG compression leaves grey values, in a later PNG too: {threshold}"
    if not vessels or len(found) > _SHOWN:
        return threshold
    if mask.mode in ("P", "PA"):
        return _palette_hint(mask)
    named = ",".join(f"{value:g}" for value in found.tolist() if value)
    labels = f"--values {named} takes {'this value' if ',' not in named else 'these values'}"
    return f"{labels} as vessel, {threshold}"


def _palette_hint(mask: Image.Image) -> str:
    indices = np.unique(_indices(mask)).tolist()
    shown = ", ".join(map(str, indices[:_SHOWN])) + (", ..." if len(indices) > _SHOWN else "")
    example = next((index for index in indices if index), 0)
    return f"--values names the indices that are vessel (in use: {shown}): --values {example}"


def _grey_values(picture: _Picture, *, vessels: bool) -> NDArray[Any]:
    """The values of a mask (H, W), at full depth; UserError for one with colours."""
    mask, where = picture.image, str(picture.path)
    if picture.deep is not None:
        values = picture.deep
        if (values != values[:, :, :1]).any():
            raise UserError("the mask is coloured", where=where, allowed=_BINARY, hint=_GREY_HINT)
        return values[:, :, 0]
    if mask.mode in ("P", "PA", "RGB", "RGBA", "LA"):
        alpha = mask.mode in ("RGBA", "LA", "PA") or "transparency" in mask.info
        if alpha and np.asarray(mask.convert("RGBA").getchannel("A")).min() < 255:
            raise UserError(
                "the mask has transparent pixels",
                where=where,
                allowed=_BINARY,
                hint=_palette_hint(mask) if vessels and mask.mode in ("P", "PA") else _GREY_HINT,
            )
        colours = np.asarray(mask.convert("RGB"))
        if (colours != colours[:, :, :1]).any():
            used = np.unique(colours.reshape(-1, 3), axis=0)
            shown = ", ".join(str(tuple(int(v) for v in colour)) for colour in used[:4])
            more = ", ..." if len(used) > 4 else ""
            palette = mask.mode in ("P", "PA")
            raise UserError(
                f"the mask is {'a palette image' if palette else 'coloured'} ({shown}{more})",
                where=where,
                allowed=_BINARY,
                hint=_palette_hint(mask) if palette and vessels else _GREY_HINT,
            )
        return colours[:, :, 0]
    if mask.mode not in ("1", "L"):
        raise UserError(
            f"pixels of type {mask.mode} are not supported",
            where=where,
            allowed=_BINARY,
            hint=_GREY_HINT,
        )
    return np.asarray(mask)


def _same_size(image: Path, pixels: Bytes, other: Path, mask: Bytes) -> None:
    if pixels.shape[:2] != mask.shape:
        (height, width), (mask_height, mask_width) = pixels.shape[:2], mask.shape
        raise UserError(
            f"is {mask_width} x {mask_height} px, its image {image.name} {width} x {height} px",
            where=str(other),
            allowed="a mask of the size of its image",
            hint="fetch the pair again, or draw the mask again at that size",
        )
