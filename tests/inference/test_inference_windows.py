"""Windows: where they lie, and that what they are blended to is what one piece gives."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vesselflow.errors import ShapeError
from vesselflow.inference.windows import blended, starts, weights


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 64), st.floats(0, 0.9))
def test_windows_cover_an_axis_and_overlap(side: int, window: int, overlap: float) -> None:
    window = min(side, window)
    found = starts(side, window, overlap)
    assert (found[0], found[-1] + window) == (0, side)
    assert found == sorted(set(found))
    for one, other in pairwise(found):
        assert other - one <= max(1, int(window * (1 - overlap)))
    # No more of them than are needed: without overlap, as few as cover the axis.
    assert len(starts(side, window, 0.0)) == -(-side // window)


def test_windows_by_hand() -> None:
    assert starts(10, 4, 0.0) == [0, 3, 6]
    assert starts(10, 4, 0.5) == [0, 2, 4, 6]
    assert starts(4, 4, 0.9) == [0]
    with pytest.raises(ShapeError, match="do not fit"):
        starts(3, 4, 0.5)


@pytest.mark.parametrize("window", [(5,), (4, 6), (3, 4, 5)])
def test_weights_are_symmetric_and_fall_from_the_centre(window: tuple[int, ...]) -> None:
    found = weights(window)
    assert found.shape == window
    assert (found.max(), found.min() > 0) == (1, True)
    torch.testing.assert_close(found, found.flip(tuple(range(found.ndim))))


class Pointwise(nn.Module):
    """Logits that depend on nothing around a voxel: every window gives the same."""

    def forward(self, image: Tensor) -> Tensor:
        return 3 * image[:, :1] - 1


@pytest.mark.parametrize(
    ("size", "window"), [((40, 33), (16, 16)), ((9, 20, 24), (8, 8, 16)), ((8, 8), (16, 4))]
)
@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_a_pointwise_model_gives_what_one_piece_gives(
    size: tuple[int, ...], window: tuple[int, ...], overlap: float
) -> None:
    image = 4 * torch.randn(1, 2, *size, generator=torch.Generator().manual_seed(0))
    found = blended(Pointwise(), image, window, overlap)
    torch.testing.assert_close(found, Pointwise()(image), rtol=1e-4, atol=1e-4)


def test_one_window_that_covers_everything_keeps_its_logits() -> None:
    image = 500 * torch.randn(1, 1, 8, 9, generator=torch.Generator().manual_seed(1))
    assert torch.equal(blended(Pointwise(), image, (16, 16), 0.5), Pointwise()(image))


def test_windows_beyond_the_receptive_field_agree_with_one_piece_in_their_middle() -> None:
    torch.manual_seed(2)
    model = nn.Conv2d(1, 1, 5, padding=2)
    image = torch.randn(1, 1, 48, 48)
    with torch.inference_mode():
        whole, found = model(image), blended(model, image, (32, 32), 0.5)
    # At the borders of windows the padding is seen, and counts little.
    assert (whole - found).abs().max() < 0.25 * whole.abs().max()
    assert (whole - found).abs().mean() < 0.01 * whole.abs().max()


def test_saturated_logits_stay_finite_and_in_order() -> None:
    image = torch.linspace(-300, 300, 64).view(1, 1, 8, 8)
    found = blended(Pointwise(), image, (4, 4), 0.5)
    assert torch.isfinite(found).all()
    assert (found.flatten().diff() >= -1e-3).all()


@pytest.mark.parametrize("stride", [(4,), (2, 4)])
def test_windows_of_a_coarse_output_are_whole_cells(stride: tuple[int, ...]) -> None:
    # Overlaps and sides for which even steps would begin inside a cell.
    image = torch.randn(1, 1, 36, 52, generator=torch.Generator().manual_seed(2))
    steps = stride * 2 if len(stride) == 1 else stride

    def means(part: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(part, steps)

    for overlap in (0.0, 0.3, 0.5):
        found = blended(means, image, (16, 20), overlap, stride)
        torch.testing.assert_close(found, means(image), atol=1e-5, rtol=1e-5)
