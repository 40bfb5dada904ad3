"""Keypoints of a batch, and the affine maps that move them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vesselflow.errors import ShapeError

#: Types of devices that have no float64.
NARROW = ("mps",)


def exact_device(device: torch.device) -> torch.device:
    """Where float64 is computed for a device: on it, or on the CPU where it has none."""
    return torch.device("cpu") if device.type in NARROW else device


@dataclass(frozen=True)
class Keypoints:
    """The keypoints of all samples of a batch, one after another; any number of each sample.

    Attributes:
        coordinates: float (K, D), D = 2 or 3: (y, x) or (z, y, x) in full-resolution voxels of the
            patch; the centre of voxel i lies at i. They may lie outside the patch.
        sample: int64 (K,): which sample of the batch, in any order.
        class_index: int64 (K,): which class, from 0.
        covariance: float (K, D, D) in full-resolution voxels squared, symmetric: the shape of each
            Gaussian by itself. None: that of its class.
    """

    coordinates: Tensor
    sample: Tensor
    class_index: Tensor
    covariance: Tensor | None = None

    def __post_init__(self) -> None:
        if self.coordinates.ndim != 2 or self.coordinates.shape[1] not in (2, 3):
            raise ShapeError(
                f"coordinates are (K, 2) or (K, 3), not {tuple(self.coordinates.shape)}"
            )
        count, axes = self.coordinates.shape
        for name, index in (("sample", self.sample), ("class_index", self.class_index)):
            if index.shape != (count,) or index.dtype != torch.int64:
                raise ShapeError(
                    f"{name} is int64 ({count},), not {index.dtype} {tuple(index.shape)}"
                )
        if not self.coordinates.is_floating_point():
            raise ShapeError(f"coordinates are floats, not {self.coordinates.dtype}")
        if self.covariance is not None and self.covariance.shape != (count, axes, axes):
            raise ShapeError(
                f"covariance is ({count}, {axes}, {axes}), not {tuple(self.covariance.shape)}"
            )

    @classmethod
    def of_samples(cls, coordinates: Sequence[Tensor], classes: Sequence[Tensor]) -> Keypoints:
        """The keypoints of a batch out of those of its samples.

        Args:
            coordinates: For each sample, float (k, D); k may be 0.
            classes: For each sample, int (k,).

        Raises:
            ShapeError: There is no sample, or the shapes do not fit each other.
        """
        if not coordinates or [len(each) for each in coordinates] != [len(c) for c in classes]:
            raise ShapeError("each sample of a batch has coordinates, and a class for each of them")
        if len({each.shape[1:] for each in coordinates}) > 1:
            raise ShapeError("not all samples have the same number of axes")
        counts = torch.tensor([len(each) for each in coordinates])
        sample = torch.repeat_interleave(counts).to(coordinates[0].device)
        return cls(torch.cat(list(coordinates)), sample, torch.cat(list(classes)).long())

    def __len__(self) -> int:
        return len(self.coordinates)

    @property
    def axes(self) -> int:
        """How many spatial axes there are."""
        return int(self.coordinates.shape[1])

    def to(self, device: torch.device | str) -> Keypoints:
        """The same keypoints on a device."""
        return Keypoints(
            self.coordinates.to(device),
            self.sample.to(device),
            self.class_index.to(device),
            None if self.covariance is None else self.covariance.to(device),
        )

    def transformed(self, matrix: Tensor) -> Keypoints:
        """The keypoints where an affine map takes them, their covariances, if any, with them.

        Args:
            matrix: As of `transform_keypoints`: one map for all, or one per keypoint
                (``matrices_of_samples[keypoints.sample]``).
        """
        coordinates, covariance = transform_keypoints(self.coordinates, self.covariance, matrix)
        return replace(self, coordinates=coordinates, covariance=covariance)


def transform_keypoints(
    coordinates: Tensor, covariance: Tensor | None, matrix: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Move keypoints by x -> A x + b, and the covariance S of their Gaussians by S -> A S A^T.

    Args:
        coordinates: float (K, D) in voxels, (y, x) or (z, y, x).
        covariance: float (K, D, D) in voxels squared; None leaves the Gaussians as they are, so
            that a target keeps its width when the image is magnified.
        matrix: float (D, D + 1) or (K, D, D + 1): A and, in the last column, b, from where a point
            was to where it is.

    Returns:
        Coordinates and covariance (None for None) in their own types, computed in float64 (see
        `exact_device`).

    Raises:
        ShapeError: The shapes do not fit each other.
    """
    count, axes = coordinates.shape
    if matrix.shape not in ((axes, axes + 1), (count, axes, axes + 1)):
        raise ShapeError(
            f"a map of {count} keypoints is ({axes}, {axes + 1}) or ({count}, {axes}, {axes + 1}), "
            f"not {tuple(matrix.shape)}"
        )
    if covariance is not None and covariance.shape != (count, axes, axes):
        raise ShapeError(f"covariance is ({count}, {axes}, {axes}), not {tuple(covariance.shape)}")
    where = exact_device(coordinates.device)

    def exact(given: Tensor) -> Tensor:
        return given.to(where).double()

    def back(found: Tensor, like: Tensor) -> Tensor:
        return found.to(like.dtype).to(like.device)

    whole = exact(matrix)
    linear, shift = whole[..., :axes], whole[..., axes]
    moved = (linear @ exact(coordinates)[..., None])[..., 0] + shift
    if covariance is None:
        return back(moved, coordinates), None
    spread = linear @ exact(covariance) @ linear.mT
    # Rounding may leave the two halves a last bit apart.
    return back(moved, coordinates), back((spread + spread.mT) / 2, covariance)
