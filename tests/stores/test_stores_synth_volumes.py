"""Synthetic tomograms and vasculature: pure, plausible, different by domain."""

from __future__ import annotations

import dataclasses
import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vesselflow.errors import UserError
from vesselflow.stores.schema import Source, array_digest
from vesselflow.stores.store import Store, verify
from vesselflow.stores.synth import (
    SYNTH_KINDS,
    describe,
    file_name,
    make_synth,
    planned_layout,
    planned_sources,
    synth_digest_key,
)
from vesselflow.stores.synth.particles import GAP, REACH, Particle, paint, place
from vesselflow.stores.synth.tomogram import (
    MICROSCOPES,
    tomogram,
    tomogram_source,
    transfer,
    wavelength,
    wedge,
)
from vesselflow.stores.synth.vasculature import vasculature_source
from vesselflow.stores.synth.vessel_tree import MIN_RADIUS_UM, TAPER, distances, grow

#: (image, keypoints) and (image, target) of source 3, seed 7, small, version 1. A change of these
#: needs a new version.
GOLDEN_TOMOGRAM = {
    "a": ("b37ebcf6c12bb264caee04c032265ffe", "f5bab5295c99c122fbe3cd7d10a6e346"),
    "b": ("cb5fcafcd3b170192af26b73354ffab7", "1f7f903eb8fd419a80201cbe28b73e91"),
    "c": ("e15471eea782e770ed8a9681ad7179df", "694769cd5cfa5b7decfc0e614fd7493e"),
}
GOLDEN_VASCULATURE = {
    "a": ("10c0e5ef077b044db95ac70d46e7e1de", "b9ee2c3cf150a09fe56270e6b17ea601"),
    "b": ("72ab3ad7319ef492a52866c2c1966709", "f53674027ce68f3699abb0534ce2907a"),
    "c": ("2bcc84d35b14ae4e7c6e7371e34ba8b2", "fe48e49d8684d267e074bef729a87cda"),
}


def digests(source: Source) -> tuple[str, str]:
    truth = source.target if source.keypoints is None else source.keypoints.positions
    assert truth is not None
    return array_digest("image", source.image), array_digest("truth", truth)


@pytest.mark.parametrize("domain", "abc")
def test_golden_tomogram(domain: str) -> None:
    made = digests(tomogram_source(7, domain, 3, size_px=40, depth_px=36, particles=6))
    assert SYNTH_KINDS.part("tomogram").version == 1
    assert made == GOLDEN_TOMOGRAM[domain]


@pytest.mark.parametrize("domain", "abc")
def test_golden_vasculature(domain: str) -> None:
    made = digests(vasculature_source(7, domain, 3, size_px=48, depth_px=32))
    assert SYNTH_KINDS.part("vasculature").version == 1
    assert made == GOLDEN_VASCULATURE[domain]


def test_a_source_does_not_depend_on_its_neighbours() -> None:
    small = {"size_px": 40, "depth_px": 32, "particles": 4}
    third = list(tomogram(sources=3, seed=5, domain="b", **small))[2]  # type: ignore[arg-type]
    assert digests(third) == digests(tomogram_source(5, "b", 2, **small))


@pytest.mark.parametrize("kind", ["tomogram", "vasculature"])
def test_no_two_volumes_are_equal(kind: str) -> None:
    make = {"tomogram": tomogram_source, "vasculature": vasculature_source}[kind]
    found = {
        digests(make(seed, domain, index, size_px=32, depth_px=32))
        for seed in (0, 1)
        for domain in "abc"
        for index in range(2)
    }
    assert len(found) == len({image for image, _ in found}) == 12
    assert len({truth for _, truth in found}) == 12


# -- tomograms -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tomograms() -> dict[str, Source]:
    return {domain: tomogram_source(0, domain, 0) for domain in "abc"}


@pytest.mark.parametrize("domain", "abc")
def test_a_tomogram_holds_its_particles_in_all_classes(
    tomograms: dict[str, Source], domain: str
) -> None:
    source = tomograms[domain]
    assert source.image.shape == (64, 128, 128, 1)
    assert source.image.dtype == np.float16
    assert source.target is None
    values = source.image.astype(np.float64)
    assert abs(values.mean()) < 1e-3
    assert abs(values.std() - 1) < 1e-3
    assert source.keypoints is not None
    assert len(source.keypoints) >= 30
    assert min(source.keypoints.counts(3)) >= 10
    spacing = {"a": 1e-3, "b": 1.2e-3, "c": 0.8e-3}[domain]
    assert source.spacing_um == pytest.approx((spacing,) * 3)


