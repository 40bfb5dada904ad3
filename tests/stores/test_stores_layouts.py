"""Stores of volumes, of other types than 8 bits, of classes and of keypoints."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_kinds import (
    STORES,
    labels,
    make_kind,
    make_sharded,
    plain,
    planes,
    points,
    sources_of,
    volume,
)

from vesselflow.errors import ShapeError, UserError
from vesselflow.stores.store import (
    Keypoints,
    Layout,
    Source,
    Store,
    layout_of,
    verify,
    write_store,
)

KINDS = sorted(STORES)
FORMS = ("file", "sharded")


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        make_kind(folder / f"{kind}.h5", kind)
        make_sharded(folder / f"{kind}.shards.json", kind)
    return {kind: folder / f"{kind}.h5" for kind in KINDS}


def path_of(stores: dict[str, Path], kind: str, form: str) -> Path:
    return stores[kind] if form == "file" else stores[kind].with_suffix(".shards.json")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip(stores: dict[str, Path], kind: str, form: str) -> None:
    layout = STORES[kind][1]
    path = path_of(stores, kind, form)
    assert verify(path) == []
    with Store.open(path) as store:
        assert (store.layout, store.kind, store.domain) == (layout, layout.kind, kind)
        for index, source in enumerate(sources_of(kind)):
            info = store.sources[index]
            assert (info.id, info.shape) == (source.id, source.fov.shape)
            assert (info.height, info.width) == source.fov.shape[-2:]
            sides = source.fov.shape
            assert info.fov_box == (*[1] * len(sides), *[side - 2 for side in sides])
            assert (info.spacing_um, info.origin) == (source.spacing_um, source.origin)
            assert store.image(index).dtype == np.dtype(layout.dtype)
            np.testing.assert_array_equal(store.image(index), source.image)
            np.testing.assert_array_equal(store.fov(index), source.fov)
            if source.keypoints is None:
                np.testing.assert_array_equal(store.target(index), source.target)
                assert info.keypoint_counts == ()
            else:
                held = store.keypoints(index)
                np.testing.assert_array_equal(held.positions, source.keypoints.positions)
                np.testing.assert_array_equal(held.classes, source.keypoints.classes)
                assert info.keypoint_counts == held.counts(len(layout.classes))
            if source.heatmap is not None:
                np.testing.assert_array_equal(store.heatmap(index), source.heatmap)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_sources_give_equal_bytes_and_the_oldest_schema(
    stores: dict[str, Path], kind: str, tmp_path: Path
) -> None:
    digest = make_kind(tmp_path / "again.h5", kind)
    assert (tmp_path / "again.h5").read_bytes() == stores[kind].read_bytes()
    with Store.open(stores[kind]) as store:
        assert store.digest == digest
    with h5py.File(stores[kind]) as file:
        assert file.attrs["schema"] == (1 if kind == "plain" else 2)


#: Digests of the stores above. A change renames every run that was ever made on such a store; that
#: of "plain" is what schema 1 gave before there was another.
GOLDEN = {
    "drawn": "221b33d3fb875e8941e85ca5e53df759",
    "labels": "b4f5c624372f953116d93fb419999320",
    "plain": "bf06db9f8be1a22b25620a3250e12030",
    "planes": "c8ccd1ff7f5d4617671e1958332d83fa",
    "points": "a93de8e89d7f08b77900dd03b997f629",
    "volume": "3b76726fe41f02a430d269271557a599",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_golden_digests(stores: dict[str, Path], kind: str, form: str) -> None:
    with Store.open(path_of(stores, kind, form)) as store:
        assert store.digest == GOLDEN[kind]


def test_the_index_says_whether_the_fov_fills_its_box(tmp_path: Path) -> None:
    path = tmp_path / "v.h5"
    sources = [replace(volume(), id=f"s{i}") for i in range(3)]
    shape = sources[0].fov.shape
    fovs = [np.ones(shape, np.uint8), np.zeros(shape, np.uint8), np.ones(shape, np.uint8)]
    fovs[1][1:-1, 1:-1, 2:] = 1
    fovs[2][tuple(side // 2 for side in shape)] = 0
    given = [replace(source, fov=fov) for source, fov in zip(sources, fovs, strict=True)]
    write_store(path, given, domain="d", importer={})
    assert verify(path) == []
    with Store.open(path) as store:
        assert [source.fov_full for source in store.sources] == [True, True, False]


def test_an_index_that_says_so_of_a_fov_with_a_hole_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fov = np.ones(volume().fov.shape, np.uint8)
    fov[tuple(side // 2 for side in fov.shape)] = 0
    monkeypatch.setattr("vesselflow.stores.schema.fills_box", lambda fov: True)
    write_store(tmp_path / "v.h5", [replace(volume(), fov=fov)], domain="d", importer={})
    monkeypatch.undo()
    said = "source 's0': the fov does not fill its box, the index says that it does"
    assert verify(tmp_path / "v.h5") == [said]


def test_the_layout_that_arrays_say() -> None:
    assert layout_of(plain()) == STORES["plain"][1]
    assert layout_of(volume()) == STORES["volume"][1]
    assert layout_of(planes(), classes=("artery", "vein"), target="planes") == STORES["planes"][1]
    with pytest.raises(UserError, match=r"source 's0': the image has the shape \(4,\)"):
        layout_of(replace(plain(), image=np.zeros(4)))
    with pytest.raises(UserError, match="source 's0': dtype 'float64' is not allowed; allowed: ui"):
        layout_of(replace(plain(), image=np.zeros((4, 4, 1))))


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"kind": "mesh"}, "kind 'mesh' is not allowed; allowed: patch, keypoint"),
        ({"axes": "xyz"}, "axes 'xyz' is not allowed; allowed: yx, zyx"),
        ({"dtype": "int16"}, "dtype 'int16' is not allowed"),
        ({"channels": 0}, "channels 0 is not allowed"),
        ({"classes": ()}, r"classes \[\] is not allowed; allowed: one name or more"),
        ({"classes": ("a", "b")}, "one name, because the target is binary"),
        ({"classes": ("a", "a"), "target": "planes"}, "each stands once"),
        ({"target": "mask"}, "target 'mask' is not allowed"),
        ({"kind": "keypoint"}, "target 'binary' is not allowed"),
        ({"kind": "keypoint", "target": "", "ds_factor": 0}, "ds_factor 0 is not allowed"),
        ({"kind": "keypoint", "target": "", "ds_sigma": 0.0}, "ds_sigma 0.0 is not allowed"),
        (
            {"kind": "keypoint", "target": "", "sigma_angstrom": (1.0, 2.0)},
            "a number above 0, or one for each class",
        ),
        (
            {"kind": "keypoint", "target": "", "sigma_angstrom": float("nan")},
            "sigma_angstrom nan is not allowed",
        ),
    ],
)
def test_a_layout_that_is_none(values: dict[str, object], match: str) -> None:
    with pytest.raises(UserError, match=match):
        Layout(**values)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=25)
@given(data=st.data())
def test_any_window_of_a_volume_is_the_slice(stores: dict[str, Path], data: st.DataObject) -> None:
    source = points(0)
    shape = source.fov.shape
    low = [data.draw(st.integers(0, side - 1)) for side in shape]
    high = [data.draw(st.integers(a + 1, b)) for a, b in zip(low, shape, strict=True)]
    part = tuple(map(slice, low, high))
    with Store.open(stores["points"]) as store:
        window = (*low, *high)
        np.testing.assert_array_equal(store.image(0, window), source.image[part])
        np.testing.assert_array_equal(store.fov(0, window), source.fov[part])
        held = store.keypoints(0, window)
        for place in held.positions:
            assert ((place >= -0.5) & (place < np.subtract(high, low) - 0.5)).all()
        inside = [
            position
            for position in source.keypoints.positions
            if all(a - 0.5 <= p < b - 0.5 for a, p, b in zip(low, position, high, strict=True))
        ]
        assert len(held) == len(inside)
        np.testing.assert_allclose(held.positions + low, np.reshape(inside, (-1, 3)))


def test_windows_beside_each_other_share_no_keypoint(stores: dict[str, Path]) -> None:
    with Store.open(stores["points"]) as store:
        depth, height, width = store.sources[0].shape
        parts = [(0, y, 0, depth, min(y + 5, height), width) for y in range(0, height, 5)]
        assert sum(len(store.keypoints(0, part)) for part in parts) == 7
        with pytest.raises(ShapeError, match=r"window .* does not lie in source 's0' \(10 x 16"):
            store.keypoints(0, (0, 0, 0, 11, 5, 5))
        with pytest.raises(ShapeError, match="does not lie in source"):
            store.image(0, (0, 0, 5, 5))


def test_a_keypoint_belongs_to_the_window_of_its_voxel() -> None:
    # Voxel 4 reaches from 3.5 to 4.5: the first window has it, up to its end.
    places = np.array([[-0.5, 0], [4.49, 0], [4.5, 0], [9.49, 0]])
    held = Keypoints(places, np.arange(4, dtype=np.int32))
    first, second = held.inside((0, 0, 5, 1)), held.inside((5, 0, 10, 1))
    np.testing.assert_array_equal(first.classes, [0, 1])
    np.testing.assert_array_equal(second.classes, [2, 3])
    np.testing.assert_allclose(second.positions[:, 0], [-0.5, 4.49])
    assert held.inside((0, 1, 10, 2)).positions.shape == (0, 2)


def test_volumes_are_read_in_parts(tmp_path: Path) -> None:
    image = np.random.default_rng(0).random((33, 96, 130, 2)).astype(np.float32)
    ones = np.ones((33, 96, 130), np.uint8)
    write_store(tmp_path / "v.h5", [Source("a", "a", image, ones, ones)], domain="d", importer={})
    with h5py.File(tmp_path / "v.h5") as file:
        assert file["sources/0/image"].chunks == (17, 48, 44, 2)
        assert file["sources/0/image"].fletcher32
        assert file["sources/0/target"].chunks == (17, 48, 44)
        assert file["sources/0/target"].compression == "gzip"
        # What chunks reach over the edges is little.
        assert file["sources/0/image"].id.get_storage_size() < 1.06 * image.nbytes


def test_what_a_kind_does_not_have_is_refused_by_name(stores: dict[str, Path]) -> None:
    with (
        Store.open(stores["points"]) as store,
        pytest.raises(UserError, match="a keypoint store has no target; allowed: image, fov, key"),
    ):
        store.target(0)
    with (
        Store.open(stores["points"]) as store,
        pytest.raises(UserError, match="a keypoint store has no heatmap"),
    ):
        store.heatmap(0)
    with (
        Store.open(stores["volume"]) as store,
        pytest.raises(UserError, match="a patch store has no keypoints"),
    ):
        store.keypoints(0)


def moved(source: Source, place: tuple[float, float, float], kind: int = 0) -> Source:
    held = source.keypoints
    assert held is not None
    positions, classes = held.positions.copy(), held.classes.copy()
    positions[2], classes[2] = place, kind
    return replace(source, keypoints=Keypoints(positions, classes))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda s: moved(s, (9.5, 1, 1)),
            r"source 's0': 1 keypoint\(s\) lie outside the source of 10 x 16 x 12 voxels, "
            r"the first is number 2: \(9.5, 1, 1\)",
        ),
        (lambda s: moved(s, (-0.6, 1, 1)), "lie outside the source"),
        (
            lambda s: moved(s, (np.nan, 1, 1)),
            r"1 keypoint\(s\) have coordinates that are not finite, .* number 2: \(nan, 1, 1\)",
        ),
        (lambda s: moved(s, (np.inf, 1, 1)), "not finite"),
        (
            lambda s: moved(s, (1, 1, 1), 2),
            r"keypoint 2 has class 2, known are 0 to 1 \(shell, rod\)",
        ),
        (lambda s: moved(s, (1, 1, 1), -1), "keypoint 2 has class -1"),
        (lambda s: replace(s, spacing_um=(0.0, 1.0, 1.0)), "spacing_um .* allowed: 3 numbers > 0"),
        (lambda s: replace(s, spacing_um=(1.0, 1.0)), "allowed: 3 numbers > 0"),
        (lambda s: replace(s, spacing_um=(1.0, np.nan, 1.0)), "allowed: 3 numbers > 0"),
        (lambda s: replace(s, origin=(1.0, 2.0)), "origin .* allowed: 3 numbers"),
        (
            lambda s: replace(s, image=s.image.astype(np.float32)),
            r"image must be float16 \(D, H, W, C\), is float32 \(10, 16, 12, 1\)",
        ),
        (lambda s: replace(s, image=s.image[..., 0]), r"image must be float16 \(D, H, W, C\)"),
        (
            lambda s: replace(s, image=np.where(s.image == s.image.max(), np.nan, s.image)),
            "image must be float16|not finite",
        ),
        (lambda s: replace(s, image=s.image / np.float16(0)), "of the image are not finite"),
        (lambda s: replace(s, image=s.image.repeat(2, axis=-1)), r"has 2 channel\(s\)"),
        (lambda s: replace(s, fov=s.fov[1:]), r"fov is \(9, 16, 12\), the image \(10, 16, 12\)"),
        (lambda s: replace(s, fov=0 * s.fov), "the fov is empty"),
        (lambda s: replace(s, target=s.fov), "target is there, in a keypoint store"),
        (lambda s: replace(s, keypoints=None), "keypoints is missing, in a keypoint store"),
        (
            lambda s: replace(s, keypoints=Keypoints(np.zeros((2, 2)), np.zeros(2, np.int32))),
            r"keypoints must be float64 \(k, 3\), are float64 \(2, 2\)",
        ),
        (
            lambda s: replace(s, keypoints=Keypoints(np.zeros((2, 3)), np.zeros(3, np.int32))),
            r"classes of keypoints must be int32 \(2,\)",
        ),
    ],
)
def test_a_bad_source_is_one_line_and_leaves_nothing_behind(
    change: Callable[[Source], Source], match: str, tmp_path: Path
) -> None:
    first = replace(points(1), id="good")
    with np.errstate(all="ignore"):
        bad = change(points(0))
    with pytest.raises(UserError, match=match) as caught:
        write_store(
            tmp_path / "s.h5",
            [first, bad],
            domain="d",
            importer={},
            layout=STORES["points"][1],
        )
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_targets_of_classes_that_do_not_fit(tmp_path: Path) -> None:
    def write(source: Source, kind: str) -> None:
        write_store(tmp_path / "s.h5", [source], domain="d", importer={}, layout=STORES[kind][1])

    target = labels().target
    assert target is not None
    with pytest.raises(UserError, match="target holds 3, allowed are 0 to 2"):
        write(replace(labels(), target=target + 1), "labels")
    with pytest.raises(UserError, match=r"target is \(30, 20\), it must be \(30, 20, 2\)"):
        write(replace(planes(), target=planes().fov), "planes")
    with pytest.raises(UserError, match="target is missing"):
        write(replace(volume(), target=None), "volume")
    with pytest.raises(UserError, match=r"keypoints is there, in a patch store with image, target"):
        write(replace(volume(), keypoints=Keypoints.none(3)), "volume")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "change",
    [
        {"layout": {"classes": ("rod", "shell")}},
        {"layout": {"ds_factor": 8}},
        {"layout": {"sigma_angstrom": 40.0}},
        {"source": {"id": "other"}},
        {"source": {"group": "other"}},
        {"source": {"split": "train"}},
        {"source": {"image": points(2).image[:, :16]}},
        {"source": {"fov": np.ones((10, 16, 12), np.uint8)}},
        {"source": {"keypoints": Keypoints.none(3)}},
        {"source": moved(points(0), (1.0, 1.0, 1.0)).__dict__},
    ],
    ids=lambda change: next(iter(next(iter(change.values())))),
)
def test_the_digest_sees_layout_names_arrays_and_keypoints(
    tmp_path: Path, change: dict[str, dict[str, object]]
) -> None:
    layout, source = STORES["points"][1], points(0)
    other = replace(layout, **change.get("layout", {}))  # type: ignore[arg-type]
    second = replace(source, **change.get("source", {}))  # type: ignore[arg-type]
    digests = {
        write_store(tmp_path / f"{k}.h5", [s], domain="d", importer={}, layout=held)
        for k, (s, held) in enumerate(((source, layout), (second, other)))
    }
    assert len(digests) == 2


def test_the_digest_does_not_see_spacing_origin_or_the_order_of_bytes(tmp_path: Path) -> None:
    layout, source = STORES["points"][1], points(0)
    same = replace(
        source, spacing_um=None, origin=None, image=source.image.astype(">f2"), lineage={"a": 1}
    )
    digests = {
        write_store(tmp_path / f"{k}.h5", [s], domain=str(k), importer={}, layout=layout)
        for k, s in enumerate((source, same))
    }
    assert len(digests) == 1


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 32), st.lists(st.floats(-100, 100), min_size=1, max_size=4))
def test_the_coarse_grid_has_its_cells_at_the_means_of_theirs(
    factor: int, places: list[float]
) -> None:
    held = Keypoints(np.array(places)[:, None], np.zeros(len(places), np.int32))
    back = held.on_grid(factor) * factor + (factor - 1) / 2
    np.testing.assert_allclose(back, held.positions, atol=1e-9)
    # The voxels of cell 2 have their mean where the grid says 2.
    mean = np.arange(2 * factor, 3 * factor).mean()
    assert Keypoints(np.array([[mean]]), np.zeros(1, np.int32)).on_grid(factor)[0, 0] == 2
