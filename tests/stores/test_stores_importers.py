"""Importers: what they find in a folder, and the one line that each bad file gets."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vesselflow.errors import UserError
from vesselflow.stores.importers import IMPORTERS
from vesselflow.stores.importers.read import estimate_fov
from vesselflow.stores.importers.run import import_store
from vesselflow.stores.store import Store, verify

SIZE = (24, 30)  # height, width


def picture(path: Path, seed: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(60, 200, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def mask(path: Path, high: int = 255, size: tuple[int, int] = SIZE) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(size, np.uint8)
    values[4:9, 3:20] = 1
    Image.fromarray(values * np.uint8(high)).save(path)
    return values


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three images and masks in the general layout."""
    root = tmp_path / "data"
    for k, name in enumerate(("p1_a", "p1_b", "p2_a")):
        picture(root / "images" / f"{name}.png", k)
        mask(root / "masks" / f"{name}.png")
    return root


def run(root: Path, layout: str = "folder", **arguments: object) -> Store:
    out = root.parent / f"{layout}.h5"
    import_store(layout, root, out, arguments, overwrite=True)
    assert verify(out) == []
    return Store.open(out)


@pytest.mark.parametrize(
    ("given", "spacing"), [("9.5", (9.5, 9.5)), ("9.5,9", (9.5, 9.0)), (None, None)]
)
def test_the_size_of_a_pixel_is_given(
    data: Path, given: str | None, spacing: tuple[float, float] | None
) -> None:
    with run(data, spacing_um=given) as store:
        assert {source.spacing_um for source in store.sources} == {spacing}


@pytest.mark.parametrize("given", ["0", "-1", "1,2,3", "nine", "nan", ""])
def test_a_size_of_a_pixel_that_is_none(data: Path, given: str) -> None:
    refused(data, r"allowed: one number above 0 or two, HEIGHT,WIDTH", spacing_um=given)


def refused(root: Path, match: str, layout: str = "folder", **arguments: object) -> None:
    out = root.parent / "refused.h5"
    with pytest.raises(UserError, match=match) as caught:
        import_store(layout, root, out, arguments)
    assert "\n" not in str(caught.value)
    assert not [name for name in os.listdir(root.parent) if name.startswith(("refused", "."))]


def test_folder_keeps_pixels_and_lineage(data: Path) -> None:
    pixels = picture(data / "images" / "p1_a.png", 0)
    with run(data) as store:
        assert store.domain == "data"
        assert [s.id for s in store.sources] == ["p1_a", "p1_b", "p2_a"]
        assert [s.group for s in store.sources] == ["p1_a", "p1_b", "p2_a"]
        np.testing.assert_array_equal(store.image(0), pixels)
        assert store.target(0).sum() == 5 * 17
        assert store.fov(0).all()
        lineage = store.sources[0].lineage
        assert lineage["files"]["image"]["name"] == "p1_a.png"
        assert len(lineage["files"]["target"]["sha256"]) == 64
        assert lineage["fov"] == "full"
        assert str(data) not in store.path.read_bytes().decode("latin1")


def test_group_by_regular_expression(data: Path) -> None:
    with run(data, group="^(p[0-9])") as store:
        assert [s.group for s in store.sources] == ["p1", "p1", "p2"]
    with run(data, group="^(x)?(?P<group>p[0-9])") as store:
        assert [s.group for s in store.sources] == ["p1", "p1", "p2"]
    refused(data, "finds no group in 'p1_a'", group="^(q[0-9])")
    refused(data, "group: .*one group", group="^p")
    refused(data, "group: .*regular expression", group="(")


def test_split_by_csv(data: Path) -> None:
    table = data / "split.csv"
    table.write_text("id,split\np1_a,train\np2_a.png,test\n")
    with run(data, split="split.csv") as store:
        assert [s.split for s in store.sources] == ["train", "", "test"]
    table.write_text("id,split\np9,train\n")
    refused(data, r"split\.csv: line 2: no image is called 'p9'", split="split.csv")
    table.write_text("id,split\np1_a,dev\n")
    refused(data, "split 'dev' is not allowed; allowed: train, test", split="split.csv")
    table.write_text("id;split\np1_a;train\n")
    refused(
        data,
        r"split\.csv: needs the columns id and split, its first line is id;split; "
        "the first line names the columns, with commas between: id,split",
        split="split.csv",
    )
    table.write_text("")
    refused(data, "needs the columns id and split, it is empty", split="split.csv")
    table.write_text("id,split\n")
    refused(data, "has no line below the header", split="split.csv")
    refused(data, "cannot be read", split="none.csv")