@pytest.mark.parametrize("domain", "abc")
def test_particles_are_dark(tomograms: dict[str, Source], domain: str) -> None:
    """A rod is dense in its middle; the shell around its middle."""
    source = tomograms[domain]
    assert source.keypoints is not None
    assert source.spacing_um is not None
    values = ndimage.gaussian_filter(source.image[..., 0].astype(np.float64), 1.0)
    grid = np.stack(np.mgrid[tuple(map(slice, values.shape))], axis=-1)
    shells = source.keypoints.positions[source.keypoints.classes == 0]
    inside = []
    for centre in shells:
        away = np.linalg.norm(grid - centre, axis=-1) * source.spacing_um[0] * 1e4
        inside.append(values[(away > 50) & (away < 80)].mean())
    assert np.mean(inside) < values.mean() - 0.15 * values.std()


def test_domains_differ_as_microscopes_do(tomograms: dict[str, Source]) -> None:
    def power(domain: str) -> np.ndarray:
        """Mean power in four shells of frequency, up to 1/40 per angstrom, of the sum."""
        source = tomograms[domain]
        assert source.spacing_um is not None
        spacing = source.spacing_um[0] * 1e4
        values = np.abs(np.fft.fftn(source.image[..., 0].astype(np.float64))) ** 2
        axes = np.meshgrid(
            *(np.fft.fftfreq(n, spacing) for n in values.shape), indexing="ij", sparse=True
        )
        radius = np.sqrt(sum(axis**2 for axis in axes))
        edges = np.linspace(0.002, 1 / 40, 5)
        shells = [values[(radius >= a) & (radius < b)].mean() for a, b in itertools.pairwise(edges)]
        return np.array(shells) / sum(shells)

    a, b, c = (power(domain) for domain in "abc")
    assert np.abs(a - b).max() > 0.02
    assert np.abs(a - c).max() > 0.02


@pytest.mark.parametrize("domain", "abc")
def test_the_missing_wedge_is_missing(tomograms: dict[str, Source], domain: str) -> None:
    values = tomograms[domain].image[..., 0].astype(np.float64)
    window = np.hanning(64)[:, None, None] * np.hanning(128)[:, None] * np.hanning(128)
    power = np.abs(np.fft.fftn(values * window)) ** 2
    z, _, x = np.meshgrid(*(np.fft.fftfreq(n) for n in values.shape), indexing="ij")
    angle = np.degrees(np.arctan2(np.abs(z), np.abs(x)))
    far = np.hypot(z, x) > 0.1
    tilt = MICROSCOPES[domain].tilt_deg
    missing, there = power[far & (angle > tilt + 6)], power[far & (angle < tilt - 6)]
    assert missing.mean() < 0.02 * there.mean()


def test_the_transfer_function_by_hand() -> None:
    # An electron of 300 kV: 0.0197 angstrom (Kirkland, Advanced Computing in Electron Microscopy).
    assert wavelength(300.0) == pytest.approx(0.01969, abs=1e-5)
    assert wavelength(200.0) == pytest.approx(0.02508, abs=1e-5)
    scope = dataclasses.replace(
        MICROSCOPES["a"], b_factor=0.0, aberration_mm=0.0, amplitude_contrast=0.0
    )
    # Without aberration the phase is pi lambda defocus k^2: 0 at k^2 = 1 / (lambda defocus), and
    # -1, all dark, where it is a half.
    zero = 1 / math.sqrt(wavelength(300.0) * 3e4)
    found = transfer(np.array([0.0, zero, zero / math.sqrt(2)]), scope, 3.0)
    assert found == pytest.approx([0.0, 0.0, -1.0], abs=1e-12)
    # Contrast of amplitude alone is dark at once, and the envelope takes exp(-B k^2 / 4).
    scope = dataclasses.replace(scope, amplitude_contrast=1.0, b_factor=400.0)
    assert transfer(np.array([0.0]), scope, 3.0) == pytest.approx([-1.0])
    assert transfer(np.array([zero]), scope, 3.0) == pytest.approx([math.exp(-100 * zero**2)])


def test_the_wedge_keeps_what_tilts_reach() -> None:
    z, x = np.array([0.0, 0.0, 1.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0, 0.5])
    # Angles 0, 0, 90, 45 and 63 degrees.
    np.testing.assert_array_equal(wedge(z, x, 60.0), [1, 1, 0, 1, 0])
    assert wedge(np.array([math.tan(math.radians(60))]), np.array([1.0]), 60.0) == pytest.approx(
        0.5
    )


