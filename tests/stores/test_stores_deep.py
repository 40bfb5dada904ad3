"""Pictures deeper than 8 bits: read whole, refused without a window, scaled with one."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vesselflow.errors import UserError
from vesselflow.stores.importers.deep import deep_values, scaled, unfiltered, window_option
from vesselflow.stores.importers.run import import_store
from vesselflow.stores.store import Store

SIZE = (24, 30)  # height, width
ADVICE = "save it as a 16-bit PNG, which --window LOW,HIGH takes"


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def predictor(kind: int, left: int, above: int, corner: int) -> int:
    """What a byte is told from, as the PNG specification (section 9.2) writes it."""
    if kind == 4:
        estimate = left + above - corner
        near = [abs(estimate - value) for value in (left, above, corner)]
        return (left, above, corner)[near.index(min(near))]
    return (0, left, above, (left + above) // 2)[kind]


def png16(pixels: np.ndarray, *, extra: bytes = b"", interlaced: int = 0) -> bytes:
    """A PNG file of 16 bits (H, W, C), its lines filtered with 0, 1, 2, 3, 4 in turn."""
    height, width, channels = pixels.shape
    step = 2 * channels
    lines = [[0] * (width * step)]
    packed = b""
    for number in range(height):
        kind, above = number % 5, lines[-1]
        line = list(pixels[number].astype(">u2").tobytes())
        packed += bytes([kind])
        for at, value in enumerate(line):
            left, corner = (line[at - step], above[at - step]) if at >= step else (0, 0)
            packed += bytes([(value - predictor(kind, left, above[at], corner)) % 256])
        lines.append(line)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, interlaced)
    body = chunk(b"IDAT", zlib.compress(packed)[:40]) + chunk(b"IDAT", zlib.compress(packed)[40:])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + body + chunk(b"IEND", b"")


def tiff(pixels: np.ndarray, *, bits: int = 16, photometric: int | None = None) -> bytes:
    """An uncompressed TIFF file of little-endian integers (H, W, C)."""
    height, width, channels = pixels.shape
    colours = (2 if channels == 3 else 1) if photometric is None else photometric
    data = pixels.astype(f"<u{bits // 8}").tobytes()
    head = 8 + 2 + 12 * 9 + 4
    entries = [
        (256, 4, 1, width),
        (257, 4, 1, height),
        (258, 3, channels, head if channels > 2 else bits),
        (259, 3, 1, 1),
        (262, 3, 1, colours),
        (273, 4, 1, head + 2 * channels),
        (277, 3, 1, channels),
        (278, 4, 1, height),
        (279, 4, 1, len(data)),
    ]
    fields = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    depth = struct.pack("<H", bits) * channels
    return b"II*\0" + struct.pack("<IH", 8, 9) + fields + bytes(4) + depth + data


def noise(channels: int, high: int = 4096, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, high, (*size, channels)).astype(np.uint16)


def opened(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three grey images of 8 bits with masks; single tests replace p1_b."""
    root = tmp_path / "data"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for k, name in enumerate(("p1_a", "p1_b", "p2_a")):
        pixels = np.random.default_rng(k).integers(60, 200, SIZE, dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        values = np.zeros(SIZE, np.uint8)
        values[4:9, 3:20] = 255
        Image.fromarray(values).save(root / "masks" / f"{name}.png")
    return root


def run(root: Path, **arguments: object) -> tuple[Store, tuple[str, ...]]:
    out = root.parent / "s.h5"
    made = import_store("folder", root, out, arguments, overwrite=True)
    return Store.open(out), made.notes


def refusal(root: Path, **arguments: object) -> str:
    with pytest.raises(UserError) as caught:
        import_store("folder", root, root.parent / "s.h5", arguments)
    assert [path.name for path in root.parent.iterdir()] == ["data"]
    return str(caught.value)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [SIZE, (1, 7), (7, 1), (40, 3)])
def test_png_of_16_bits_is_read_whole(channels: int, size: tuple[int, int]) -> None:
    pixels = noise(channels, 65536, size)
    if channels in (2, 4):
        pixels[:, :, -1] = 65535
    content = png16(pixels)
    image = opened(content)
    found = deep_values(image, content, Path("x.png"))
    colours = pixels[:, :, : 3 if channels > 2 else 1]
    np.testing.assert_array_equal(found, colours)
    if channels == 3:
        # Pillow agrees about the upper byte, the one that it keeps.
        np.testing.assert_array_equal(np.asarray(image), pixels >> 8)