def test_a_source_named_twice_in_the_split_is_refused(data: Path) -> None:
    table = data / "split.csv"
    table.write_text("id,split\np1_a,train\np1_b,\n\np1_a.png,test\n")
    refused(
        data,
        r"split\.csv: 'p1_a' is named twice, as train in line 2 and as test in line 5; "
        "keep one of the two lines",
        split="split.csv",
    )
    table.write_text("id, split\np1_b,\np1_b,\n")
    refused(data, "as empty in line 2 and as empty in line 3", split="split.csv")
    table.write_text("id,split\n ,train\n")
    refused(data, "line 2: no image is called ''", split="split.csv")


def test_suffixes_tell_files_of_one_folder_apart(tmp_path: Path) -> None:
    root = tmp_path / "flat"
    for name in ("21", "22"):
        picture(root / f"{name}_training.tif", int(name))
        mask(root / f"{name}_manual1.gif")
        mask(root / f"{name}_training_mask.gif")
    with run(
        root,
        images=".",
        masks=".",
        fov=".",
        image_suffix="_training",
        mask_suffix="_manual1",
        fov_suffix="_training_mask",
    ) as store:
        assert [s.id for s in store.sources] == ["21", "22"]
        assert store.fov(0).sum() == 5 * 17


def test_a_spare_mask_is_counted_not_an_error(data: Path) -> None:
    mask(data / "masks" / "p7_a.png")
    made = import_store("folder", data, data.parent / "s.h5")
    assert made.sources == 3
    assert "1 mask(s) without image passed over: p7_a.png" in made.notes
    assert "no fov mask: every pixel counts in 3 source(s)" in made.notes


def test_progress_counts_up(data: Path) -> None:
    calls: list[tuple[int, int, str]] = []
    import_store("folder", data, data.parent / "s.h5", progress=lambda *a: calls.append(a))
    assert calls == [(1, 3, "p1_a"), (2, 3, "p1_b"), (3, 3, "p2_a")]


def test_missing_files_are_named(data: Path) -> None:
    (data / "masks" / "p1_b.png").unlink()
    refused(data, r"masks: image p1_b\.png has no mask \(p1_b\.\*\)")
    mask(data / "masks" / "p1_b.png")
    refused(data, "fov: no such folder; SOURCE holds images, masks: --fov names one", fov="fov")
    refused(
        data / "images",
        r"images/images: no such folder; --images \. takes the files of SOURCE itself",
    )
    refused(data / "none", "no such folder")
    refused(data / "images" / "p1_a.png", "is a file, not a folder")
    for path in (data / "images").iterdir():
        path.unlink()
    (data / "images" / "notes.txt").write_text("")
    refused(data, "images: no images found; allowed: png, jpg")


def test_two_files_of_one_stem_are_refused(data: Path) -> None:
    picture(data / "images" / "p1_a.jpg")
    refused(data, r"p1_a\.jpg and p1_a\.png would both be 'p1_a'")


def test_sizes_that_differ_are_both_named(data: Path) -> None:
    mask(data / "masks" / "p1_b.png", size=(20, 30))
    refused(data, r"p1_b\.png: is 30 x 20 px, its image p1_b\.png 30 x 24 px")


def save_palette(path: Path, colours: list[int]) -> None:
    values = np.zeros(SIZE, np.uint8)
    values[3:6] = 1
    image = Image.fromarray(values).convert("P")
    image.putpalette(colours + [0] * (768 - len(colours)))
    image.save(path)


def set_mask(values: list[int], mode: str = "L") -> Callable[[Path], None]:
    def save(path: Path) -> None:
        array = np.resize(np.array(values, np.uint8), SIZE)
        Image.fromarray(array).convert(mode).save(path)

    return save


