"""Contrast-limited adaptive histogram equalisation; target and fov stay."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from vesselflow.augment.arguments import Probability, Range, ordered
from vesselflow.augment.draws import Draws, choose, spread_log
from vesselflow.augment.inside import is_full, write_inside
from vesselflow.config.registry import Arguments

if TYPE_CHECKING:
    from torch import Tensor

#: Grey levels that are counted, those of 8-bit images.
LEVELS = 256


class ClaheArguments(Arguments):
    """Arguments of `clahe`.

    Attributes:
        p: Probability, for each sample by itself.
        clip: Smallest and largest limit of a grey level's count, in mean counts of a level in its
            tile: 1 leaves nearly what there is, more gives more contrast.
        tiles: Along each side of the image.
    """

    p: Probability = 0.5
    clip: Range = (1.0, 4.0)
    tiles: Annotated[int, Field(ge=1, le=64)] = 8

    _clip = field_validator("clip")(ordered)


class Clahe:
    """Equalise histograms tile by tile, each channel and each slice by itself.

    Args:
        p: Probability per sample.
        clip: Smallest and largest limit, uniform in the logarithm (see `equalised`).
        tiles: Along each side; at most one for each px.
    """

    def __init__(self, *, p: float, clip: tuple[float, float], tiles: int) -> None:
        self.p, self.clip, self.tiles = p, clip, tiles

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        chosen, numbers = choose(draws, self.p, 1)
        for index, clip in zip(chosen, spread_log(numbers[:, 0], self.clip).tolist(), strict=True):
            values = equalised(image[index], fov[index], clip=clip, tiles=self.tiles)
            write_inside(image, index, fov, values)


def equalised(image: Tensor, fov: Tensor, *, clip: float, tiles: int) -> Tensor:
    """CLAHE of planes.

    The side of n px is divided at the whole px nearest below i n / tiles. In each tile the px of
    the fov are counted by grey level, round(255 x); counts are cut at `clip` times their mean, and
    what is cut off is divided among all levels alike. The sum of counts up to a level, as a share
    of all, is its new value. A px takes the mean of the four tiles whose centres are around it,
    bilinear, as far as there are so many; tiles weigh by how much of them the fov covers, so that
    those at its edge count little and empty ones not at all.

    Args:
        image: float (C, H, W) or (C, D, H, W) in [0, 1].
        fov: float (1, H, W) or (1, D, H, W), 0 or 1.
        clip: Above 0.
        tiles: Along each side.

    Returns:
        Like the image, in [0, 1]; where no tile around is in the fov, 0.

    Reference: Zuiderveld, Graphics Gems IV, 1994 (what is cut off is divided once, as OpenCV does);
    weights by the fov are ours.
    """
    import torch

    height, width = image.shape[-2:]
    planes, inside = image.reshape(-1, height, width), fov.reshape(-1, height, width).bool()
    # Channels one after another, each of as many slices: the fov is that of all of them.
    channels, full = len(planes) // len(inside), is_full(fov)
    rows, row = _tiles(height, tiles, image)
    columns, column = _tiles(width, tiles, image)
    count = len(rows) * len(columns)
    # Outside there may be what is no number: it is level 0 and weighs nothing.
    everywhere = None if full else inside.repeat(channels, 1, 1)
    seen = planes if everywhere is None else torch.where(everywhere, planes, 0.0)
    values = seen.clamp(0, 1)
    level = values.mul_(LEVELS - 1).round_().int()
    # Where the levels of a px's plane begin in the table, and its own among them.
    level += torch.arange(len(planes), device=image.device).int().view(-1, 1, 1) * (count * LEVELS)
    own = (row.view(-1, 1) * len(columns) + column).int() * LEVELS
    cells = len(planes) * count * LEVELS
    # What lies outside is counted behind all others, and left there.
    place = level + own
    if everywhere is not None:
        place = torch.where(everywhere, place, cells)
    counts = torch.bincount(place.flatten(), minlength=cells + 1)[:cells].double()
    counts = counts.view(-1, LEVELS)
    total = counts.sum(dim=1, keepdim=True)
    cut = torch.minimum(counts, clip * total / LEVELS)
    cut += (total - cut.sum(dim=1, keepdim=True)) / LEVELS
    area = torch.outer(torch.bincount(row), torch.bincount(column)).flatten()
    area = area.repeat(len(planes))[:, None]
    # Times its share of the tile, by which the sum over the four is divided again.
    table = (cut.cumsum(dim=1) / area.clamp(min=1)).to(image.dtype).flatten()
    share = (total / area.clamp(min=1)).to(image.dtype).view(channels, -1, count)[0]
    found, weight = torch.zeros_like(planes), torch.zeros_like(inside, dtype=image.dtype)
    for r, along in _around(rows, height, image):
        for c, across in _around(columns, width, image):
            near = along.view(-1, 1) * across
            # Into the same memory each time: new pages cost more than the sums.
            tile = (r.int() * len(columns)).view(-1, 1) + c.int()
            torch.add(level, tile, alpha=LEVELS, out=place)
            torch.index_select(table, 0, place.view(-1), out=values.view(-1))
            found.addcmul_(values, near)
            if not full:
                weight += near * share[:, tile]
    if not full:
        # Of a full fov the four shares, and so their sum, are 1.
        weight.clamp_(min=torch.finfo(image.dtype).tiny)
        found.view(channels, *weight.shape).div_(weight)
    return found.clamp_(0, 1).view_as(image)


def _tiles(size: int, tiles: int, like: Tensor) -> tuple[list[float], Tensor]:
    """Centres of the tiles along a side, and the tile of each px of it."""
    import torch

    tiles = min(tiles, size)
    edges = [number * size // tiles for number in range(tiles + 1)]
    spans = list(itertools.pairwise(edges))
    number = torch.cat([torch.full((b - a,), k) for k, (a, b) in enumerate(spans)])
    return [(a + b - 1) / 2 for a, b in spans], number.to(like.device)


def _around(centres: list[float], size: int, like: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The tiles before and behind each px of a side, and how much each weighs."""
    import torch

    where = torch.tensor(centres, dtype=torch.float64)
    line = torch.arange(size, dtype=torch.float64)
    after = torch.searchsorted(where, line).clamp(max=len(centres) - 1)
    before = (torch.searchsorted(where, line, right=True) - 1).clamp(min=0)
    gap = (where[after] - where[before]).clamp(min=1e-9)
    behind = torch.where(after == before, 0.0, (line - where[before]) / gap)
    return [
        (tile.to(like.device), weight.to(like.device, like.dtype))
        for tile, weight in ((before, 1 - behind), (after, behind))
    ]