def test_unfilter_agrees_with_pillow_on_its_own_files() -> None:
    """Photograph-like content, for which Pillow's encoder chooses between all filters."""
    rows, columns = np.mgrid[0:90, 0:70]
    smooth = 90 + 60 * np.sin(rows / 9)[..., None] + np.stack([columns, rows, columns - rows], -1)
    pixels = (smooth + np.random.default_rng(0).normal(0, 2, (90, 70, 3))).clip(0, 255)
    pixels = pixels.astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    content, packed, place = stream.getvalue(), b"", 8
    while place < len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        if content[place + 4 : place + 8] == b"IDAT":
            packed += content[place + 8 : place + 8 + size]
        place += size + 12
    lines = np.frombuffer(zlib.decompress(packed), np.uint8).reshape(90, 1 + 70 * 3)
    assert len(np.unique(lines[:, 0])) > 1
    np.testing.assert_array_equal(unfiltered(lines[:, 0], lines[:, 1:].reshape(90, 70, 3)), pixels)


def test_transparent_and_interlaced_png_of_16_bits_are_refused(data: Path) -> None:
    path = data / "images" / "p1_b.png"
    see_through = noise(4)
    path.write_bytes(png16(see_through))
    assert refusal(data, window="0,4095").endswith(
        "p1_b.png: has transparent pixels; save it without alpha"
    )
    pixels = noise(3)
    hole = chunk(b"tRNS", struct.pack(">HHH", *pixels[3, 4]))
    path.write_bytes(png16(pixels, extra=hole))
    assert "has transparent pixels" in refusal(data, window="0,4095")
    # One pass of an interlaced file of one pixel is the whole file.
    path.write_bytes(png16(noise(3, size=(1, 1)), interlaced=1))
    assert refusal(data, window="0,4095").endswith(
        "an interlaced PNG file of 16 bits cannot be read; save it plain"
    )


@pytest.mark.parametrize("write", [png16, tiff], ids=["png", "tiff"])
def test_grey_of_16_bits_needs_a_window(data: Path, write: Callable[..., bytes]) -> None:
    pixels = noise(1)
    pixels.flat[:2] = 12, 4011
    pixels = pixels.clip(12, 4011)
    path = data / "images" / f"p1_b.{write.__name__[:3]}"
    (data / "images" / "p1_b.png").unlink()
    path.write_bytes(write(pixels))
    assert refusal(data) == (
        f"{path}: has 16 bits per channel, values 12 to 4011; allowed: 8 bits per channel; "
        "--window LOW,HIGH scales such images (one window for all), for example --window 0,4095"
    )
    store, notes = run(data, window="0,4095")
    with store:
        np.testing.assert_array_equal(store.image(1), np.rint(pixels / 4095 * 255))
        assert store.sources[1].lineage["window"] == [0, 4095]
        assert store.sources[1].lineage["clipped_share"] == 0
        assert "window" not in store.sources[0].lineage
        assert store.importer["window"] == [0, 4095]
    assert (
        notes[0] == "values 0 to 4095 became 0 to 255 in 1 image(s), 2 of 8 bits kept as they are"
    )


def test_colour_of_16_bits_in_png(data: Path) -> None:
    """The case that was lost: 12-bit values, of which Pillow keeps 0 to 15."""
    pixels = noise(3)
    for name in ("p1_a", "p1_b", "p2_a"):
        (data / "images" / f"{name}.png").write_bytes(png16(pixels))
    shown = f"values {pixels.min()} to {pixels.max()}; allowed: 8 bits per channel"
    assert f"p1_a.png: has 16 bits per channel, {shown}" in refusal(data)
    store, notes = run(data, window=[0, 4095])
    with store:
        np.testing.assert_array_equal(store.image(0), np.rint(pixels / 4095 * 255))
    assert notes[0] == "values 0 to 4095 became 0 to 255 in 3 image(s)"
    store, notes = run(data, window="0,255")
    store.close()
    assert notes[1].startswith("3 image(s) have values beyond 0 to 255, clipped in up to 9")
    assert notes[1].endswith(" % of their pixels: p1_a, p1_b, p2_a")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p1_b.tif", tiff(noise(3)), f"16 bits per channel in a TIFF file of this kind cannot be "
         f"read whole; allowed: 8 bits per channel; 16 bits in PNG files and in grey TIFF files; "
         f"{ADVICE}"),
        ("p1_b.tif", tiff(noise(1), photometric=0), "is stored as a negative (WhiteIsZero, 16 bits)"
         f"; {ADVICE}, with black as 0"),
        ("p1_b.tif", tiff(noise(2)), "this kind of TIFF file cannot be read; save it as PNG, 8 or "
         "16 bits per channel"),
        ("p1_b.ppm", b"P6 # a comment\n30 24\n65535\n" + noise(3).astype(">u2").tobytes(),
         "16 bits per channel in a PPM file of this kind cannot be read whole; "),
        ("p1_b.pgm", b"P5\n30 24\n4095\n" + noise(1).astype(">u2").tobytes(),
         "12 bits per channel in a PPM file of this kind cannot be read whole; "),
    ],
    ids=["colour tiff", "negative tiff", "two channels", "ppm", "pgm"],
)  # fmt: skip
def test_deep_files_that_cannot_be_read_whole_are_refused(
    data: Path, name: str, content: bytes, message: str
) -> None:
    (data / "images" / "p1_b.png").unlink()
    (data / "images" / name).write_bytes(content)
    for arguments in ({}, {"window": "0,4095"}):
        assert f"{name}: {message}" in refusal(data, **arguments)