@pytest.mark.parametrize(
    "save",
    [
        set_mask([0, 255]),
        set_mask([0, 1]),
        set_mask([0]),
        set_mask([255]),
        set_mask([0, 255], "1"),
        set_mask([0, 255], "RGB"),
        set_mask([0, 255], "RGBA"),
        lambda path: save_palette(path, [0, 0, 0, 255, 255, 255]),
        lambda path: save_palette(path, [0, 0, 0, 1, 1, 1]),
    ],
    ids=["0/255", "0/1", "empty", "full", "1-bit", "rgb", "rgba", "palette 0/255", "palette 0/1"],
)
def test_binary_masks_of_every_kind_are_taken(data: Path, save: Callable[[Path], None]) -> None:
    save(data / "masks" / "p1_a.png")
    with run(data) as store:
        assert set(np.unique(store.target(0))) <= {0, 1}


@pytest.mark.parametrize(
    ("save", "match"),
    [
        (set_mask([0, 7, 255]), r"p1_a\.png: the mask is not binary, it also holds 7; allowed"),
        (set_mask([0, 1, 255]), "it also holds 1;"),
        (set_mask(list(range(40))), r"it also holds 1, 2, 3, 4, 5, 6, 7, 8, \.\.\."),
        (
            lambda path: save_palette(path, [0, 0, 0, 128, 0, 0]),
            r"a palette image \(\(0, 0, 0\), \(128, 0, 0\)\); allowed: a binary mask: 0 and 255, "
            r"or 0 and 1; --values names the indices that are vessel \(in use: 0, 1\): --values 1$",
        ),
        (
            lambda path: save_palette(path, [0, 0, 0, 9, 9, 9]),
            "palette mask is not binary.*holds 9; .*--values 1$",
        ),
        (lambda path: picture(path), r"the mask is coloured \(.*, \.\.\.\)"),
        (
            lambda path: Image.fromarray(np.full(SIZE, 65535, np.uint16)).save(path),
            "it also holds 65535; .*--values 65535 takes this value as vessel, --threshold 32768 ",
        ),
    ],
    ids=["7", "0/1/255", "many", "palette", "grey palette", "colour", "16-bit"],
)
def test_other_masks_are_refused(data: Path, save: Callable[[Path], None], match: str) -> None:
    save(data / "masks" / "p1_a.png")
    refused(data, match)


def test_a_jpeg_mask_is_told_its_threshold(data: Path) -> None:
    """Saving it as PNG would keep the grey values that the JPEG has."""
    (data / "masks" / "p1_a.png").unlink()
    mask(data / "masks" / "p1_a.jpg")
    refused(
        data,
        "not binary.*JPEG compression leaves grey values, in a later PNG too: --threshold 128 "
        "takes values of 128 or more as vessel$",
    )
    with run(data, threshold="128") as store:
        assert store.target(0).sum() == 5 * 17
        assert store.sources[0].lineage["threshold"] == 128
        assert "threshold" not in store.sources[1].lineage
        assert store.importer["threshold"] == 128
    made = import_store("folder", data, data.parent / "s.h5", {"threshold": 128})
    assert "values of 128 or more are vessel in 1 mask(s), 2 binary already" in made.notes


