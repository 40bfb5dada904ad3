"""Centre and scale inside the fov."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from vesselflow.errors import UserError
from vesselflow.stores.normalisations import NORMALISATIONS
from vesselflow.stores.statistics import centre_scale, intensities, pooled_centre_scale


def test_golden_by_hand() -> None:
    # Inside the fov: 0, 51, 102, 255 of 255 = 0, 0.2, 0.4, 1; the 200s lie outside.
    image = np.array([[0, 51, 102], [255, 200, 200]], np.uint8)[:, :, None]
    fov = np.array([[1, 1, 1], [1, 0, 0]], np.uint8)
    # mean 1.6 / 4 = 0.4; variance (0.16 + 0.04 + 0 + 0.36) / 4 = 0.14
    centre, scale = centre_scale(image, fov, "standard")
    assert centre == pytest.approx([0.4])
    assert scale == pytest.approx([0.14**0.5])
    # median (0.2 + 0.4) / 2 = 0.3; deviations 0.3, 0.1, 0.1, 0.7: their median is 0.2
    centre, scale = centre_scale(image, fov, "median")
    assert centre == pytest.approx([0.3])
    assert scale == pytest.approx([0.2 * 1.4826022], rel=1e-6)
    # linear percentiles at 0.03 and 2.97 of ranks 0..3: 0.006 and 0.4 + 0.97 * 0.6 = 0.982
    centre, scale = centre_scale(image, fov, "percentile")
    assert centre == pytest.approx([0.494])
    assert scale == pytest.approx([0.488])


def test_median_scale_agrees_with_scipy() -> None:
    image = np.random.default_rng(0).normal(0.5, 0.1, (40, 50, 1))
    _, scale = centre_scale(image, None, "median")
    assert scale[0] == pytest.approx(
        stats.median_abs_deviation(image.ravel(), scale="normal"), rel=1e-6
    )


def test_channels_apart_or_together() -> None:
    image = np.zeros((2, 2, 2), np.float32)
    image[..., 1] = 1.0
    centre, _ = centre_scale(image, None, "standard", per_channel=True)
    assert centre.tolist() == [0.0, 1.0]
    centre, scale = centre_scale(image, None, "standard", per_channel=False)
    assert centre.tolist() == [0.5, 0.5]
    assert scale.tolist() == [0.5, 0.5]


def test_uint8_and_its_float_agree() -> None:
    image = np.random.default_rng(1).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    for method in NORMALISATIONS.names():
        for one, other in zip(
            centre_scale(image, None, method),
            centre_scale(image / 255.0, None, method),
            strict=True,
        ):
            np.testing.assert_array_equal(one, other)


@settings(deadline=None, max_examples=60)
@given(
    image=hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)),
        elements=st.floats(0, 1, width=32) | st.sampled_from([np.nan, np.inf, -np.inf]),
    ),
    method=st.sampled_from(NORMALISATIONS.names()),
    per_channel=st.booleans(),
    share=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_always_finite_and_blind_outside(
    image: np.ndarray, method: str, per_channel: bool, share: float
) -> None:
    fov = (np.random.default_rng(0).random(image.shape[:2]) < share).astype(np.uint8)
    centre, scale = centre_scale(image, fov, method, per_channel)
    assert centre.shape == scale.shape == (image.shape[2],)
    assert centre.dtype == scale.dtype == np.float32
    assert np.isfinite(centre).all()
    assert np.isfinite(scale).all()
    assert (scale > 0).all()
    other = np.where(fov[:, :, None] > 0, image, np.float32(0.7))
    np.testing.assert_array_equal(centre_scale(other, fov, method, per_channel)[0], centre)


def test_constant_and_empty() -> None:
    image = np.full((4, 4, 3), 51, np.uint8)
    for method in NORMALISATIONS.names():
        centre, scale = centre_scale(image, None, method)
        assert centre == pytest.approx([0.2] * 3)
        assert scale.tolist() == [1.0] * 3
        centre, scale = centre_scale(image, np.zeros((4, 4), np.uint8), method)
        assert (centre.tolist(), scale.tolist()) == ([0.0] * 3, [1.0] * 3)


def test_unknown_method() -> None:
    with pytest.raises(UserError, match="unknown normalisation 'mean'; allowed: standard"):
        centre_scale(np.zeros((2, 2, 1), np.uint8), None, "mean")


# -- pooled over images ------------------------------------------------------------------------


def test_pooled_by_hand() -> None:
    # Two constant images of 3 and 1 pixels: the spread lies between them alone.
    counts = [intensities(np.full((1, 3, 1), 51, np.uint8), np.ones((1, 3)))]
    counts.append(intensities(np.full((1, 1, 1), 255, np.uint8), np.ones((1, 1))))
    # 0.2 0.2 0.2 1: mean 0.4, variance (3 * 0.04 + 0.36) / 4 = 0.12
    centre, scale = pooled_centre_scale(counts, "standard")
    assert centre == pytest.approx([0.4])
    assert scale == pytest.approx([0.12**0.5])
    # Linear percentiles at 0.03 and 2.97 of ranks 0..3: 0.2 and 0.2 + 0.97 * 0.8 = 0.976
    centre, scale = pooled_centre_scale(counts, "percentile")
    assert centre == pytest.approx([0.588])
    assert scale == pytest.approx([0.388])


@pytest.mark.parametrize("method", ["standard", "percentile", "median"])
def test_pooled_counts_16_bits_as_one_image_holds_them(method: str) -> None:
    random = np.random.default_rng(4)
    volumes = [random.integers(0, 65536, (2, 5, 6, 2), dtype=np.uint16) for _ in range(3)]
    fov = np.ones((2, 5, 6), np.uint8)
    pooled = pooled_centre_scale([intensities(each, fov) for each in volumes], method)
    together = centre_scale(np.concatenate(volumes), np.concatenate([fov] * 3), method)
    for one, other in zip(pooled, together, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_pooled_keeps_the_variance_between_images() -> None:
    # Two photographs of mean 60 and 180: half of their distance is the least possible deviation.
    random = np.random.default_rng(2)
    images = [random.normal(mean, 10, (50, 60, 1)).round().astype(np.uint8) for mean in (60, 180)]
    counts = [intensities(image, np.ones(image.shape[:2])) for image in images]
    centre, scale = pooled_centre_scale(counts, "standard")
    assert centre[0] * 255 == pytest.approx(120, abs=1)
    assert scale[0] * 255 == pytest.approx(np.concatenate(images).std(), rel=1e-6)
    assert scale[0] == pytest.approx(0.239, abs=1e-3)


@settings(deadline=None, max_examples=60)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    channels=st.integers(1, 3),
    levels=st.sampled_from([1, 2, 256]),
    method=st.sampled_from(NORMALISATIONS.names()),
    per_channel=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_pooled_equals_all_pixels_in_one_image(
    sizes: list[tuple[int, int]],
    channels: int,
    levels: int,
    method: str,
    per_channel: bool,
    seed: int,
) -> None:
    random = np.random.default_rng(seed)
    images = [random.integers(0, levels, (*size, channels), dtype=np.uint8) for size in sizes]
    fovs = [(random.random(size) < 0.7).astype(np.uint8) for size in sizes]
    counts = [intensities(image, fov) for image, fov in zip(images, fovs, strict=True)]
    rows = np.concatenate([image.reshape(-1, channels) for image in images])[:, None, :]
    inside = np.concatenate([fov.ravel() for fov in fovs])[:, None]
    for found, expected in zip(
        pooled_centre_scale(counts, method, per_channel),
        centre_scale(rows, inside, method, per_channel),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        assert found.dtype == np.float32


def test_pooled_of_nothing_and_of_an_unknown_method() -> None:
    empty = intensities(np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2)))
    for method in NORMALISATIONS.names():
        centre, scale = pooled_centre_scale([empty], method)
        assert (centre.tolist(), scale.tolist()) == ([0.0] * 3, [1.0] * 3)
    with pytest.raises(UserError, match="unknown normalisation 'mean'; allowed: standard"):
        pooled_centre_scale([empty], "mean")
