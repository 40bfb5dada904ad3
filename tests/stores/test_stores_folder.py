"""Folders as people keep them: which files find each other, and what is said when they do not."""

from __future__ import annotations

import os
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vesselflow.errors import UserError
from vesselflow.stores.importers.pairing import _owners
from vesselflow.stores.importers.run import Imported, import_store
from vesselflow.stores.store import Store

SIZE = (24, 30)  # height, width
FULL = "no fov mask: every pixel counts in {} source(s)"


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def image(path: Path, seed: int = 0) -> None:
    save(path, np.random.default_rng(seed).integers(60, 200, (*SIZE, 3), dtype=np.uint8))


def mask(path: Path) -> None:
    values = np.zeros(SIZE, np.uint8)
    values[4:9, 3:20] = 255
    save(path, values)


def whole(path: Path) -> None:
    """A fov mask in which every pixel counts."""
    save(path, np.full(SIZE, 255, np.uint8))


def files(root: Path, images: str, masks: str) -> Path:
    """A folder of images and masks with these names, separated by spaces."""
    for seed, name in enumerate(images.split()):
        image(root / name, seed)
    for name in masks.split():
        mask(root / name)
    return root


def take(root: Path, **arguments: object) -> tuple[Imported, list[str]]:
    """What the import says, and the ids."""
    out = root.parent / "s.h5"
    made = import_store("folder", root, out, arguments, overwrite=True)
    with Store.open(out) as store:
        return made, [source.id for source in store.sources]


def refusal(root: Path, **arguments: object) -> str:
    """The one line of an import that is refused, without the path of the folder."""
    with pytest.raises(UserError) as caught:
        import_store("folder", root, root.parent / "refused.h5", arguments)
    assert not (root.parent / "refused.h5").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{root}/", "")


# Names.


def test_one_name_in_two_unicode_forms(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "Müller_é") for form in ("NFC", "NFD"))
    assert composed != decomposed
    root = files(tmp_path / "x", f"images/{decomposed}.png", f"masks/{composed}_Gefäß.png")
    suffix = unicodedata.normalize("NFD", "_Gefäß")
    (root / "split.csv").write_text(f"id,split\n{decomposed},test\n", encoding="utf-8")
    _, ids = take(root, mask_suffix=suffix, split="split.csv")
    assert ids == [composed]


@pytest.mark.parametrize(
    ("images", "masks", "arguments", "hint"),
    [
        (
            "a b",
            "a_manual1 b_manual1",
            {},
            "masks/a_manual1.png is there: --mask-suffix _manual1 (fits 2 of 2 images)",
        ),
        # The suffix that most masks have, not the first by name.
        (
            "a b c",
            "a_draft a_final b_final c_final",
            {},
            "masks/a_final.png is there: --mask-suffix _final (fits 3 of 3 images)",
        ),
        (
            "a a_b",
            "a_m a_b_m",
            {},
            "masks/a_m.png is there: --mask-suffix _m (fits 2 of 2 images)",
        ),
        ("1 10", "10_m 1_m", {}, "masks/1_m.png is there: --mask-suffix _m (fits 2 of 2 images)"),
        ("1", "10_m", {}, "add it, or take the image away"),
        ("1 10", "10_m", {}, "add it, or take the image away"),
        ("a b_a", "b_a", {}, "add it, or take the image away"),
        ("a", "a-m", {}, "masks/a-m.png is there: --mask-suffix=-m"),
        ("a", "a~(1)", {}, "masks/a~(1).png is there: --mask-suffix '~(1)'"),
        ("a", "A", {}, "masks/A.png is there, in another case: --ignore-case takes it"),
        (
            "a",
            "a_Mask",
            {"mask_suffix": "_mask"},
            "masks/a_Mask.png is there, in another case: --ignore-case takes it",
        ),
        ("A", "a_Mask", {}, "masks/a_Mask.png is there: --mask-suffix _Mask --ignore-case"),
        (
            "21_training 22_training",
            "21_manual1 22_manual1",
            {},
            "masks/21_manual1.png is there: --image-suffix _training --mask-suffix _manual1 "
            "(fits 2 of 2 images)",
        ),
        # The mask of another image is none of this one's.
        ("p1_a p1_b p2_a", "p1_b p2_a", {}, "add it, or take the image away"),
        (
            "01",
            "mask_01",
            {},
            "masks/mask_01.png is there: rename it, names have to begin like the image's",
        ),
        ("01", "sub/01", {}, "masks/sub/01.png is there: --masks masks/sub"),
        ("a", "", {}, "add it, or take the image away"),
    ],
)  # fmt: skip
def test_a_missing_mask_is_looked_for(
    tmp_path: Path, images: str, masks: str, arguments: dict[str, object], hint: str
) -> None:
    root = tmp_path / "x"
    (root / "masks").mkdir(parents=True)
    for name in images.split():
        image(root / "images" / f"{name}.png")
    for name in masks.split():
        mask(root / "masks" / f"{name}.png")
    key, suffix = images.split()[0], arguments.get("mask_suffix", "")
    assert refusal(root, **arguments) == (
        f"{root}/masks: image {key}.png has no mask ({key}{suffix}.*); {hint}"
    ).replace(f"{root}/", "")