def test_corrupt_pictures_are_named(data: Path) -> None:
    (data / "images" / "p1_b.png").unlink()
    path = data / "images" / "p1_b.jpg"
    picture(path, size=(200, 200))
    content = path.read_bytes()
    for keep, match in (
        (len(content) // 2, r"p1_b\.jpg: the image is corrupt or truncated"),
        (3, r"p1_b\.jpg: not an image that can be read"),
        (0, r"p1_b\.jpg: the file is empty"),
    ):
        path.write_bytes(content[:keep])
        refused(data, match)
    path.write_text("this is no picture" * 10)
    refused(data, "not an image that can be read")


def test_images_that_would_mislead_are_refused(data: Path) -> None:
    path = data / "images" / "p1_b.png"
    Image.new("RGBA", SIZE[::-1], (9, 9, 9, 100)).save(path)
    refused(data, "transparent pixels")
    Image.new("CMYK", SIZE[::-1]).save(path.with_suffix(".tif"))
    path.unlink()
    refused(data, "pixels of type CMYK are not supported")


@pytest.mark.parametrize("folder", ["images", "masks", "fov"])
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_files_stored_turned_are_refused(data: Path, folder: str, suffix: str) -> None:
    """Masks as well as images; and TIFF files, which Pillow turns without being asked."""
    for name in ("p1_a", "p1_b", "p2_a"):
        mask(data / "fov" / f"{name}.png")
    path = data / folder / "p1_b.png"
    exif = Image.Exif()
    exif[274] = 6
    with Image.open(path) as plain:
        plain.load()
    path.unlink()
    plain.save(path.with_suffix(suffix), exif=exif)
    refused(
        data,
        rf"{folder}/p1_b\{suffix}: is stored turned \(EXIF orientation 6\); save it upright",
        fov="fov",
    )


@pytest.mark.parametrize("folder", ["images", "masks"])
@pytest.mark.parametrize("suffix", [".tif", ".gif", ".png", ".webp"])
def test_files_with_several_pictures_are_refused(data: Path, folder: str, suffix: str) -> None:
    (data / folder / "p1_b.png").unlink()
    first, *more = (Image.new("RGB", SIZE[::-1], (k, 90, 80)) for k in (10, 120, 200))
    first.save(data / folder / f"p1_b{suffix}", save_all=True, append_images=more, lossless=True)
    refused(data, rf"p1_b\{suffix}: the file holds 3 pictures; allowed: one picture per file")


def test_a_preview_is_no_second_picture(data: Path) -> None:
    pixels = picture(data / "images" / "p1_b.png", 7)
    (data / "images" / "p1_b.png").unlink()
    preview = Image.new("RGB", (8, 8))
    preview.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(pixels).save(
        data / "images" / "p1_b.tif", save_all=True, append_images=[preview]
    )
    with run(data) as store:
        np.testing.assert_array_equal(store.image(1), pixels)


def test_opaque_alpha_and_grey_images(data: Path) -> None:
    for name in ("p1_a", "p1_b", "p2_a"):
        Image.new("LA", SIZE[::-1], (77, 255)).save(data / "images" / f"{name}.png")
    with run(data) as store:
        assert store.sources[0].channels == 1
        assert (store.image(0) == 77).all()
    Image.new("RGBA", SIZE[::-1], (1, 2, 3, 255)).save(data / "images" / "p1_a.png")
    refused(data, r"'p1_b' has 1 channel\(s\), 'p1_a' has 3")


def test_unknown_arguments_are_refused(data: Path) -> None:
    refused(data, "unknown key 'mask'.*did you mean 'masks'", mask="x")
    refused(data, "observer: 3 is not allowed", layout="chase", observer=3)
    refused(data, "unknown layout 'chas'.*did you mean 'chase'", layout="chas")


def chase_sorted(root: Path) -> None:
    for k, name in enumerate(("Image_01L", "Image_01R", "Image_11L")):
        picture(root / "images" / f"{name}.jpg", k)
        mask(root / "labels" / f"{name}.png")
        mask(root / "labels_2ndHO" / f"{name}.png", 1)
        mask(root / "masks" / f"{name}.png")


def chase_flat(root: Path) -> None:
    for k, name in enumerate(("Image_01L", "Image_01R", "Image_11L")):
        picture(root / f"{name}.jpg", k)
        mask(root / f"{name}_1stHO.png")
        mask(root / f"{name}_2ndHO.png")


@pytest.mark.parametrize("build", [chase_sorted, chase_flat])
@pytest.mark.parametrize("observer", [1, 2])
def test_chase_layouts(tmp_path: Path, build: Callable[[Path], None], observer: int) -> None:
    root = tmp_path / "x"
    build(root)
    with run(root, "chase", observer=observer) as store:
        assert [(s.id, s.group, s.split) for s in store.sources] == [
            ("Image_01L", "01", "train"),
            ("Image_01R", "01", "train"),
            ("Image_11L", "11", "test"),
        ]
        assert store.domain == "chase"
        flat = build is chase_flat
        assert store.sources[0].lineage["fov"] == ("estimated" if flat else "mask")


def test_a_layout_without_options_names_the_one_that_has_them(tmp_path: Path) -> None:
    chase_sorted(tmp_path)
    for path in (tmp_path / "labels").iterdir():
        with Image.open(path) as label:
            grey = np.linspace(0, 255, label.width * label.height).astype(np.uint8)
            Image.fromarray(grey.reshape(label.height, label.width)).save(path)
    with pytest.raises(UserError, match="the layout 'folder' has options for such files") as caught:
        import_store("chase", tmp_path, tmp_path / "x.h5")
    assert "--" not in str(caught.value)


def test_chase_faults(tmp_path: Path) -> None:
    root = tmp_path / "x"
    chase_sorted(root)
    (root / "labels_2ndHO" / "Image_01R.png").unlink()
    refused(root, r"Image_01R\.jpg has no label of observer 2", "chase", observer=2)
    (root / "masks" / "Image_01R.png").unlink()
    refused(root, r"Image_01R\.jpg has no fov mask", "chase")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "no images found; allowed: images/Image_01L", "chase")


