"""Synthetic fundus photographs: pure, plausible, different by camera."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from vesselflow.errors import UserError
from vesselflow.stores.importers.read import estimate_fov
from vesselflow.stores.schema import Source, array_digest
from vesselflow.stores.store import Store, verify
from vesselflow.stores.synth import (
    FUNDUS_SIZES_PX,
    SYNTH_KINDS,
    describe,
    file_name,
    make_synth,
    planned_sources,
    synth_digest_key,
)
from vesselflow.stores.synth.fundus import fundus, fundus_source

#: (image, target) of source 3, seed 7, version 1. A change of these needs a new version.
GOLDEN = {
    "a": ("0f3b0f64eb5f9d9d7b7818e3d0a63645", "d125b28f31d14ead0d80bf6adc540ff2"),
    "b": ("0e94656fc3ce746298941a4d6a7ff92e", "308d22ca17a154180f6bc1d487ee9713"),
    "c": ("a126da03bd3dbf4874b3a0e90171cc6f", "c1c8c5b1f02cf216757250c9b6cd219c"),
}


@pytest.fixture(scope="module")
def eyes() -> dict[str, list[Source]]:
    return {domain: list(fundus(sources=6, seed=0, domain=domain)) for domain in "abc"}


@pytest.mark.parametrize("domain", "abc")
def test_golden_digests(domain: str) -> None:
    source = fundus_source(7, domain, 3)
    made = (array_digest("image", source.image), array_digest("target", source.target))
    assert SYNTH_KINDS.part("fundus").version == 1
    assert made == GOLDEN[domain]


@pytest.mark.parametrize("domain", "abc")
def test_every_camera_sees_45_degrees_of_290_um(domain: str, eyes: dict[str, list[Source]]) -> None:
    for source in eyes[domain]:
        assert source.spacing_um is not None
        # b cuts its fov on all sides, but for the corners.
        across = np.flatnonzero(source.fov.any(axis=0))
        width_um = (across[-1] + 1 - across[0]) * source.spacing_um[1]
        least = 45 * 290 if domain != "b" else 45 * 290 / 1.06
        assert width_um == pytest.approx(least, abs=2 * source.spacing_um[1])
    planned = planned_sources({"domain": domain})
    assert planned[0].spacing_um == eyes[domain][0].spacing_um


def test_a_source_does_not_depend_on_its_neighbours() -> None:
    third = list(fundus(sources=3, seed=5, domain="b", size_px=96))[2]
    alone = fundus_source(5, "b", 2, 96)
    np.testing.assert_array_equal(third.image, alone.image)
    np.testing.assert_array_equal(third.target, alone.target)


def test_no_two_images_are_equal() -> None:
    sources = [
        fundus_source(seed, domain, index, 64)
        for seed in (0, 1)
        for domain in "abc"
        for index in range(3)
    ]
    images = {array_digest("image", source.image) for source in sources}
    targets = {array_digest("target", source.target) for source in sources}
    assert len(images) == len(targets) == 18


@pytest.mark.parametrize("domain", "abc")
def test_shapes_and_vessel_share(eyes: dict[str, list[Source]], domain: str) -> None:
    size = FUNDUS_SIZES_PX[domain]
    for eye in eyes[domain]:
        assert eye.image.shape == (size, size, 3)
        assert eye.image.dtype == eye.target.dtype == eye.fov.dtype == np.uint8
        assert set(np.unique(eye.target)) == set(np.unique(eye.fov)) == {0, 1}
        assert not (eye.target & ~eye.fov & 1).any()
        assert 0.08 < eye.target[eye.fov > 0].mean() < 0.15
    shares = [eye.target[eye.fov > 0].mean() for eye in eyes[domain]]
    assert 0.09 < np.mean(shares) < 0.13


@pytest.mark.parametrize("domain", "abc")
def test_vessels_are_darker_than_their_surround_and_taper(
    eyes: dict[str, list[Source]], domain: str
) -> None:
    for eye in eyes[domain]:
        green = eye.image[:, :, 1].astype(float)
        vessel, fov = eye.target > 0, ndimage.binary_erosion(eye.fov > 0, iterations=6)
        near = ndimage.binary_dilation(vessel, iterations=4) & ~vessel & fov
        assert green[vessel & fov].mean() < green[near].mean() - 2
        radius = ndimage.distance_transform_edt(vessel)
        assert radius.max() > 1.9
        # Thin vessels are fainter than wide ones, so the task is not trivial.
        local = ndimage.uniform_filter(green, 25)
        thin = vessel & fov & ~ndimage.binary_opening(vessel, np.ones((2, 2)))
        wide = vessel & fov & (radius >= 2)
        assert (local - green)[wide].mean() > (local - green)[thin].mean()


def test_cameras_differ_in_colour_and_sharpness(eyes: dict[str, list[Source]]) -> None:
    def mean(domain: str) -> np.ndarray:
        return np.mean([e.image[e.fov > 0].mean(axis=0) for e in eyes[domain]], axis=0)

    a, b, c = mean("a"), mean("b"), mean("c")
    assert a[0] / a[1] > 1.15 * b[0] / b[1] > 1.15 * c[0] / c[1]  # from orange to greenish
    assert b.mean() > 1.15 * a.mean()


def test_the_fov_looks_like_one(eyes: dict[str, list[Source]]) -> None:
    for eye in eyes["a"] + eyes["b"]:
        guess = estimate_fov(eye.image).astype(bool)
        fov = eye.fov > 0
        assert (guess & fov).sum() / (guess | fov).sum() > 0.9
    assert eyes["b"][0].fov[0].any(), "camera b cuts the circle above"
    assert not eyes["a"][0].fov[0].any()


@pytest.mark.parametrize("size", [64, 100, 300])
def test_any_size(size: int) -> None:
    for domain in "abc":
        eye = fundus_source(0, domain, 0, size)
        assert eye.image.shape == (size, size, 3)
        assert eye.target.any()


def test_make_and_describe(tmp_path: Path) -> None:
    path = tmp_path / "b.h5"
    calls: list[tuple[int, int, str]] = []
    digest = make_synth(path, "fundus", 2, 9, "b", 64, progress=lambda *a: calls.append(a))
    assert calls == [(1, 2, "b0000"), (2, 2, "b0001")]
    assert verify(path) == []
    with Store.open(path) as store:
        assert (store.domain, store.digest) == ("synth-b", digest)
        assert store.importer == {"name": "synth:fundus"} | describe(
            "fundus", {"sources": 2, "seed": 9, "domain": "b", "size_px": 64}
        )
    assert make_synth(tmp_path / "again.h5", "fundus", 2, 9, "b", 64) == digest
    assert path.read_bytes() == (tmp_path / "again.h5").read_bytes()
    assert make_synth(tmp_path / "other.h5", "fundus", 2, 8, "b", 64) != digest


def test_names_without_making() -> None:
    key = synth_digest_key({"kind": "fundus", "sources": 4, "domain": "c"})
    # Defaults written out give the same name; every argument matters.
    assert key == synth_digest_key({"sources": 4, "seed": 0, "domain": "c", "size_px": 224})
    others = [
        {"sources": 5, "domain": "c"},
        {"sources": 4, "domain": "c", "seed": 1},
        {"sources": 4, "domain": "b"},
        {"sources": 4, "domain": "c", "size_px": 96},
    ]
    assert len({key, *map(synth_digest_key, others)}) == 5
    assert describe("fundus", {"sources": 4}) == {
        "kind": "fundus",
        "version": 1,
        "sources": 4,
        "seed": 0,
        "domain": "a",
        "size_px": 256,
    }


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"sources": 0}, "sources: 0 is not allowed"),
        ({"sources": 2, "domain": "d"}, "domain: 'd' is not allowed"),
        ({"sources": 2, "size_px": 8}, "size_px: 8 is not allowed"),
        ({"sources": 2, "sed": 1}, "unknown key 'sed'.*did you mean 'seed'"),
    ],
)
def test_bad_arguments_are_one_line(values: dict[str, object], match: str) -> None:
    with pytest.raises(UserError, match=match):
        describe("fundus", values)


def test_unknown_kind() -> None:
    with pytest.raises(UserError, match=r"unknown synthetic kind 'fundis'.*did you mean 'fundus'"):
        describe("fundis", {"sources": 1})


def test_planning_imports_nothing_heavy() -> None:
    code = (
        "import sys, vesselflow.stores.synth as s, vesselflow.stores.importers;"
        "s.synth_digest_key({'sources': 3});"
        "print([m for m in ('h5py', 'numpy', 'scipy', 'PIL', 'torch', 'ray') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_store_is_planned_as_it_is_made(tmp_path: Path) -> None:
    """All but the digests and the exact box of the fov, which nothing but making it tells."""
    for arguments in (
        {"sources": 2, "domain": "b", "seed": 3, "size_px": 64},
        {"sources": 1, "domain": "c"},
    ):
        path = tmp_path / f"{arguments['domain']}.h5"
        make_synth(path, **{"kind": "fundus", "seed": 0, **arguments})
        with Store.open(path) as store:
            made = tuple(
                dataclasses.replace(
                    source, digest="", image_digest="", fov_box=(0, 0, source.height, source.width)
                )
                for source in store.sources
            )
        assert planned_sources(arguments) == made
        # Part of a store's name by content.
        assert made[-1].id == made[-1].group == {"b": "b0001", "c": "c0000"}[arguments["domain"]]


def test_a_file_is_named_by_kind_camera_and_content() -> None:
    given = {"kind": "fundus", "domain": "c", "sources": 4}
    assert file_name(given) == f"fundus-c-{synth_digest_key(given)}.h5"
    assert file_name({"sources": 3}).startswith("fundus-a-")