def test_many_names_are_looked_through_quickly() -> None:
    keys = [f"patient_{number:05d}" for number in range(10_000)]
    start = time.process_time()
    found = _owners([f"{key}_mask" for key in keys], keys)
    assert time.process_time() - start < 5  # 0.1 s on an idle core
    assert found["patient_00003_mask"] == ("patient_00003", "_mask")


def test_a_missing_fov_mask_is_looked_for(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "images/a.png images/b.png", "masks/a.png masks/b.png")
    mask(root / "fov" / "a_fov.png")
    assert refusal(root, fov="fov") == (
        "fov: image a.png has no fov mask (a.*); "
        "fov/a_fov.png is there: --fov-suffix _fov (fits 1 of 2 images)"
    )


def test_a_mask_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "images/a.png", "masks/b.png")
    (root / "masks" / "a.nii.gz").write_bytes(b"x")
    assert refusal(root).endswith("masks/a.nii.gz is there, but its format is not read")
    (root / "masks" / "a.nii.gz").unlink()
    os.symlink(root / "nowhere.png", root / "masks" / "a.png")
    assert refusal(root).endswith("masks/a.png is a broken link")


def test_what_the_hint_says_takes_the_folder(tmp_path: Path) -> None:
    root = files(
        tmp_path / "x",
        "21_training.tif 22_training.TIF",
        "21_Manual1.gif 22_manual1.gif 21_training_mask.png 22_training_mask.png",
    )
    options = {"images": ".", "masks": ".", "image_suffix": "_training", "mask_suffix": "_manual1"}
    assert "21_Manual1.gif is there, in another case: --ignore-case takes it" in refusal(
        root, **options
    )
    made, ids = take(root, **options, ignore_case=True)
    assert ids == ["21", "22"]
    assert made.notes[0] == (
        "2 file(s) of no image passed over: 21_training_mask.png, 22_training_mask.png"
    )
    for number in (21, 22):
        whole(root / f"{number}_training_mask.png")
    made, _ = take(root, **options, ignore_case=True, fov=".", fov_suffix="_training_mask")
    assert made.notes == ()


def test_ignoring_case_makes_two_names_one(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "images/a.png images/A.jpg", "masks/a.png")
    assert "images: A.jpg and a.png would both be 'a'" in refusal(root, ignore_case=True)


def test_images_that_would_be_their_own_masks(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "a.png", "a_m.png")
    assert refusal(root, images=".", masks=".") == (
        f"{root}: image and mask would be the same files; --masks names another folder, "
        "--mask-suffix what tells its files apart"
    )
    root = files(tmp_path / "y", "images/a.png", "masks/a.png")
    assert "mask and fov mask would be the same files; --fov names" in refusal(root, fov="masks")


# What is passed over.


def test_what_is_not_read_is_said(tmp_path: Path) -> None:
    root = files(
        tmp_path / "x",
        "images/a.png images/left/b.png images/left/deep/c.png images/right/d.tif",
        "masks/a.png masks/z.png",
    )
    for name in ("e.nii.gz", "f.dcm", "g.heic", "notes.txt", ".hidden.png", "Thumbs.db"):
        (root / "images" / name).write_bytes(b"x")
    (root / "images" / ".checkpoints").mkdir()
    image(root / "images" / ".checkpoints" / "a.png")
    os.symlink(root / "nowhere.png", root / "images" / "h.png")
    made, ids = take(root)
    assert ids == ["a"]
    assert list(made.notes) == [
        "images/: passed over 3 image file(s) in 2 subfolder(s): left/ (2), right/ (1) "
        "(--recursive reads them all, --images images/left the first)",
        "images/: passed over 1 broken link(s): h.png",
        "images/: passed over 3 file(s) that are of no image format read: e.nii.gz, f.dcm, g.heic",
        "1 mask(s) without image passed over: z.png",
        FULL.format(1),
    ]