def test_stare_flat_gzipped_as_published(tmp_path: Path) -> None:
    root = tmp_path / "x"
    picture(root / "im0001.ppm", 1)
    picture(root / "im0002.ppm", 2)
    picture(root / "im0009.ppm", 3)
    for name in ("im0001", "im0002"):
        for who in ("ah", "vk"):
            # The published labels are grey values in a colour file.
            values = mask(root / f"{name}.{who}.ppm")
            Image.fromarray(values * np.uint8(255)).convert("RGB").save(root / f"{name}.{who}.ppm")
    for path in list(root.iterdir()):
        (root / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    made = import_store("stare", root, tmp_path / "s.h5", {"observer": "vk"})
    assert made.notes[0] == "1 image(s) without label passed over: im0009"
    assert "estimated from the image for 2" in made.notes[1]
    with Store.open(tmp_path / "s.h5") as store:
        assert [(s.id, s.group, s.split) for s in store.sources] == [
            ("im0001", "im0001", ""),
            ("im0002", "im0002", ""),
        ]
        assert store.sources[0].lineage["files"]["target"]["name"] == "im0001.vk.ppm.gz"
    whole = (root / "im0001.ppm.gz").read_bytes()
    (root / "im0001.ppm.gz").write_bytes(whole[: len(whole) // 2])
    refused(root, r"im0001\.ppm\.gz: the image is corrupt or truncated", "stare")


def test_estimate_fov_finds_a_disc() -> None:
    rows, columns = np.mgrid[0:200, 0:240]
    disc = np.hypot(rows - 100, columns - 118) < 90
    image = np.random.default_rng(0).integers(0, 12, (200, 240, 3)).astype(np.uint8)
    image[disc] += np.array([170, 90, 40], np.uint8)
    image[100:110, 100:110] = 0  # a dark spot inside is a hole, and holes are filled
    fov = estimate_fov(image).astype(bool)
    assert (fov & disc).sum() / (fov | disc).sum() > 0.97
    assert fov[105, 105]


@pytest.mark.parametrize("level", [0, 200])
def test_estimate_fov_of_a_flat_image_is_whole(level: int) -> None:
    assert estimate_fov(np.full((30, 40, 3), level, np.uint8)).all()


def test_registry_names() -> None:
    assert IMPORTERS.names() == ["chase", "stare", "folder", "volume"]


REAL = os.environ.get("VESSELFLOW_TEST_DATA", "")
real = pytest.mark.skipif(not REAL, reason="VESSELFLOW_TEST_DATA names no folder of real data")


@real
@pytest.mark.parametrize(
    ("layout", "count", "groups", "tests", "share", "field_deg"),
    [("chase", 28, 14, 8, 0.100, 30), ("stare", 20, 20, 0, 0.103, 35)],
)
def test_real_data(
    tmp_path: Path,
    layout: str,
    count: int,
    groups: int,
    tests: int,
    share: float,
    field_deg: float,
) -> None:
    out = tmp_path / "s.h5"
    made = import_store(layout, Path(REAL) / layout, out)
    assert (made.sources, made.notes) == (count, ())
    with Store.open(out) as store:
        assert len({s.group for s in store.sources}) == groups
        assert sum(s.split == "test" for s in store.sources) == tests
        shares, overlaps, fields_um = [], [], []
        for index in range(count):
            _, x0, _, x1 = store.fov_box(index)
            fields_um.append((x1 - x0) * store.sources[index].spacing_um[1])
            fov = store.fov(index).astype(bool)
            shares.append(store.target(index)[fov].mean())
            guess = estimate_fov(store.image(index)).astype(bool)
            overlaps.append((guess & fov).sum() / (guess | fov).sum())
        assert np.median(fields_um) == pytest.approx(field_deg * 290, rel=1e-3)
        # The data sets' READMEs give these means.
        assert np.mean(shares) == pytest.approx(share, abs=5e-4)
        assert np.min(overlaps) > 0.95
        assert np.mean(overlaps) > 0.985
