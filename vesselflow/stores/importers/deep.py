"""Pictures deeper than 8 bits a channel: their full values, and a window that brings them to 8.

Pillow reads grey pictures of 16 bits whole, but drops the lower byte of those with colour or alpha,
without a word: 12-bit data then become a nearly black picture.
"""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vesselflow.errors import UserError
from vesselflow.stores.schema import Bytes

_TIFF_BITS_PER_SAMPLE, _TIFF_PHOTOMETRIC = 258, 262
#: Channels of PNG's colour types of 16 bits: grey, colour, both with alpha.
_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}
_ADVICE = "save it as a 16-bit PNG, which --window LOW,HIGH takes"


def bits_of(image: Image.Image, content: bytes) -> int:
    """Bits of a channel as the file has them, which Pillow's mode does not tell.

    Args:
        image: The opened picture, decoded or not.
        content: The file.
    """
    if image.format == "PNG":
        return content[24]
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_TIFF_BITS_PER_SAMPLE, (1,))
        return max(bits) if isinstance(bits, tuple) else int(bits)
    if image.format == "PPM" and content[:2] in (b"P2", b"P3", b"P5", b"P6"):
        return _pnm_maximum(content).bit_length()
    if image.mode.startswith("I;16"):
        return 16
    return 32 if image.mode in ("I", "F") else 8


def deep_values(image: Image.Image, content: bytes, path: Path) -> NDArray[Any]:
    """The values of a picture deeper than 8 bits.

    Args:
        image: The picture, decoded.
        content: The file.
        path: Where it was read, for messages.

    Returns:
        (H, W, C), uint16, int32 or float32; an alpha channel that is opaque is left out.

    Raises:
        UserError: a file whose values cannot be read without loss, transparent pixels, NaN.
    """
    where, bits = str(path), bits_of(image, content)
    if image.format == "PNG":
        values: NDArray[Any] = _png_values(content, where)
        hidden = image.info.get("transparency")
        if values.shape[2] in (2, 4):
            see_through = bool((values[:, :, -1] != 65535).any())
            values = values[:, :, :-1]
        else:
            see_through = hidden is not None and bool((values == hidden).all(axis=2).any())
        if see_through:
            raise UserError("has transparent pixels", where=where, hint="save it without alpha")
        return values
    if image.format == "PPM" or image.mode not in ("I", "F", "I;16", "I;16B", "I;16L"):
        raise UserError(
            f"{bits} bits per channel in a {image.format} file of this kind cannot be read whole",
            where=where,
            allowed="8 bits per channel; 16 bits in PNG files and in grey TIFF files",
            hint=_ADVICE,
        )
    if image.format == "TIFF" and getattr(image, "tag_v2", {}).get(_TIFF_PHOTOMETRIC) == 0:
        raise UserError(
            f"is stored as a negative (WhiteIsZero, {bits} bits)",
            where=where,
            hint=f"{_ADVICE}, with black as 0",
        )
    values = np.asarray(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError("holds values that are not finite", where=where, hint="replace them")
    return values.astype(values.dtype.newbyteorder("="))[:, :, None]


def scaled(values: NDArray[Any], window: tuple[float, float]) -> tuple[Bytes, float]:
    """Bring values to 8 bits: low becomes 0, high 255, between in proportion, rounded to even.

    Args:
        values: Numbers of any type and shape.
        window: (low, high), low < high; what lies beyond is clipped.

    Returns:
        uint8 of the same shape, and the share of values that were clipped.
    """
    low, high = window
    clipped = float(((values < low) | (values > high)).mean())
    steps = (values.astype(np.float64) - low) * 255 / (high - low)
    return np.rint(np.clip(steps, 0, 255)).astype(np.uint8), clipped


def window_option(values: NDArray[Any]) -> str:
    """An option to suggest: 0 to the largest value of the fewest bits that hold all values."""
    low, high = float(values.min()), float(values.max())
    if low < 0:
        # The equals sign, because the value begins with a dash.
        return f"--window={np.floor(low):g},{max(1, np.ceil(high)):g}"
    if values.dtype.kind == "f" and high <= 1:
        return "--window 0,1"
    return f"--window 0,{2 ** max(8, int(np.ceil(high)).bit_length()) - 1}"


def _pnm_maximum(content: bytes) -> int:
    """The largest value that the head of a PGM or PPM file declares."""
    words: list[bytes] = []
    for line in content[:65536].splitlines():
        words += line.split(b"#")[0].split()
        if len(words) >= 4:
            break
    return int(words[3])


def _png_values(content: bytes, where: str) -> NDArray[np.uint16]:
    """All 16 bits of a PNG file (H, W, C); the file has been found whole by Pillow."""
    place, packed, header = 8, [], b""
    while place < len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        kind, data = content[place + 4 : place + 8], content[place + 8 : place + 8 + size]
        if kind == b"IHDR":
            header = data
        elif kind == b"IDAT":
            packed.append(data)
        elif kind == b"IEND":
            break
        place += size + 12
    width, height, _, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    if interlaced:
        raise UserError(
            "an interlaced PNG file of 16 bits cannot be read", where=where, hint="save it plain"
        )
    step = 2 * _PNG_CHANNELS[colour]
    size = height * (1 + width * step)
    lines = np.frombuffer(zlib.decompressobj().decompress(b"".join(packed), size), np.uint8)
    if lines.size < size:
        raise UserError("the image is truncated", where=where, hint="fetch the file again")
    lines = lines.reshape(height, 1 + width * step)
    pixels = unfiltered(lines[:, 0], lines[:, 1:].reshape(height, width, step))
    return pixels.view(">u2").astype(np.uint16)


def unfiltered(filters: Bytes, filtered: Bytes) -> Bytes:
    """Undo PNG's filters 0 to 4: each byte is told from those left of it, above, and above left.

    A pixel waits for three neighbours, so whole diagonals are done at once: height + width steps
    instead of height x width.

    Args:
        filters: uint8 (H,), the filter of each line.
        filtered: uint8 (H, W, bytes of a pixel).

    Returns:
        uint8 (H, W, bytes of a pixel), the bytes before filtering.

    Reference: PNG specification, third edition, section 9.
    """
    height, width, step = filtered.shape
    # One column of zeros on the left and one line above; then a diagonal is a slice with the
    # padded width less one as its stride.
    padded = np.zeros((height + 1, width + 1, step), np.int16)
    padded[1:, 1:] = filtered
    flat, row = padded.reshape(-1, step), width + 1
    for diagonal in range(height + width - 1):
        first, last = max(0, diagonal - width + 1), min(height - 1, diagonal)
        start = (first + 1) * row + diagonal - first + 1
        count = last - first + 1

        def behind(offset: int, start: int = start, count: int = count) -> NDArray[np.int16]:
            begin = start - offset
            return flat[begin : begin + (count - 1) * width + 1 : width]

        left, above, corner = behind(1), behind(row), behind(row + 1)
        kinds = filters[first : last + 1, None]
        estimate = left + above - corner
        to_left, to_above, to_corner = (abs(estimate - near) for near in (left, above, corner))
        paeth = np.where(
            (to_left <= to_above) & (to_left <= to_corner),
            left,
            np.where(to_above <= to_corner, above, corner),
        )
        guess = np.select(
            [kinds == 1, kinds == 2, kinds == 3, kinds == 4],
            [left, above, (left + above) // 2, paeth],
            0,
        )
        here = behind(0)
        here[:] = (here + guess) % 256
    return np.ascontiguousarray(padded[1:, 1:]).astype(np.uint8)
