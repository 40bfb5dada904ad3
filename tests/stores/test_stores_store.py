"""The patch store: what goes in comes out, and nothing broken is opened."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vesselflow.errors import ShapeError, UserError
from vesselflow.stores.schema import HEADER_BYTES, MAGIC, array_digest, fov_bounds, store_digest
from vesselflow.stores.store import Source, Store, verify, write_store

IMPORTER = {"name": "test", "suffix": ""}


def make_source(name: str = "s0", size: tuple[int, int] = (70, 90), seed: int = 0) -> Source:
    rng = np.random.default_rng([seed, *name.encode()])
    fov = np.zeros(size, np.uint8)
    fov[5:-3, 7:-11] = 1
    return Source(
        id=name,
        group=name[:1],
        split="train",
        image=rng.integers(0, 256, (*size, 3), dtype=np.uint8),
        target=(rng.random(size) < 0.1).astype(np.uint8),
        fov=fov,
        lineage={"files": {"image": {"name": f"{name}.png", "sha256": "0" * 64}}},
        spacing_um=(7.5, 8.0),
    )


def make_store(path: Path, count: int = 3, **options: object) -> str:
    sources = [make_source(f"s{k}") for k in range(count)]
    return write_store(path, sources, domain="d", importer=IMPORTER, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "whole.h5"
    make_store(path)
    return path


def edited(whole: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "edited.h5"
    shutil.copy(whole, copy)
    return copy


def test_round_trip(whole: Path) -> None:
    with Store.open(whole) as store:
        assert (store.kind, store.domain, store.importer) == ("patch", "d", IMPORTER)
        assert len(store) == 3
        for index, info in enumerate(store.sources):
            source = make_source(f"s{index}")
            assert (info.index, info.id, info.group, info.split) == (index, source.id, "s", "train")
            assert (info.height, info.width, info.channels) == (70, 90, 3)
            assert info.lineage == source.lineage
            assert info.spacing_um == (7.5, 8.0)
            np.testing.assert_array_equal(store.image(index), source.image)
            np.testing.assert_array_equal(store.target(index), source.target)
            np.testing.assert_array_equal(store.fov(index), source.fov)
            assert store.image(index).dtype == store.fov(index).dtype == np.uint8
            assert store.fov_box(index) == (5, 7, 67, 79)
    assert verify(whole) == []


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_window_is_the_slice(whole: Path, data: st.DataObject) -> None:
    y0 = data.draw(st.integers(0, 69))
    x0 = data.draw(st.integers(0, 89))
    y1, x1 = data.draw(st.integers(y0 + 1, 70)), data.draw(st.integers(x0 + 1, 90))
    source = make_source("s1")
    with Store.open(whole) as store:
        window = (y0, x0, y1, x1)
        np.testing.assert_array_equal(store.image(1, window), source.image[y0:y1, x0:x1])
        np.testing.assert_array_equal(store.target(1, window), source.target[y0:y1, x0:x1])


@pytest.mark.parametrize("window", [(0, 0, 71, 9), (-1, 0, 5, 5), (4, 4, 4, 9), (0, 80, 5, 91)])
def test_a_window_outside_is_refused(whole: Path, window: tuple[int, int, int, int]) -> None:
    with Store.open(whole) as store, pytest.raises(ShapeError, match="does not lie in source 's0'"):
        store.image(0, window)


def test_large_sources_are_read_in_parts(tmp_path: Path) -> None:
    path = tmp_path / "large.h5"
    write_store(path, [make_source("big", (600, 520))], domain="d", importer=IMPORTER)
    with h5py.File(path) as file:
        assert file["sources/0/image"].chunks == (256, 256, 3)
        assert file["sources/0/target"].chunks == (256, 256)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_truncated_at_any_byte_is_refused(whole: Path, data: st.DataObject) -> None:
    content = whole.read_bytes()
    keep = data.draw(
        st.integers(0, len(content) - 1)
        | st.integers(0, HEADER_BYTES + 100)
        | st.integers(len(content) - 100, len(content) - 1)
    )
    cut = whole.with_name("cut.h5")
    cut.write_bytes(content[:keep])
    with pytest.raises(UserError, match=r"truncated|is empty") as caught:
        Store.open(cut)
    assert "\n" not in str(caught.value)
    assert len(verify(cut)) == 1


def test_bytes_added_at_the_end_are_refused(whole: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer.h5"
    longer.write_bytes(whole.read_bytes() + b"x")
    with pytest.raises(UserError, match="damaged"):
        Store.open(longer)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_a_flipped_byte_never_gives_other_pixels(whole: Path, data: st.DataObject) -> None:
    """Any single damaged byte is a fault, or touches nothing that the store says."""
    content = bytearray(whole.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    path = whole.with_name("flipped.h5")
    path.write_bytes(bytes(content))
    if verify(path) == []:
        with Store.open(whole) as good, Store.open(path) as store:
            assert store.digest == good.digest
            for index in range(3):
                np.testing.assert_array_equal(store.image(index), good.image(index))


def test_missing_foreign_and_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.h5: no such store"):
        Store.open(tmp_path / "none.h5")
    with pytest.raises(UserError, match="no such store"):
        verify(tmp_path / "none.h5")
    with pytest.raises(UserError, match="is a folder"):
        Store.open(tmp_path)
    text = tmp_path / "text.h5"
    text.write_text("images: none\n" * 100)
    with pytest.raises(UserError, match="not an HDF5 file"):
        Store.open(text)
    for userblock in (0, 512):
        foreign = tmp_path / f"foreign{userblock}.h5"
        with h5py.File(foreign, "w", userblock_size=userblock) as file:
            file["data"] = np.arange(5)
        with pytest.raises(UserError, match="not a vesselflow store"):
            Store.open(foreign)
        assert len(verify(foreign)) == 1


def test_newer_schema_and_other_kind_are_refused(whole: Path, tmp_path: Path) -> None:
    path = edited(whole, tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs.modify("schema", 3)
    with pytest.raises(UserError, match=r"schema 3, newer.*allowed: schema 1 to 2; update"):
        Store.open(path)
    path = edited(whole, tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs.modify("schema", 1)
        file.attrs["kind"] = "other"
    reseal(path)
    with pytest.raises(UserError, match="a store of kind 'other'; allowed: patch"):
        Store.open(path)


def reseal(path: Path) -> None:
    """Write the size anew after an edit that changed it."""
    with path.open("r+b") as file:
        file.write((MAGIC + f"{path.stat().st_size} bytes\n".encode()).ljust(HEADER_BYTES))


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("image", 7, "image's digest does not fit"),
        ("target", 1, "source's digest does not fit"),
        ("target", 3, "target holds 3, allowed are 0 and 1"),
        ("fov", 1, "fov box is"),
        ("fov", 0, "the fov is empty"),
    ],
)
def test_verify_names_the_source_and_the_fault(
    whole: Path, tmp_path: Path, name: str, value: int, fault: str
) -> None:
    path = edited(whole, tmp_path)
    with h5py.File(path, "r+") as file:
        file[f"sources/1/{name}"][...] = value
    reseal(path)
    faults = verify(path)
    assert any(line.startswith("source 's1': ") and fault in line for line in faults), faults


def test_a_damaged_chunk_is_one_line_for_its_source(whole: Path, tmp_path: Path) -> None:
    path = edited(whole, tmp_path)
    with h5py.File(path) as file:
        offset = file["sources/1/image"].id.get_chunk_info(0).byte_offset + HEADER_BYTES
    with path.open("r+b") as raw:
        raw.seek(offset + 500)
        raw.write(bytes(64))
    assert verify(path) == ["source 's1': image is damaged"]
    with Store.open(path) as store:
        store.image(0)
        with pytest.raises(UserError, match=r"edited\.h5: source 's1': image is damaged; make it"):
            store.image(1)


def test_verify_checks_the_digest_of_the_whole(whole: Path, tmp_path: Path) -> None:
    path = edited(whole, tmp_path)
    with h5py.File(path, "r+") as file:
        file.attrs["digest"] = "0" * 32
    reseal(path)
    assert verify(path) == ["the store's digest does not fit its sources"]


def test_equal_sources_give_equal_bytes(tmp_path: Path) -> None:
    digest = make_store(tmp_path / "one.h5")
    assert make_store(tmp_path / "sub" / "two.h5") == digest
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "sub" / "two.h5").read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        {"id": "other"},
        {"group": "other"},
        {"split": "test"},
        {"image": make_source("zz").image},
        {"target": make_source("zz").target},
        {"fov": np.ones((70, 90), np.uint8)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_sees_ids_groups_splits_and_arrays(
    tmp_path: Path, change: dict[str, object]
) -> None:
    base = make_source()
    one = write_store(tmp_path / "1.h5", [base], domain="d", importer={})
    other = write_store(tmp_path / "2.h5", [replace(base, **change)], domain="d", importer={})
    assert one != other


def test_the_digest_does_not_see_names_lineage_spacing_or_bool(tmp_path: Path) -> None:
    base = make_source()
    same = replace(
        base, lineage={}, spacing_um=None, target=base.target.astype(bool), fov=base.fov > 0
    )
    one = write_store(tmp_path / "1.h5", [base], domain="d", importer={})
    other = write_store(tmp_path / "2.h5", [same], domain="e", importer={"x": 1})
    assert one == other


def test_the_image_digest_is_that_of_the_image_alone(tmp_path: Path) -> None:
    base = make_source()
    make_store(tmp_path / "1.h5", 1)
    other = replace(base, id="x", target=np.zeros_like(base.target))
    write_store(tmp_path / "2.h5", [other], domain="d", importer={})
    with Store.open(tmp_path / "1.h5") as one, Store.open(tmp_path / "2.h5") as two:
        assert one.sources[0].image_digest == two.sources[0].image_digest
        assert one.sources[0].digest != two.sources[0].digest


def test_golden_digests() -> None:
    # A change of these renames every run that was ever made: raise the schema and say so.
    array = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    # blake2b-128 of '["image","|u1",[2,2,3]]' followed by the bytes 0..11, by coreutils:
    # { printf '["image","|u1",[2,2,3]]'; printf '\0\1..\13'; } | b2sum -l 128
    assert array_digest("image", array) == "5271354f25f6f405b29eaf38e03e80f7"
    # blake2b-128 of '["patch"]'
    assert store_digest([]) == "1ae1d6fa50cdebb758225bedfbd32ae0"


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 1)))
def test_fov_bounds_hold_all_pixels_and_are_tight(fov: np.ndarray) -> None:
    if not fov.any():
        with pytest.raises(ValueError, match="empty"):
            fov_bounds(fov)
        return
    y0, x0, y1, x1 = fov_bounds(fov)
    box = fov[y0:y1, x0:x1]
    assert box.sum() == fov.sum()
    assert box[0].any()
    assert box[-1].any()
    assert box[:, 0].any()
    assert box[:, -1].any()


def test_an_existing_file_is_kept_unless_asked(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    make_store(path, 1)
    before = path.read_bytes()
    with pytest.raises(UserError, match="exists already; --overwrite"):
        make_store(path, 2)
    assert path.read_bytes() == before
    make_store(path, 2, overwrite=True)
    with Store.open(path) as store:
        assert len(store) == 2


def leftovers(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_bad_sources_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    base = make_source()

    def write(*sources: Source) -> None:
        write_store(path, sources, domain="d", importer={})

    with pytest.raises(UserError, match="no sources"):
        write()
    with pytest.raises(UserError, match="two sources are called 's0'"):
        write(base, base)
    with pytest.raises(UserError, match=r"'g' has 1 channel\(s\), 's0' has 3"):
        write(base, replace(base, id="g", image=base.image[:, :, :1]))
    with pytest.raises(UserError, match="source 's0': target is"):
        write(replace(base, target=base.target[1:]))
    with pytest.raises(UserError, match="target holds 2"):
        write(replace(base, target=base.target * 2))
    with pytest.raises(UserError, match="fov is empty"):
        write(replace(base, fov=base.fov * 0))
    with pytest.raises(UserError, match="image must be uint8"):
        write(base, replace(base, id="t", image=base.image.astype(np.uint16)))
    with pytest.raises(UserError, match="must be uint8 0 or 1, is float64"):
        write(replace(base, fov=base.fov.astype(float)))
    with pytest.raises(UserError, match="split 'val' is not allowed"):
        write(replace(base, split="val"))
    with pytest.raises(UserError, match="spacing_um"):
        write(replace(base, spacing_um=(0.0, 1.0)))
    for name in ("", "a/b", "*", "a\nb"):
        with pytest.raises(UserError, match="an id must"):
            write(replace(base, id=name))
    assert leftovers(tmp_path) == []


def test_an_error_half_way_keeps_the_old_store(tmp_path: Path) -> None:
    path = tmp_path / "s.h5"
    make_store(path, 1)
    before = path.read_bytes()

    def breaking() -> Iterator[Source]:
        yield make_source("s0")
        raise RuntimeError("the reader broke")

    with pytest.raises(RuntimeError, match="the reader broke"):
        write_store(path, breaking(), domain="d", importer={}, overwrite=True)
    assert path.read_bytes() == before
    assert leftovers(tmp_path) == ["s.h5"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_write_permission_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot be written: Permission denied"):
        make_store(folder / "s.h5")


def test_a_file_in_the_way_of_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: "):
        make_store(tmp_path / "file" / "s.h5")
    with pytest.raises(UserError, match="is a folder"):
        make_store(tmp_path)


def test_a_disk_that_fills_up_is_told_in_its_own_words(tmp_path: Path) -> None:
    """HDF5 buries what the disk said in a paragraph; a limit of the process stands for the disk."""
    code = (
        "import os, resource, signal, sys; from vesselflow.errors import UserError;"
        "from vesselflow.stores.synth import make_synth;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "\ntry: make_synth(sys.argv[1], 'fundus', 2, 0, 'a', 64)"
        "\nexcept UserError as error: print(error, flush=True)"
        # HDF5 trips over the file that it could not write when Python takes everything down.
        "\nos._exit(0)"
    )
    path = tmp_path / "a.h5"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=120
    )
    assert done.stdout == (
        f"{path}: cannot be written: File too large; "
        "check the folder's permissions and the space on the disk\n"
    ), done.stderr
    assert list(tmp_path.iterdir()) == []
