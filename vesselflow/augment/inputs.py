"""From stored bytes to what a model sees; the one path that training and inference share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vesselflow.augment.normalise import normalise, patch_statistics
from vesselflow.config.experiment import Normalise

#: Largest standard deviation of float images on the scale on which their values are augmented:
#: five of them either way fill it.
DEVIATION = 0.1
#: Centre and scale (C,) over the sources of the training part.
DatasetStatistics = tuple[np.ndarray, np.ndarray]


def unit(array: np.ndarray, device: torch.device) -> Tensor:
    """To float32 on the device: integers from 0..largest of their type to 0..1, floats as are."""
    values = torch.from_numpy(np.array(array)).to(device)
    if np.issubdtype(array.dtype, np.integer):
        return values.float().div_(float(np.iinfo(array.dtype).max))
    return values.float()


@dataclass(frozen=True)
class Grades:
    """The scale on which augmentations change the values of a batch of floats.

    Floats have no largest value, so that what is said in units of the [0, 1] image (noise,
    brightness, contrast, clamps) is meant on a scale on which each channel of each sample has the
    mean 1/2 inside its fov, and the standard deviation `DEVIATION`, or less where values lie
    farther out than would then fit into [0, 1]: no clamp cuts off what is there.

    Attributes:
        centre: float32 (N, C, 1, ...), mean of each channel.
        width: float32 (N, C, 1, ...): how much of its values is 1 on that scale.
    """

    centre: Tensor
    width: Tensor

    @classmethod
    def of(cls, image: Tensor, fov: Tensor) -> Grades:
        """The scale of a batch.

        Args:
            image: float32 (N, C, *S), of any range.
            fov: float32 (N, 1, *S), 0 or 1.
        """
        centre, scale = patch_statistics(image, fov)
        shape = (*image.shape[:2], *[1] * (image.ndim - 2))
        centre = centre.reshape(shape)
        away = torch.where((fov > 0) & torch.isfinite(image), (image - centre).abs(), 0.0)
        farthest = away.flatten(2).amax(dim=2).reshape(shape)
        return cls(centre, torch.maximum(scale.reshape(shape) / DEVIATION, 2 * farthest))

    def to_unit(self, image: Tensor) -> Tensor:
        """The image on that scale."""
        return (image - self.centre) / self.width + 0.5

    def back(self, image: Tensor) -> Tensor:
        """What came of it, in the image's own values."""
        return (image - 0.5) * self.width + self.centre


def channels_last(axes: int) -> torch.memory_format:
    """The memory layout in which channels are neighbours, of images (2 axes) or volumes (3)."""
    return torch.channels_last if axes == 2 else torch.channels_last_3d


def normalise_by(
    settings: Normalise,
    image: Tensor,
    fov: Tensor,
    centre: np.ndarray,
    scale: np.ndarray,
    dataset_statistics: DatasetStatistics | None,
) -> Tensor:
    """Normalise a batch by the configured scope.

    Args:
        settings: The `normalise` section.
        image: float32 (N, C, *S) in [0, 1].
        fov: float32 (N, 1, *S), 0 or 1.
        centre: float32 (N, C): of each sample's source, in units of the [0, 1] image.
        scale: float32 (N, C): likewise.
        dataset_statistics: Needed for the scope `dataset`, unused elsewhere.

    Returns:
        float32 (N, C, *S), 0 outside the fov.
    """
    shape = (image.shape[0], image.shape[1])
    if settings.scope == "patch":
        where, width = patch_statistics(
            image, fov, method=settings.method, per_channel=settings.per_channel
        )
        return normalise(image, fov, centre=where, scale=width)
    if settings.scope == "none":
        centre, scale = np.zeros(shape), np.ones(shape)
    elif settings.scope == "dataset":
        if dataset_statistics is None:
            raise ValueError("normalise.scope 'dataset' needs the statistics of the training part")
        centre, scale = (np.broadcast_to(part, shape) for part in dataset_statistics)
    return normalise(
        image,
        fov,
        centre=torch.from_numpy(np.array(centre, dtype=np.float32)).to(image.device),
        scale=torch.from_numpy(np.array(scale, dtype=np.float32)).to(image.device),
    )