def test_float_tiff(data: Path) -> None:
    (data / "images" / "p1_b.png").unlink()
    path = data / "images" / "p1_b.tif"
    values = np.linspace(0, 1, 720, dtype=np.float32).reshape(SIZE)
    Image.fromarray(values).save(path)
    assert refusal(data).endswith("for example --window 0,1")
    assert "has float32 per channel, values 0 to 1;" in refusal(data)
    store, _ = run(data, window="0,0.5")
    with store:
        np.testing.assert_array_equal(
            store.image(1)[:, :, 0], np.rint(np.clip(values.astype(float) * 510, 0, 255))
        )
    (data.parent / "s.h5").unlink()
    values[3, 3] = np.nan
    Image.fromarray(values).save(path)
    assert "p1_b.tif: holds values that are not finite" in refusal(data, window="0,1")


def test_ppm_of_8_bits_is_taken(data: Path) -> None:
    (data / "images" / "p1_b.png").unlink()
    pixels = noise(1, 256).astype(np.uint8)
    (data / "images" / "p1_b.pgm").write_bytes(b"P5 30 24 255\n" + pixels.tobytes())
    store, _ = run(data)
    with store:
        np.testing.assert_array_equal(store.image(1), pixels)


def test_deep_masks(data: Path) -> None:
    path = data / "masks" / "p1_b.png"
    values = np.zeros((*SIZE, 1), np.uint16)
    values[3:5] = 65535
    path.write_bytes(png16(values.repeat(3, axis=2)))
    assert refusal(data).endswith(
        "the mask is not binary, it also holds 65535; allowed: a binary mask: 0 and 255, or 0 and "
        "1; --values 65535 takes this value as vessel, --threshold 32768 takes values of 32768 or "
        "more as vessel"
    )
    store, _ = run(data, threshold=32768)
    with store:
        np.testing.assert_array_equal(store.target(1), values[:, :, 0] > 0)
    (data.parent / "s.h5").unlink()
    path.write_bytes(png16(noise(3)))
    assert "p1_b.png: the mask is coloured" in refusal(data)


def test_scaled_by_hand() -> None:
    values = np.array([[-5, 100, 150, 200, 999]], np.int32)
    pixels, clipped = scaled(values, (100, 200))
    np.testing.assert_array_equal(pixels, [[0, 0, 128, 255, 255]])  # 127.5 goes to the even 128
    assert clipped == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("values", "option"),
    [
        (np.array([0, 200], np.uint16), "--window 0,255"),
        (np.array([7, 4095], np.uint16), "--window 0,4095"),
        (np.array([7, 4096], np.uint16), "--window 0,8191"),
        (np.array([0, 65535], np.uint16), "--window 0,65535"),
        (np.array([-1000, 2000], np.int32), "--window=-1000,2000"),
        (np.array([0.0, 0.7], np.float32), "--window 0,1"),
        (np.array([-0.5, 0.7], np.float32), "--window=-1,1"),
    ],
)
def test_a_window_is_suggested(values: np.ndarray, option: str) -> None:
    assert window_option(values) == option


@pytest.mark.parametrize("window", ["5", "5,5", "9,1", "a,b", "1,2,3", "nan,1", "0,inf", "", 7])
def test_bad_windows(data: Path, window: object) -> None:
    assert "is not allowed; allowed: LOW,HIGH: two numbers, the first below the second: 0,4095" in (
        refusal(data, window=window)
    )
