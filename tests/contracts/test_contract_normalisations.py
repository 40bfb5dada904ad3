"""What every registered normalisation has to keep; a new one is held to it by being registered."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.stores.normalisations import NORMALISATIONS
from vesselflow.stores.normalisations.normalisation import Normalisation

torch.set_num_threads(1)

NAMES = NORMALISATIONS.names()
#: Intensities of a byte image, not all equal.
BYTES = st.lists(st.integers(0, 255), min_size=4, max_size=60).filter(lambda v: len(set(v)) > 1)


def part(name: str) -> Normalisation:
    found: Normalisation = NORMALISATIONS.build({"name": name})
    return found


def of(name: str, values: np.ndarray) -> tuple[float, float]:
    centre, scale = part(name).columns(values.astype(np.float64)[:, None])
    return float(centre[0]), float(scale[0])


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(values=BYTES)
def test_columns_counts_and_rows_give_one_answer(name: str, values: list[int]) -> None:
    levels = np.arange(256) / 255
    counts = np.bincount(values, minlength=256).astype(np.int64)
    expected = of(name, levels[values])
    assert part(name).counted(levels, counts) == pytest.approx(expected, abs=1e-9)
    row = torch.tensor(levels[values], dtype=torch.float32).view(1, 1, -1)
    padded = torch.cat([row, torch.full((1, 1, 3), torch.nan)], -1)
    for tensor in (row, padded):
        centre, scale = part(name).rows(tensor, torch.isfinite(tensor))
        assert centre.shape == scale.shape == (1, 1)
        assert (float(centre), float(scale)) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(values=BYTES, factor=st.floats(0.1, 5), shift=st.floats(-2, 2), seed=st.integers(0, 9))
def test_centre_and_scale_move_with_the_values_and_not_with_their_order(
    name: str, values: list[int], factor: float, shift: float, seed: int
) -> None:
    plain = np.array(values) / 255
    centre, scale = of(name, plain)
    moved = of(name, plain * factor + shift)
    assert moved == pytest.approx((centre * factor + shift, scale * factor), abs=1e-9)
    turned = of(name, np.random.default_rng(seed).permutation(plain))
    assert turned == pytest.approx((centre, scale), abs=1e-12)
    assert plain.min() - 1e-12 <= centre <= plain.max() + 1e-12
    assert scale >= 0


@pytest.mark.parametrize("name", NAMES)
def test_columns_and_rows_are_by_themselves(name: str) -> None:
    values = np.random.default_rng(0).random((50, 3))
    both = part(name).columns(values)
    assert all(pair.shape == (3,) for pair in both)
    for column in range(3):
        assert (both[0][column], both[1][column]) == pytest.approx(of(name, values[:, column]))
    rows = torch.tensor(values.T, dtype=torch.float32)[None].expand(2, 3, 50)
    centre, scale = part(name).rows(rows, torch.ones_like(rows, dtype=torch.bool))
    assert centre.shape == scale.shape == (2, 3)
    assert torch.allclose(centre[0], torch.tensor(both[0], dtype=torch.float32), atol=1e-5)
    assert torch.equal(centre[0], centre[1])
    assert torch.equal(scale[0], scale[1])


@pytest.mark.parametrize("name", NAMES)
def test_constant_and_empty(name: str) -> None:
    assert of(name, np.full(9, 0.3)) == pytest.approx((0.3, 0.0), abs=1e-12)
    counts = np.zeros(256, np.int64)
    counts[51] = 4
    assert part(name).counted(np.arange(256) / 255, counts) == pytest.approx((0.2, 0.0), abs=1e-12)
    rows = torch.full((2, 1, 5), torch.nan)
    centre, scale = part(name).rows(rows, torch.isfinite(rows))
    assert torch.equal(centre, torch.zeros(2, 1))
    assert torch.isfinite(scale).all()