def test_nothing_but_what_is_not_read(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "images/left/a.png", "masks/left/a.png")
    (root / "images" / "b.dcm").write_bytes(b"x")
    assert refusal(root).endswith(
        "images: no images found, only 1 image file(s) in 1 subfolder(s): left/ (1), "
        "1 file(s) that are of no image format read: b.dcm; allowed: png, jpg, tif, bmp, gif, ppm, "
        "pgm, webp; --recursive reads the subfolders"
    )


def test_images_without_their_suffix_are_said(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "images/a_img.png images/b.png", "masks/a.png")
    made, ids = take(root, image_suffix="_img")
    assert ids == ["a"]
    assert made.notes[0] == "1 images whose names do not end in _img passed over: b.png"


def test_subfolders_are_read_when_asked(tmp_path: Path) -> None:
    root = files(
        tmp_path / "x",
        "images/left/1.png images/right/1.png images/2.png",
        "masks/left/1_v.png masks/right/1_v.png masks/2_v.png",
    )
    os.symlink(root / "images", root / "images" / "left" / "loop")
    (root / "split.csv").write_text("id,split\nleft/1.png,train\nright_1,test\n2.png,\n")
    made, ids = take(root, recursive=True, mask_suffix="_v", split="split.csv")
    assert ids == ["2", "left_1", "right_1"]
    assert made.notes == (FULL.format(3),)
    with Store.open(tmp_path / "s.h5") as store:
        assert [source.split for source in store.sources] == ["", "train", "test"]
    (root / "split.csv").write_text("id,split\n1.png,train\n")
    assert "no image is called '1.png'" in refusal(
        root, recursive=True, mask_suffix="_v", split="split.csv"
    )
    image(root / "images" / "left_1.png")
    assert "images: left/1.png and left_1.png would both be 'left_1'" in refusal(
        root, recursive=True, mask_suffix="_v"
    )


def test_a_folder_per_patient(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "p1/image.png p2/image.png", "p1/vessels.png p2/vessels.png")
    names = {"images": ".", "masks": ".", "image_suffix": "image", "mask_suffix": "vessels"}
    made, ids = take(root, recursive=True, **names)
    assert ids == ["p1", "p2"]
    assert made.notes == (FULL.format(2),)


def test_masks_inside_the_folder_of_images_are_no_images(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "a.png b.png", "masks/a.png masks/b.png")
    for recursive in (False, True):
        made, ids = take(root, images=".", recursive=recursive)
        assert ids == ["a", "b"]
        assert made.notes == (FULL.format(2),)


@pytest.mark.parametrize("name", ["fov", "FOV", "masks_fov", "mask"])
def test_an_unused_folder_of_fov_masks_is_said(tmp_path: Path, name: str) -> None:
    root = files(tmp_path / "x", "images/a.png", "masks/a.png")
    whole(root / name / "a.png")
    made, _ = take(root)
    note = f"{name}/ is not used: --fov {name} reads it as field-of-view masks"
    assert made.notes == (note, FULL.format(1))
    assert take(root, fov=name)[0].notes == ()


def test_other_folders_are_not_taken_for_fov_masks(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "images/a.png", "mask/a.png masks_2nd/a.png")
    (root / "fov").mkdir()
    assert take(root, masks="mask")[0].notes == (FULL.format(1),)


# Masks with more than two values.


def test_label_images(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "images/a.png images/b.png", "masks/b.png")
    labels = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint8) % 4
    save(root / "masks" / "a.png", labels)
    assert refusal(root).endswith(
        "masks/a.png: the mask is not binary, it also holds 1, 2, 3; allowed: a binary mask: 0 and "
        "255, or 0 and 1; --values 1,2,3 takes these values as vessel, --threshold 2 takes values "
        "of 2 or more as vessel"
    )
    assert refusal(root, values="1,3") == (
        "masks/b.png: the mask holds 0 and 255, of which --values 1,3 names none; --values 1,3,255 "
        "takes 255 too; with --threshold 128 beside it, --values is for palette images only"
    )
    save(root / "masks" / "b.png", (np.arange(720).reshape(SIZE) % 2).astype(np.uint8))
    for values in ("1,3", [1, 3], "1, 3, 1"):
        made, _ = take(root, values=values)
        with Store.open(tmp_path / "s.h5") as store:
            np.testing.assert_array_equal(store.target(0), (labels == 1) | (labels == 3))
            assert store.target(1).mean() == 0.5
            assert store.importer["values"] == [1, 3]
            assert store.sources[0].lineage["vessel_values"] == [1, 3]
            assert store.sources[0].lineage["background_values"] == [0, 2]
    assert made.notes[0] == "values taken for vessel in 2 mask(s): 1, 3; for background: 0, 2"
    made, _ = take(root, values=7)
    assert made.notes[1] == "no mask holds the value(s) 7"