@settings(deadline=None, max_examples=25)
@given(
    kind=st.integers(0, 2),
    seed=st.integers(0, 10_000),
    spacing=st.sampled_from([8.0, 10.0, 12.0]),
)
def test_a_keypoint_is_the_centre_of_mass(kind: int, seed: int, spacing: float) -> None:
    rng = np.random.default_rng(seed)
    axis = rng.standard_normal(3)
    centre = 16 + rng.random(3)
    density = np.zeros((33, 34, 35))
    paint(density, Particle(kind, centre, axis / np.linalg.norm(axis)), spacing)
    assert 0 < density.max() <= 1
    found = ndimage.center_of_mass(density)
    # The lobes of a dimer overlap a little, which the centre does not know.
    assert np.abs(np.subtract(found, centre)).max() < (0.35 if kind == 2 else 0.05)
    away = np.linalg.norm(np.stack(np.nonzero(density > 0.01), axis=-1) - centre, axis=-1)
    assert away.max() * spacing <= REACH[kind] + spacing


def test_a_particle_at_the_border_is_cut() -> None:
    density = np.zeros((20, 20, 20))
    axis = np.array([0.0, 0.0, 1.0])
    paint(density, Particle(1, np.array([0.0, 10.0, 19.0]), axis), 10.0)
    paint(density, Particle(1, np.array([60.0, 10.0, 19.0]), axis), 10.0)
    assert density[0].any()


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 60))
def test_particles_do_not_overlap(seed: int, count: int) -> None:
    found = place(np.random.default_rng(seed), (40, 60, 60), 10.0, count)
    assert len(found) <= count
    for number, one in enumerate(found):
        assert ((one.centre >= 0) & (one.centre <= [39, 59, 59])).all()
        assert np.linalg.norm(one.axis) == pytest.approx(1)
        for other in found[:number]:
            apart = np.linalg.norm(one.centre - other.centre) * 10.0
            assert apart >= REACH[one.kind] + REACH[other.kind] + GAP - 0.05
    if count == 6:
        assert len(found) == 6


def test_a_tomogram_without_particles_is_noise() -> None:
    source = tomogram_source(0, "a", 0, size_px=32, depth_px=32, particles=0)
    assert source.keypoints is not None
    assert len(source.keypoints) == 0
    assert np.isfinite(source.image).all()


# -- vasculature -----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_radii_fall_by_murrays_law(seed: int) -> None:
    vessels = grow(np.random.default_rng(seed), (1280.0, 1920.0, 1920.0))
    children: dict[int, list[float]] = {}
    for number, vessel in enumerate(vessels):
        assert vessel.parent < number
        assert (np.diff(vessel.radii) < 0).all()
        assert vessel.radii[0] >= MIN_RADIUS_UM
        if vessel.parent >= 0:
            parent = vessels[vessel.parent]
            np.testing.assert_array_equal(vessel.points[0], parent.points[-1])
            assert parent.radii[-1] == pytest.approx(parent.radii[0] * TAPER)
            children.setdefault(vessel.parent, []).append(float(vessel.radii[0]))
    for parent, radii in children.items():
        cubes = sum(radius**3 for radius in radii)
        whole = float(vessels[parent].radii[-1]) ** 3
        if len(radii) == 2:
            assert cubes == pytest.approx(whole)
        else:  # the other was too thin to be grown
            assert whole - cubes < MIN_RADIUS_UM**3


def test_trees_branch() -> None:
    # One in a thousand or so leaves the box before it branches.
    trees = [grow(np.random.default_rng(seed), (1280.0, 1920.0, 1920.0)) for seed in range(20)]
    assert np.mean([len({v.parent for v in tree if v.parent >= 0}) for tree in trees]) > 8


def test_distances_are_those_of_a_dense_line() -> None:
    """Against the distance to very many points of the centre lines, radius taken off."""
    vessels = grow(np.random.default_rng(3), (400.0, 500.0, 600.0))[:4]
    shape, spacing = (10, 12, 15), (40.0, 42.0, 40.0)
    grid = np.stack(np.mgrid[tuple(map(slice, shape))], axis=-1) * np.array(spacing)
    best = np.full(shape, np.inf)
    for vessel in vessels:
        for k in range(len(vessel.points) - 1):
            for share in np.linspace(0, 1, 200):
                point = vessel.points[k] + share * (vessel.points[k + 1] - vessel.points[k])
                radius = vessel.radii[k] + share * (vessel.radii[k + 1] - vessel.radii[k])
                best = np.minimum(best, np.linalg.norm(grid - point, axis=-1) - radius)
    found = distances(vessels, shape, spacing, beyond=60.0)
    # The nearest point of a cone is not quite that of its axis.
    np.testing.assert_allclose(found, np.minimum(best, 60.0), atol=1.5)


