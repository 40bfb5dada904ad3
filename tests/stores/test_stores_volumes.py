"""The importer of volumes: every format, labels and keypoints, and what it refuses."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import h5py
import mrcfile
import nibabel
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from vesselflow.errors import UserError
from vesselflow.stores.importers.run import Imported, import_store
from vesselflow.stores.importers.volume_files import read_volume, volume_stem
from vesselflow.stores.store import Store, verify

SHAPE = (6, 10, 14)


def values(dtype: str = "uint16", seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, shape).astype(dtype)


def write(path: Path, array: np.ndarray, spacing: tuple[float, ...] | None = None) -> None:
    """A file of the format that its name says; the spacing in micrometres."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.name
    if name.endswith((".tif", ".tiff")):
        told: dict[str, Any] = {}
        if spacing:
            told = {
                "imagej": True,
                "resolution": (1 / spacing[2], 1 / spacing[1]),
                "metadata": {"spacing": spacing[0], "unit": "um", "axes": "ZYX"},
            }
        tifffile.imwrite(path, array, photometric="minisblack", **told)
    elif name.endswith(".h5"):
        with h5py.File(path, "w") as file:
            file["volume"] = array
            if spacing:
                file["volume"].attrs["element_size_um"] = spacing
    elif name.endswith(".mrc"):
        with mrcfile.new(path, overwrite=True) as file:
            file.set_data(array)
            if spacing:
                file.voxel_size = tuple(1e4 * side for side in reversed(spacing))
    elif name.endswith((".nii", ".nii.gz")):
        image = nibabel.Nifti1Image(array.T, np.eye(4))
        if spacing:
            image.header.set_zooms([side * 1e-3 for side in reversed(spacing)])
            image.header.set_xyzt_units("mm")
        nibabel.save(image, path)
    else:
        group = zarr.open_group(str(path), mode="w")
        group.create_array("0", data=array)
        if spacing:
            axes = [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
            scale = [{"type": "scale", "scale": list(spacing)}]
            level = {"path": "0", "coordinateTransformations": scale}
            group.attrs["multiscales"] = [{"axes": axes, "datasets": [level]}]


FORMATS = ("tif", "h5", "mrc", "nii", "nii.gz", "zarr")


def imported(root: Path, out: Path, **options: Any) -> Imported:
    made = import_store("volume", root, out, options)
    assert verify(out) == []
    return made


def points(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_gives_its_values_and_its_spacing(suffix: str, tmp_path: Path) -> None:
    array, spacing = values(), (4.0, 2.5, 2.0)
    labels = (values(seed=1) > 150).astype(np.uint16)
    write(tmp_path / "data" / "images" / f"a.{suffix}", array, spacing)
    write(tmp_path / "data" / "labels" / f"a.{suffix}", labels)
    out = tmp_path / "a.h5"
    made = imported(tmp_path / "data", out)
    assert made.notes == ("no fov mask: every pixel counts in 1 source(s)",)
    with Store.open(out) as store:
        assert store.domain == "data"
        assert store.layout.dtype == "uint16"
        assert store.layout.axes == "zyx"
        np.testing.assert_array_equal(store.image(0)[..., 0], array)
        np.testing.assert_array_equal(store.target(0), labels)
        assert store.sources[0].spacing_um == pytest.approx(spacing)
        assert store.sources[0].lineage["files"]["image"]["name"] == f"a.{suffix}"
        digest = store.digest
    # What the store is called by does not hang on the format.
    write(tmp_path / "other" / "images" / "a.tif", array)
    write(tmp_path / "other" / "labels" / "a.tif", labels)
    assert imported(tmp_path / "other", tmp_path / "b.h5").digest == digest


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_says_no_spacing_has_none(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / "images" / f"a.{suffix}", values())
    write(tmp_path / "labels" / f"a.{suffix}", values() // 100 // 2 * 0)
    made = imported(tmp_path, tmp_path / "a.h5")
    with Store.open(tmp_path / "a.h5") as store:
        assert store.sources[0].spacing_um is None
    assert "no spacing is known, and none given, for 1 source(s): a" in made.notes


@pytest.mark.parametrize("suffix", FORMATS)
def test_truncated_and_foreign_files_are_one_line(suffix: str, tmp_path: Path) -> None:
    whole = tmp_path / f"a.{suffix}"
    write(whole, values("uint16", shape=(20, 40, 50)))
    if whole.is_dir():
        part = max((p for p in whole.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    else:
        part = whole
    content = part.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"something else" * 20):
        part.write_bytes(broken)
        with pytest.raises(UserError) as caught:
            read_volume(whole)
        assert "\n" not in str(caught.value)
        assert f"a.{suffix}" in str(caught.value)


def test_a_single_file_and_images_of_two_axes(tmp_path: Path) -> None:
    write(tmp_path / "m.mrc", values("float32", shape=(20, 30)), None)
    points(tmp_path / "m.csv", "x,y\n3.5,4\n29,19\n")
    out = tmp_path / "out.h5"
    made = import_store("volume", tmp_path / "m.mrc", out, {"keypoints": "m.csv"})
    assert made.sources == 1
    with Store.open(out) as store:
        assert store.domain == "m"
        assert (store.kind, store.layout.axes, store.layout.classes) == (
            "keypoint",
            "yx",
            ("particle",),
        )
        np.testing.assert_array_equal(store.keypoints(0).positions, [[4, 3.5], [19, 29]])
        assert store.layout.ds_factor == 16


def test_channels(tmp_path: Path) -> None:
    array = values("uint8", shape=(3, *SHAPE))
    for name, data, how in (
        ("first", array, "first"),
        ("last", np.moveaxis(array, 0, -1), "last"),
    ):
        write(tmp_path / name / "images" / "a.h5", data)
        write(tmp_path / name / "labels" / "a.h5", array[0] // 100 * 0)
        with pytest.raises(UserError, match=r"has 4 axes: .*--channels first or last"):
            imported(tmp_path / name, tmp_path / "no.h5")
        imported(tmp_path / name, tmp_path / f"{name}.h5", channels=how)
        with Store.open(tmp_path / f"{name}.h5") as store:
            np.testing.assert_array_equal(store.image(0), np.moveaxis(array, 0, -1))
    # A TIFF file says itself what its axes are.
    path = tmp_path / "tiff" / "images" / "a.tif"
    path.parent.mkdir(parents=True)
    tifffile.imwrite(path, np.moveaxis(array, 0, 1), imagej=True, metadata={"axes": "ZCYX"})
    write(tmp_path / "tiff" / "labels" / "a.tif", array[0] // 100 * 0)
    imported(tmp_path / "tiff", tmp_path / "tiff.h5", channels="first")
    with Store.open(tmp_path / "tiff.h5") as store:
        np.testing.assert_array_equal(store.image(0), np.moveaxis(array, 0, -1))
    assert not (tmp_path / "no.h5").exists()


@pytest.mark.parametrize(
    ("given", "options", "kept"),
    [
        ("int8", {}, "float16"),
        ("int16", {}, "float32"),
        ("float32", {}, "float32"),
        ("float32", {"dtype": "uint8"}, "uint8"),
        ("float64", {"dtype": "float16"}, "float16"),
        ("int32", {"dtype": "uint16"}, "uint16"),
    ],
)
def test_types(given: str, options: dict[str, str], kept: str, tmp_path: Path) -> None:
    array = (values("int16") // 2).astype(given)
    write(tmp_path / "images" / "a.h5", array)
    write(tmp_path / "labels" / "a.h5", (array > 50).astype(np.uint8))
    imported(tmp_path, tmp_path / "a.h5", **options)
    with Store.open(tmp_path / "a.h5") as store:
        assert store.image(0).dtype == np.dtype(kept)
        np.testing.assert_array_equal(store.image(0)[..., 0], array)


@pytest.mark.parametrize(
    ("array", "options", "match"),
    [
        (values("float64"), {}, "holds float64; allowed: uint8, .*--dtype float32"),
        (values("int16") - 5, {"dtype": "uint8"}, "values from -5 to 194, which uint8 cannot hold"),
        (values("float32") / 3, {"dtype": "uint8"}, "no whole numbers, which uint8 cannot hold"),
        (values("float32") * 1e4, {"dtype": "float16"}, "which float16 cannot hold"),
        (np.full(SHAPE, np.inf, np.float32), {}, "holds values that are not finite"),
        (values("complex64"), {}, "holds complex64"),
    ],
    ids=["float64", "negative", "fractions", "large", "infinite", "complex"],
)
def test_values_that_no_store_holds(
    array: np.ndarray, options: dict[str, str], match: str, tmp_path: Path
) -> None:
    write(tmp_path / "images" / "a.h5", array)
    write(tmp_path / "labels" / "a.h5", values("uint8"))
    with pytest.raises(UserError, match=match) as caught:
        imported(tmp_path, tmp_path / "a.h5", **options)
    assert str(tmp_path / "images" / "a.h5") in str(caught.value)
    assert not (tmp_path / "a.h5").exists()


def test_labels_of_classes_and_values(tmp_path: Path) -> None:
    labels = values("int16") % 3
    write(tmp_path / "images" / "a.mrc", values("float32"))
    write(tmp_path / "labels" / "a.mrc", labels)
    with pytest.raises(UserError, match=r"holds the labels 0, 1, 2; .*--values 1,3 .* --classes"):
        imported(tmp_path, tmp_path / "a.h5")
    imported(tmp_path, tmp_path / "a.h5", classes="artery,vein")
    with Store.open(tmp_path / "a.h5") as store:
        assert (store.layout.target, store.layout.classes) == ("labels", ("artery", "vein"))
        np.testing.assert_array_equal(store.target(0), labels)
    imported(tmp_path, tmp_path / "b.h5", values="2")
    with Store.open(tmp_path / "b.h5") as store:
        np.testing.assert_array_equal(store.target(0), labels == 2)
    with pytest.raises(UserError, match="holds the label 2; allowed: 0 to 1, for artery"):
        imported(tmp_path, tmp_path / "c.h5", classes="artery")
    write(tmp_path / "labels" / "a.mrc", labels[:, 1:])
    with pytest.raises(UserError, match="is 6 x 9 x 14, the volume 6 x 10 x 14"):
        imported(tmp_path, tmp_path / "c.h5", classes="artery,vein")
    write(tmp_path / "labels" / "a.mrc", labels.astype(np.float32) / 2)
    with pytest.raises(UserError, match="labels are no whole numbers"):
        imported(tmp_path, tmp_path / "c.h5", classes="artery,vein")


def test_datasets_of_one_file(tmp_path: Path) -> None:
    path = tmp_path / "images" / "a.h5"
    path.parent.mkdir()
    labels = (values() > 100).astype(np.uint8)
    with h5py.File(path, "w") as file:
        file["deep/raw"], file["labels"], file["name"] = values(), labels, 3.0
    with pytest.raises(UserError, match=r"holds 2 arrays; allowed: deep/raw 6x10x14, labels .*--d"):
        imported(tmp_path, tmp_path / "o.h5", label_dataset="labels")
    with pytest.raises(UserError, match="has no dataset 'raw'; allowed: deep/raw"):
        imported(tmp_path, tmp_path / "o.h5", dataset="raw", label_dataset="labels")
    imported(tmp_path, tmp_path / "o.h5", dataset="/deep/raw", label_dataset="labels")
    with Store.open(tmp_path / "o.h5") as store:
        np.testing.assert_array_equal(store.image(0)[..., 0], values())
        np.testing.assert_array_equal(store.target(0), labels)


def test_suffixes_groups_and_splits(tmp_path: Path) -> None:
    for name in ("p1_a", "p1_b", "p2_a"):
        write(tmp_path / f"{name}_raw.tif", values("uint8"))
        write(tmp_path / f"{name}_seg.tif", values("uint8") // 100 * 0)
    points(tmp_path / "split.csv", "id,split\np1_a,train\np1_b,train\np2_a,test\n")
    made = imported(
        tmp_path,
        tmp_path / "o.h5",
        images=".",
        labels=".",
        image_suffix="_raw",
        label_suffix="_seg",
        group="^(p[0-9])",
        split="split.csv",
    )
    assert made.sources == 3
    with Store.open(tmp_path / "o.h5") as store:
        assert [(s.id, s.group, s.split) for s in store.sources] == [
            ("p1_a", "p1", "train"),
            ("p1_b", "p1", "train"),
            ("p2_a", "p2", "test"),
        ]


def write_slices(folder: Path, array: np.ndarray) -> None:
    folder.mkdir(parents=True)
    for number, plane in enumerate(array):
        tifffile.imwrite(folder / f"slice{number}.tif", plane)


def test_slices_in_files_of_their_own(tmp_path: Path) -> None:
    array = values("uint16", shape=(12, 10, 14))
    labels = (array > 100).astype(np.uint8)
    write_slices(tmp_path / "images" / "kidney", array)
    write_slices(tmp_path / "labels" / "kidney", labels)
    (tmp_path / "images" / "notes").mkdir()
    with pytest.raises(UserError, match=r"no volumes found; allowed: tif, .*; --slices takes fold"):
        imported(tmp_path, tmp_path / "o.h5")
    imported(tmp_path, tmp_path / "o.h5", slices=True, spacing_um="50")
    with Store.open(tmp_path / "o.h5") as store:
        assert [source.id for source in store.sources] == ["kidney"]
        # slice10 comes after slice9.
        np.testing.assert_array_equal(store.image(0)[..., 0], array)
        np.testing.assert_array_equal(store.target(0), labels)
        assert store.sources[0].lineage["files"]["image"]["name"] == "kidney"
    tifffile.imwrite(tmp_path / "images" / "kidney" / "slice7.tif", array[7, 1:])
    with pytest.raises(
        UserError, match=r"slice7\.tif: is 9 x 14 uint16, the first slice 10 x 14 uint16"
    ):
        imported(tmp_path, tmp_path / "p.h5", slices=True)
    tifffile.imwrite(
        tmp_path / "images" / "kidney" / "slice7.tif", array[:4], photometric="minisblack"
    )
    with pytest.raises(UserError, match=r"slice7\.tif: a slice of 4 x 10 x 14; allowed: one plane"):
        imported(tmp_path, tmp_path / "p.h5", slices=True)
    assert not (tmp_path / "p.h5").exists()


# -- keypoints -------------------------------------------------------------------------------------


def test_one_csv_for_several_volumes_with_classes(tmp_path: Path) -> None:
    for name in ("t1", "t2", "t3"):
        write(tmp_path / "images" / f"{name}.mrc", values("float32"))
    text = "source,class,x,y,z\nt1,rod,13,9,5\nt1,shell,1.5,2.5,3.25\nt2,rod,-0.5,0,0\n"
    points(tmp_path / "all.csv", text)
    made = imported(tmp_path, tmp_path / "o.h5", keypoints="all.csv", spacing_angstrom="10")
    assert "1 volume(s) without keypoints: t3" in made.notes
    with Store.open(tmp_path / "o.h5") as store:
        assert store.layout.classes == ("rod", "shell")
        np.testing.assert_array_equal(store.keypoints(0).positions, [[5, 9, 13], [3.25, 2.5, 1.5]])
        np.testing.assert_array_equal(store.keypoints(0).classes, [0, 1])
        assert [s.keypoint_counts for s in store.sources] == [(1, 1), (1, 0), (0, 0)]
        assert store.sources[0].spacing_um == pytest.approx((1e-3,) * 3)
    options = {"classes": "shell,rod", "ds_factor": "4", "sigma_angstrom": "40"}
    imported(tmp_path, tmp_path / "p.h5", keypoints="all.csv", **options)
    with Store.open(tmp_path / "p.h5") as store:
        assert store.layout.classes == ("shell", "rod")
        assert (store.layout.ds_factor, store.layout.sigma_angstrom) == (4, 40.0)
        np.testing.assert_array_equal(store.keypoints(0).classes, [1, 0])


def test_angstrom_are_divided_by_the_spacing(tmp_path: Path) -> None:
    write(tmp_path / "images" / "t.mrc", values("float32"), (2e-3, 1e-3, 1e-3))
    points(tmp_path / "points" / "t.csv", "z_angstrom,y_angstrom,x_angstrom\n60,45,130\n")
    with pytest.raises(UserError, match="'z_angstrom' is in angstrom, the units are voxel; --uni"):
        imported(tmp_path, tmp_path / "o.h5", keypoints="points")
    imported(tmp_path, tmp_path / "o.h5", keypoints="points", units="angstrom")
    with Store.open(tmp_path / "o.h5") as store:
        np.testing.assert_allclose(store.keypoints(0).positions, [[3, 4.5, 13]])
    write(tmp_path / "images" / "t.mrc", values("float32"))
    with pytest.raises(UserError, match=r"no spacing of t\.mrc is known; --spacing-angstrom"):
        imported(tmp_path, tmp_path / "p.h5", keypoints="points", units="angstrom")


STAR = """
data_optics

loop_
_rlnOpticsGroup #1
1

data_particles

loop_
_rlnTomoName #1
_rlnCoordinateX #2
_rlnCoordinateY #3
_rlnCoordinateZ #4
_rlnClassNumber #5
{rows}
"""


def test_star(tmp_path: Path) -> None:
    for name in ("t1", "t2"):
        write(tmp_path / "images" / f"{name}.mrc", values("float32"))
    rows = "t1.mrc 13.25 9.0 5.0 2\nTomograms/t2.mrc 1.0 2.0 3.0 10\n"
    points(tmp_path / "p.star", STAR.format(rows=rows))
    imported(tmp_path, tmp_path / "o.h5", keypoints="p.star", class_column="rlnClassNumber")
    with Store.open(tmp_path / "o.h5") as store:
        assert store.layout.classes == ("2", "10")
        np.testing.assert_array_equal(store.keypoints(0).positions, [[5, 9, 13.25]])
        np.testing.assert_array_equal(store.keypoints(1).positions, [[3, 2, 1]])
    points(tmp_path / "p.star", STAR.format(rows="t9.mrc 1 1 1 1\n"))
    with pytest.raises(UserError, match=r"p\.star: row 1: no volume is called 't9\.mrc'; allow"):
        imported(tmp_path, tmp_path / "p.h5", keypoints="p.star")
    centred = STAR.replace("_rlnCoordinate", "_rlnCenteredCoordinate").replace("Z #4", "ZAngst #4")
    points(tmp_path / "p.star", centred.format(rows="t1.mrc 1 1 1 1\n"))
    with pytest.raises(UserError, match="holds centred coordinates in angstrom"):
        imported(tmp_path, tmp_path / "p.h5", keypoints="p.star")
    points(tmp_path / "p.star", "what is this")
    with pytest.raises(UserError, match=r"p\.star"):
        imported(tmp_path, tmp_path / "p.h5", keypoints="p.star")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        ("1,2,3\n4,5,6\n", "has no header: its first line is 1, 2, 3; allowed: a first line"),
        ("a,b,c\n4,5,6\n", "has no columns z, y and x: its first line is a, b, c"),
        ("z;y;x\n4;5;6\n", "has no columns z, y and x: its first line is z;y;x"),
        ("z_nm,y_nm,x_nm\n1,2,3\n", "the column 'z_nm' is in 'nm'; allowed: voxel or angstrom"),
        ("z,y,y,x\n1,2,3,4\n", "names a column twice"),
        ("z,y,x\n1,2\n", r"line 2: has 2 value\(s\), the header 3"),
        ("z,y,x\n1,2,3\n\n1,two,3\n", "line 4: y 'two' is no finite number"),
        ("z,y,x\n1,nan,3\n", "line 2: y 'nan' is no finite number"),
        ("z,y,x\n1,,3\n", "line 2: y '' is no finite number"),
        (
            "z,y,x\n1,2,3\n1,10,3\n1,2,99\n",
            r"line 3: the keypoint at voxel \(1, 10, 3\) lies outside a\.tif; allowed: places in "
            r"6 x 10 x 14 voxels \(z, y, x\); 2 of 3 do: check --units",
        ),
        ("y,x\n1,2\n", r"has the coordinates y,x, a\.tif 3 axes"),
        ("z,y,x,class\n1,2,3,\n", "line 2: has no class"),
    ],
)
def test_keypoints_that_do_not_fit_are_one_line(text: str, match: str, tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.tif", values("uint8"))
    points(tmp_path / "k.csv", text)
    with pytest.raises(UserError, match=match) as caught:
        imported(tmp_path, tmp_path / "o.h5", keypoints="k.csv")
    assert "\n" not in str(caught.value)
    assert "k.csv" in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == ["images", "k.csv"]


def test_classes_that_are_not_known(tmp_path: Path) -> None:
    write(tmp_path / "images" / "a.tif", values("uint8"))
    points(tmp_path / "k.csv", "z,y,x,class\n1,2,3,rod\n1,2,3,ring\n")
    with pytest.raises(UserError, match=r"k\.csv: line 3: unknown class 'ring'; allowed: rod, sh"):
        imported(tmp_path, tmp_path / "o.h5", keypoints="k.csv", classes="rod,shell")
    with pytest.raises(UserError, match="has no column 'kind'; allowed: z, y, x, class"):
        imported(tmp_path, tmp_path / "o.h5", keypoints="k.csv", class_column="kind")


def broken_slice(root: Path) -> None:
    path = root / "images" / "a.tif"
    with tifffile.TiffWriter(path) as file:
        for shape in ((10, 14), (10, 14), (10, 13)):
            file.write(values("uint8", shape=shape), contiguous=False)


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        (broken_slice, {}, r"images/a\.tif: slice 3 is 10 x 13 uint8, the first 10 x 14 uint8"),
        (
            lambda root: (root / "labels" / "a.tif").unlink(),
            {},
            r"image a\.tif has no label vol",
        ),
        (
            lambda root: None,
            {"images": "raw"},
            "no such file or folder; SOURCE holds images, lab",
        ),
        (lambda root: None, {"keypoints": "k.csv"}, r"k\.csv: no such file or folder"),
        (lambda root: None, {"keypoints": "labels"}, r"has no keypoints \(a\.csv or \.star\)"),
        (lambda root: None, {"spacing_um": "0"}, "spacing_um: '0' is not allowed"),
        (lambda root: None, {"spacing_um": "1,2"}, "2 spacings for 3 axes; allowed: 1 or 3"),
        (
            lambda root: None,
            {"spacing_um": "1", "spacing_angstrom": "1"},
            "is given beside spac",
        ),
        (lambda root: None, {"dataset": "raw"}, "has no dataset 'raw': only HDF5 and Zarr have"),
        (
            lambda root: None,
            {"units": "nm"},
            "units: 'nm' is not allowed; allowed: voxel, angst",
        ),
        (lambda root: None, {"labels": "images"}, "volumes and labels would be the same files"),
        (
            lambda root: write(root / "images" / "a.mrc", values("float32")),
            {},
            r"a\.mrc and a\.tif would both be 'a'",
        ),
        (
            lambda root: write(root / "images" / "b.tif", values("uint8")),
            {"labels": "labels/a.tif"},
            "one label volume for 2 volumes",
        ),
    ],
)
def test_folders_that_do_not_fit_are_one_line(
    change: Callable[[Path], None], options: dict[str, str], match: str, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    write(root / "images" / "a.tif", values("uint8"))
    write(root / "labels" / "a.tif", values("uint8") // 100 * 0)
    change(root)
    with pytest.raises(UserError, match=match) as caught:
        imported(root, tmp_path / "o.h5", **options)
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["data"]


def test_volumes_of_other_sizes_share_a_store_and_of_other_types_do_not(tmp_path: Path) -> None:
    for name, shape in (("a", SHAPE), ("b", (3, 8, 9))):
        write(tmp_path / "images" / f"{name}.tif", values("uint8", shape=shape))
        write(tmp_path / "labels" / f"{name}.tif", values("uint8", shape=shape) // 100 * 0)
    imported(tmp_path, tmp_path / "o.h5")
    with Store.open(tmp_path / "o.h5") as store:
        assert [source.shape for source in store.sources] == [SHAPE, (3, 8, 9)]
    write(tmp_path / "images" / "b.tif", values("uint16", shape=(3, 8, 9)))
    with pytest.raises(UserError, match="source 'b': image must be uint8"):
        imported(tmp_path, tmp_path / "p.h5")


def test_a_library_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.mrc", values("float32"))
    monkeypatch.setitem(sys.modules, "mrcfile", None)
    with pytest.raises(UserError, match=r"needs the library mrcfile; pip install 'vesselflow\[vol"):
        read_volume(tmp_path / "a.mrc")


@pytest.mark.skipif(find_spec("imagecodecs") is not None, reason="imagecodecs is installed")
def test_a_compression_that_needs_another_library_is_named(tmp_path: Path) -> None:
    Image.fromarray(values("uint8")[0]).save(tmp_path / "a.tif", compression="tiff_lzw")
    with pytest.raises(UserError, match="save it without compression, or pip install imagecodecs"):
        read_volume(tmp_path / "a.tif")


def test_stems() -> None:
    names = ("a.nii.gz", "b.ome.tif", "c.x.MRC", "d.zarr", "e.h5")
    assert [volume_stem(Path(name)) for name in names] == ["a", "b", "c.x", "d", "e"]


# -- real data -------------------------------------------------------------------------------------


def test_cells3d(tmp_path: Path) -> None:
    folder = os.environ.get("VESSELFLOW_TEST_DATA", "")
    root = Path(folder) / "cells3d"
    if not folder or not root.is_dir():
        pytest.skip("VESSELFLOW_TEST_DATA names no folder with cells3d/ in it")
    out = tmp_path / "cells.h5"
    options = {
        "images": ".",
        "dataset": "signal",
        "keypoints": "cellfinder_crop_points.csv",
        "class_column": "type",
        "spacing_um": "5,2,2",
    }
    assert imported(root, out, **options).sources == 1
    with Store.open(out) as store, h5py.File(root / "cellfinder_crop.h5") as file:
        assert store.sources[0].shape == (30, 510, 667)
        assert store.layout.dtype == "uint16"
        assert store.sources[0].keypoint_counts == (56,)
        np.testing.assert_array_equal(store.keypoints(0).positions, file["points_zyx"][()])
        np.testing.assert_array_equal(
            store.image(0, (0, 100, 100, 5, 140, 150))[..., 0], file["signal"][:5, 100:140, 100:150]
        )
