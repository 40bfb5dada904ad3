"""Predictions of what is too large for one forward pass: overlapping windows, blended."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from vesselflow.errors import ShapeError

#: Standard deviation of a window's weights, as a share of its side.
SIGMA = 0.125
#: Least weight: a corner that one window alone covers still counts.
LEAST = 1e-3
#: Logits are held to this range: beyond it the smaller of the two probabilities, times the least
#: weight, would underflow in float32.
_LARGEST = 80.0


def starts(side: int, window: int, overlap: float, stride: int = 1) -> list[int]:
    """Where windows begin along an axis.

    They lie evenly, the first at 0 and the last flush with the end, and overlap by at least the
    share that is asked for.

    Args:
        side: Of the array.
        window: Of the windows, at most `side`.
        overlap: Least share of a window that the next one covers too, in [0, 1).
        stride: Windows begin at multiples of it; both sides are multiples as well.
    """
    if stride > 1:
        return [stride * at for at in starts(side // stride, window // stride, overlap)]
    if window > side:
        raise ShapeError(f"windows of {window} px do not fit into {side} px")
    step = max(1, int(window * (1 - overlap)))
    count = -(-(side - window) // step) + 1
    gaps = max(1, count - 1)
    return [(index * (side - window) + gaps // 2) // gaps for index in range(count)]


def weights(window: Sequence[int], *, device: torch.device | str = "cpu") -> Tensor:
    """How much each place of a window counts: a Gaussian about its centre, float32 (*window)."""
    found = torch.ones((), device=device)
    for side in window:
        place = torch.arange(side, dtype=torch.float64, device=device) - (side - 1) / 2
        along = torch.exp(-0.5 * (place / (SIGMA * side)) ** 2)
        found = found[..., None] * along
    return (found / found.max()).clamp(min=LEAST).float()


def blended(
    predict: Callable[[Tensor], Tensor],
    image: Tensor,
    window: Sequence[int],
    overlap: float,
    stride: Sequence[int] = (1,),
) -> Tensor:
    """Logits of an image, out of those of its windows.

    What is averaged is the probability, and that of the background beside it, so that a logit of
    any size is kept where all windows agree. Where one window covers everything, its logits are
    given as they are. Memory: two float32 maps of the image beside one window's forward pass.

    Args:
        predict: (1, C, *window) -> logits (1, K, *window / stride).
        image: float (1, C, *S).
        window: Size of the windows; sides above those of the image are cut to them.
        overlap: Least share of a window that its neighbour covers too, in [0, 1).
        stride: Px of a cell of the output along each axis, or one number for all; S and windows are
            multiples of it.

    Returns:
        float32 (1, K, *S / stride), on the CPU.
    """
    size = tuple(image.shape[2:])
    window = [min(side, whole) for side, whole in zip(window, size, strict=True)]
    if tuple(window) == size:
        return predict(image).float().cpu()
    steps = tuple(stride) * len(size) if len(stride) == 1 else tuple(stride)
    cells = [side // step for side, step in zip(size, steps, strict=True)]
    shown = [side // step for side, step in zip(window, steps, strict=True)]
    weight = weights(shown, device=image.device)
    vessel: Tensor | None = None
    for place in _places(size, window, overlap, steps):
        seen = (slice(None), slice(None), *place)
        inside = (slice(None), slice(None), *_coarse(place, steps))
        logits = predict(image[seen]).double().clamp(-_LARGEST, _LARGEST)
        if vessel is None:
            shape = (*logits.shape[:2], *cells)
            vessel = torch.zeros(shape, device=image.device)
            background = torch.zeros(shape, device=image.device)
        vessel[inside] += (weight * torch.sigmoid(logits)).float()
        background[inside] += (weight * torch.sigmoid(-logits)).float()
    assert vessel is not None  # there is one window at least
    return (vessel.log() - background.log()).cpu()


def _places(
    size: Sequence[int], window: Sequence[int], overlap: float, steps: Sequence[int]
) -> Iterator[tuple[slice, ...]]:
    each = [
        [slice(first, first + part) for first in starts(side, part, overlap, step)]
        for side, part, step in zip(size, window, steps, strict=True)
    ]
    return itertools.product(*each)


def _coarse(place: Sequence[slice], steps: Sequence[int]) -> tuple[slice, ...]:
    """The cells of a window."""
    return tuple(
        slice(part.start // step, part.stop // step)
        for part, step in zip(place, steps, strict=True)
    )