@pytest.mark.parametrize("domain", "abc")
def test_vessels_are_bright_connected_and_of_all_sizes(domain: str) -> None:
    shares = []
    for index in range(2):
        source = vasculature_source(0, domain, index)
        assert source.image.shape == (64, 96, 96, 1)
        assert source.image.dtype == source.fov.dtype == np.uint8
        assert source.target is not None
        vessel, fov = source.target > 0, source.fov > 0
        assert not (vessel & ~fov).any()
        shares.append(vessel[fov].mean())
        values = source.image[..., 0].astype(np.float64)
        near = ndimage.binary_dilation(vessel, iterations=4) & ~vessel & fov
        assert values[vessel].mean() > 1.2 * values[near].mean()
        parts, count = ndimage.label(vessel, np.ones((3, 3, 3)))
        sizes = np.bincount(parts.ravel())[1:]
        assert sizes[np.argsort(sizes)[-8:]].sum() > 0.97 * vessel.sum(), count
        thickness = ndimage.distance_transform_edt(vessel)
        assert thickness.max() > 3
        assert np.median(thickness[vessel]) < 3
    assert 0.01 < np.mean(shares) < 0.12
    assert vasculature_source(0, domain, 0).fov.all() == (domain != "b")


# -- stores of them --------------------------------------------------------------------------------

SMALL: dict[str, dict[str, object]] = {
    "tomogram": {"size_px": 40, "depth_px": 32, "particles": 5},
    "vasculature": {"size_px": 32, "depth_px": 20},
}


@pytest.mark.parametrize("kind", sorted(SMALL))
def test_a_store_is_planned_as_it_is_made(kind: str, tmp_path: Path) -> None:
    """All but digests, keypoints and what the fov covers, which only making it tells."""
    given = {"kind": kind, "sources": 2, "domain": "b", "seed": 3, **SMALL[kind]}
    path = tmp_path / "b.h5"
    digest = make_synth(path, **given)  # type: ignore[arg-type]
    assert verify(path) == []
    planned = planned_sources(given)
    with Store.open(path) as store:
        made = tuple(
            dataclasses.replace(
                source,
                digest="",
                image_digest="",
                fov_box=(0, 0, 0, *source.shape),
                keypoint_counts=(),
                fov_full=False,
            )
            for source in store.sources
        )
        assert planned == made
        assert store.layout == planned_layout(given)
        assert (store.domain, store.digest) == ("synth-b", digest)
        rest = {key: value for key, value in given.items() if key != "kind"}
        assert store.importer == {"name": f"synth:{kind}"} | describe(kind, rest)
    assert make_synth(tmp_path / "again.h5", **given) == digest  # type: ignore[arg-type]
    assert path.read_bytes() == (tmp_path / "again.h5").read_bytes()


def test_names_without_making() -> None:
    key = synth_digest_key({"kind": "tomogram", "sources": 4, "domain": "c"})
    full = {"sources": 4, "domain": "c", "seed": 0, "size_px": 128, "depth_px": 64}
    full |= {"particles": 36, "spacing_angstrom": 8.0}
    assert key == synth_digest_key({"kind": "tomogram", **full})
    others = [{"particles": 35}, {"size_px": 64}, {"spacing_angstrom": 9.0}, {"seed": 1}]
    assert len({key, *(synth_digest_key({"kind": "tomogram", **full, **o}) for o in others)}) == 5
    assert file_name({"kind": "vasculature", "domain": "b"}).startswith("vasculature-b-")


@pytest.mark.parametrize(
    ("kind", "values", "match"),
    [
        ("tomogram", {"size_px": 8}, "size_px: 8 is not allowed"),
        ("tomogram", {"spacing_angstrom": 0.0}, "spacing_angstrom: 0.0 is not allowed"),
        ("tomogram", {"particles": -1}, "particles: -1 is not allowed"),
        ("vasculature", {"domain": "d"}, "domain: 'd' is not allowed"),
        ("vasculature", {"particles": 3}, "unknown key 'particles'"),
    ],
)
def test_bad_arguments_are_one_line(kind: str, values: dict[str, object], match: str) -> None:
    with pytest.raises(UserError, match=match):
        describe(kind, values)
