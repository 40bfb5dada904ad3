"""Keypoints that move with the pixels of their samples, and the maps of flips and turns.

A map is an affine matrix over the axes of the samples, (y, x) or (z, y, x): where what lies at a
voxel is afterwards. The centre of voxel i lies at i.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vesselflow.targets.keypoints import Keypoints, exact_device


def moved(keypoints: Keypoints, chosen: Sequence[int], matrices: Tensor, samples: int) -> Keypoints:
    """Move the keypoints of some samples.

    Args:
        keypoints: Of the batch.
        chosen: Indices of the samples, each once.
        matrices: float64 (len(chosen), D, D + 1), one map for each.
        samples: N, how many samples the batch has.

    Returns:
        Keypoints; those of other samples are bit-identical.
    """
    if not chosen or not len(keypoints):
        return keypoints
    device = keypoints.coordinates.device
    rows = torch.full((samples,), -1)
    rows[list(chosen)] = torch.arange(len(chosen))
    where = exact_device(device)
    row = rows.to(where)[keypoints.sample.to(where)]
    gone = keypoints.transformed(matrices.to(where)[row.clamp(min=0)])
    return among((row >= 0).to(device), gone, keypoints)


def among(chosen: Tensor, one: Keypoints, other: Keypoints) -> Keypoints:
    """Keypoints of `one` where `chosen` (bool (K,)), and of `other` elsewhere."""
    coordinates = torch.where(chosen.view(-1, 1), one.coordinates, other.coordinates)
    if one.covariance is None or other.covariance is None:
        return replace(other, coordinates=coordinates)
    covariance = torch.where(chosen.view(-1, 1, 1), one.covariance, other.covariance)
    return replace(other, coordinates=coordinates, covariance=covariance)


@dataclass(frozen=True)
class Turn:
    """A map of a grid onto itself: axes change places, and some of them their direction.

    Attributes:
        source: For each axis of the result, the axis that it was.
        flipped: For each axis of the result, whether it runs the other way.
    """

    source: tuple[int, ...]
    flipped: tuple[bool, ...]

    @classmethod
    def mirror(cls, axes: int, axis: int) -> Turn:
        """A flip along one of some axes; -1 is the last."""
        axis %= axes
        return cls(tuple(range(axes)), tuple(each == axis for each in range(axes)))

    @classmethod
    def quarters(cls, axes: int, quarters: int) -> Turn:
        """So many quarter turns of the last two axes, in the direction of `torch.rot90`."""
        y, x = axes - 2, axes - 1
        source, flipped = list(range(axes)), [False] * axes
        if quarters % 2:
            source[y:] = [x, y]
        flipped[y:] = [quarters in (1, 2), quarters in (2, 3)]
        return cls(tuple(source), tuple(flipped))

    @classmethod
    def all_of(cls, size: Sequence[int]) -> list[Turn]:
        """Every rotation of a grid of this size onto itself but the one that does nothing.

        23 of a cube, 7 of a grid with two equal sides, 3 of any other; none is a mirror image.
        """
        axes = range(len(size))
        found = []
        for source in itertools.permutations(axes):
            crossings = sum(a > b for a, b in itertools.combinations(source, 2))
            for flipped in itertools.product((False, True), repeat=len(size)):
                turns = (crossings + sum(flipped)) % 2 == 0
                same = tuple(size[axis] for axis in source) == tuple(size)
                if turns and same and (source != tuple(axes) or any(flipped)):
                    found.append(cls(source, flipped))
        return found

    def turn(self, tensor: Tensor) -> None:
        """Turn a tensor (C, *S) in place; its last axes are these, and keep their sizes."""
        order = [0, *(1 + axis for axis in self.source)]
        # flip copies, but in the order in which things lay: axes change places when it is written.
        turned = tensor.permute(order).flip(
            [1 + axis for axis, flip in enumerate(self.flipped) if flip]
        )
        along = order.index(tensor.ndim - 1)
        if along == tensor.ndim - 1 or tensor.device.type != "cpu":
            tensor.copy_(turned)
            return
        # Plane by plane: on a CPU, torch takes a third of the time for a transposed matrix.
        for to, plane in zip(_planes(tensor, along), _planes(turned, along), strict=True):
            to.copy_(plane)

    def matrix(self, size: Sequence[int]) -> Tensor:
        """The map, float64 (D, D + 1), for samples of a size that it keeps."""
        axes = len(self.source)
        matrix = torch.zeros(axes, axes + 1, dtype=torch.float64)
        for axis, (source, flip) in enumerate(zip(self.source, self.flipped, strict=True)):
            matrix[axis, source] = -1 if flip else 1
            matrix[axis, axes] = size[axis] - 1 if flip else 0
        return matrix


def _planes(tensor: Tensor, axis: int) -> Iterator[Tensor]:
    """The planes of an axis and the last one, as views."""
    ahead = tensor.movedim(axis, -2)
    for place in itertools.product(*(range(n) for n in ahead.shape[:-2])):
        yield ahead[place]
