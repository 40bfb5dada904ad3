"""Keypoints of samples that go on beyond their frame as their own mirror images.

The mirror images fill space with tiles, of which tile 0 is the sample itself: along one axis, tile
t begins at t n - 1/2, and an odd one runs the other way.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vesselflow.targets.keypoints import Keypoints, exact_device

#: Mirror images of keypoints count up to here beyond the frame, as a share of its size: Gaussians
#: that reach into it from farther are wider than what a patch is made for.
REACH = 0.5


def move_reflected(
    keypoints: Keypoints,
    size: Sequence[int],
    chosen: Sequence[int],
    shown: Tensor,
    samples: int,
    move: Callable[[Keypoints], Keypoints],
) -> Keypoints:
    """Move keypoints, and with them the mirror images that the opened border shows.

    Args:
        keypoints: Of the batch, before.
        size: S, sizes of the samples.
        chosen: Samples that are moved.
        shown: float64 (len(chosen), 2, D): least and largest coordinates, before, of what the frame
            shows of each afterwards; more is no harm.
        samples: N.
        move: The map, also beyond the frame; leaves other samples alone.

    Returns:
        Keypoints: the given ones, moved, and behind them the mirror images that lie inside the
        frame or at most `REACH` of its size beyond. A keypoint that lay beyond the frame and comes
        inside is left out, because its place shows a mirror image; others beyond the frame stay.
    """
    if not chosen or not len(keypoints):
        return keypoints
    device = keypoints.coordinates.device
    if (where := exact_device(device)) != device:
        here = keypoints.to(where)
        return move_reflected(here, size, chosen, shown, samples, move).to(device)
    sizes = torch.tensor(size, dtype=torch.float64, device=device)
    tiles = torch.zeros(samples, 2, len(size), dtype=torch.float64)
    tiles[list(chosen)] = torch.floor((shown + 0.5) / sizes.cpu())
    within = _inside(keypoints, sizes, 0.0)
    low, high = tiles.amin(dim=(0, 1)).int().tolist(), tiles.amax(dim=(0, 1)).int().tolist()
    own = tiles.to(device)[keypoints.sample]
    parts, first = [keypoints], len(keypoints)
    for tile in itertools.product(*(range(a, b + 1) for a, b in zip(low, high, strict=True))):
        if any(tile):
            there = torch.tensor(tile, dtype=torch.float64, device=device)
            seen = within & ((own[:, 0] <= there) & (own[:, 1] >= there)).all(dim=1)
            parts.append(_mirrored(_of(keypoints, seen), there, sizes))
    before = _joined(parts)
    after = move(before)
    in_chosen = torch.zeros(samples, dtype=torch.bool)
    in_chosen[list(chosen)] = True
    inside = _inside(after, sizes, 0.0)[:first]
    stays = _inside(after, sizes, REACH)
    stays[:first] = within | ~inside | ~in_chosen.to(device)[keypoints.sample]
    return _of(after, stays)


def _mirrored(keypoints: Keypoints, tile: Tensor, sizes: Tensor) -> Keypoints:
    odd = tile.remainder(2) == 1
    places = keypoints.coordinates.double()
    places = tile * sizes + torch.where(odd, sizes - 1 - places, places)
    sign = torch.where(odd, -1.0, 1.0)
    spread = keypoints.covariance
    if spread is not None:
        spread = spread * (sign[:, None] * sign).to(spread.dtype)
    places = places.to(keypoints.coordinates.dtype)
    return replace(keypoints, coordinates=places, covariance=spread)


def _inside(keypoints: Keypoints, sizes: Tensor, reach: float) -> Tensor:
    low, high = -0.5 - reach * sizes, sizes - 0.5 + reach * sizes
    places = keypoints.coordinates.double()
    return ((places >= low) & (places <= high)).all(dim=1)


def _of(keypoints: Keypoints, chosen: Tensor) -> Keypoints:
    spread = keypoints.covariance
    return Keypoints(
        keypoints.coordinates[chosen],
        keypoints.sample[chosen],
        keypoints.class_index[chosen],
        None if spread is None else spread[chosen],
    )


def _joined(parts: Sequence[Keypoints]) -> Keypoints:
    spreads = [part.covariance for part in parts if part.covariance is not None]
    return Keypoints(
        torch.cat([part.coordinates for part in parts]),
        torch.cat([part.sample for part in parts]),
        torch.cat([part.class_index for part in parts]),
        torch.cat(spreads) if spreads else None,
    )