def test_a_folder_of_inverted_masks(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "images/a.png", "masks/a.png")
    take(root)
    with Store.open(tmp_path / "s.h5") as store:
        target = np.asarray(store.target(0))
    with Image.open(root / "masks" / "a.png") as picture:
        save(root / "masks" / "a.png", 255 - np.asarray(picture))
    made, _ = take(root, values=0)
    with Store.open(tmp_path / "s.h5") as store:
        np.testing.assert_array_equal(store.target(0), target)
    assert made.notes[0] == "values taken for vessel in 1 mask(s): 0; for background: 255"


def test_palette_grey_and_plain_masks_in_one_folder(tmp_path: Path) -> None:
    root = files(
        tmp_path / "x", "images/a.png images/b.png images/c.png", "masks/a.png masks/b.jpg"
    )
    indices = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint8) % 3
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 200] + [0] * 759)
    picture.save(root / "masks" / "c.png")
    made, _ = take(root, values=2, threshold=128)
    with Store.open(tmp_path / "s.h5") as store:
        np.testing.assert_array_equal(store.target(0), store.target(1))
        np.testing.assert_array_equal(store.target(2), indices == 2)
    assert made.notes[:2] == (
        "values of 128 or more are vessel in 1 mask(s), 1 binary already",
        "values taken for vessel in 1 mask(s): 2; for background: 0, 1",
    )


def test_palette_masks_by_index(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "images/a.png", "")
    indices = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint8) % 3
    picture = Image.fromarray(indices).convert("P")
    picture.putpalette([0, 0, 0, 200, 0, 0, 0, 0, 200] + [0] * 759)
    (root / "masks").mkdir()
    picture.save(root / "masks" / "a.png")
    assert refusal(root).endswith(
        "--values names the indices that are vessel (in use: 0, 1, 2): --values 1"
    )
    take(root, values="2")
    with Store.open(tmp_path / "s.h5") as store:
        np.testing.assert_array_equal(store.target(0), indices == 2)
    # An index that is transparent is an index all the same.
    picture.save(root / "masks" / "a.png", transparency=0)
    assert refusal(root).endswith("(in use: 0, 1, 2): --values 1")
    take(root, values="1,2")
    with Store.open(tmp_path / "s.h5") as store:
        np.testing.assert_array_equal(store.target(0), indices > 0)


def test_a_soft_mask_and_a_soft_fov_mask(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "images/a.png", "")
    soft = np.linspace(0, 255, SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint8)
    save(root / "masks" / "a.png", soft)
    save(root / "fov" / "a.png", soft)
    assert refusal(root).endswith("--threshold 128 takes values of 128 or more as vessel")
    take(root, threshold="65", fov="fov")
    with Store.open(tmp_path / "s.h5") as store:
        np.testing.assert_array_equal(store.target(0), soft >= 65)
        np.testing.assert_array_equal(store.fov(0), soft >= 65)
    (root / "masks" / "a.png").unlink()
    mask(root / "masks" / "a.png")
    assert refusal(root, fov="fov").endswith("takes values of 128 or more as inside")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"values": "1,b"}, "values: '1,b' is not allowed; allowed: whole numbers with commas"),
        ({"values": "1.5"}, "values: '1.5' is not allowed; allowed: whole numbers with commas"),
        ({"values": [1.5]}, "values: [1.5] is not allowed"),
        ({"values": [True]}, "values: [True] is not allowed"),
        ({"values": ""}, "values: '' is not allowed"),
        ({"threshold": "0"}, "threshold: '0' is not allowed; allowed: above 0"),
        ({"threshold": "nan"}, "threshold: 'nan' is not allowed"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, object], line: str) -> None:
    root = files(tmp_path / "x", "images/a.png", "masks/a.png")
    assert refusal(root, **arguments).startswith(line)


# What looks wrong.


def test_the_import_says_what_looks_wrong(tmp_path: Path) -> None:
    root = files(tmp_path / "x", "images/a.png images/b.png images/c.png", "masks/a.png")
    with Image.open(root / "masks" / "a.png") as picture:
        save(root / "masks" / "b.png", 255 - np.asarray(picture))
    save(root / "masks" / "c.png", np.zeros(SIZE, np.uint8))
    save(root / "images" / "c.png", np.full((*SIZE, 3), 3, np.uint8))
    made, _ = take(root)
    assert list(made.notes) == [
        FULL.format(3),
        "suspicious: the mask has no vessel inside the fov in 1 of 3 source(s): c",
        "suspicious: the mask may be inverted, more than 70 % of the fov is vessel in 1 of 3 "
        "source(s): b",
        "suspicious: the image is nearly black (99 % of the fov below 16 of 255) in 1 of 3 "
        "source(s): c",
    ]
