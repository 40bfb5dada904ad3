"""A random part of the frame, magnified to all of it: image, target and field of view together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import field_validator

from vesselflow.augment.arguments import Probability, Range, Shares, ordered
from vesselflow.augment.draws import Draws, choose, spread_log
from vesselflow.config.registry import Arguments

if TYPE_CHECKING:
    from torch import Tensor

    from vesselflow.augment.chain import Lookup
    from vesselflow.targets.keypoints import Keypoints


class RandomResizedCropArguments(Arguments):
    """Arguments of `random_resized_crop`.

    Attributes:
        p: Probability, for each sample by itself.
        area: Smallest and largest share of the frame's area that is seen.
        ratio: Smallest and largest ratio of width to height, in those of the frame.
    """

    p: Probability = 0.5
    area: Shares = (0.5, 1.0)
    ratio: Range = (0.75, 4 / 3)

    _area = field_validator("area")(ordered)
    _ratio = field_validator("ratio")(ordered)


class RandomResizedCrop:
    """Cut out a box and magnify it to the whole frame, in one warp; all slices of a volume alike.

    Image and target are interpolated linearly (the target becomes soft), the fov takes the nearest
    pixel. The box lies within the frame, so that nothing from beyond it is seen, and begins at any
    fraction of a px. Along its border the px outside it are interpolated with: it is no border of
    the image.

    Args:
        p: Probability per sample.
        area: Share of the frame's area, uniform in the logarithm.
        ratio: Of the box's share of the width to that of the height, uniform in the logarithm. A
            side that would be longer than the frame's is as long (torchvision draws again).

    Reference: Szegedy et al., CVPR 2015, https://arxiv.org/abs/1409.4842, section 6.
    """

    def __init__(self, *, p: float, area: tuple[float, float], ratio: tuple[float, float]) -> None:
        self.p, self.area, self.ratio = p, area, ratio

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        from vesselflow.augment.chain import resample_each

        found = self.lookups(image, draws)
        resample_each(image, target, fov, {index: [own] for index, own in found.items()})

    def lookups(self, image: Tensor, draws: Draws) -> dict[int, Lookup]:
        """See `vesselflow.augment.draws.Resampler`."""
        from vesselflow.augment.affine_maps import of_axes
        from vesselflow.augment.chain import affine_lookup

        chosen, matrices = self._drawn(image.shape[2:], draws)
        return {
            index: affine_lookup(matrix, "reflect")
            for index, matrix in zip(chosen, of_axes(matrices, 2), strict=True)
        }

    def move(self, keypoints: Keypoints, size: Sequence[int], draws: Draws) -> Keypoints:
        """See `vesselflow.augment.draws.Mover`."""
        from vesselflow.augment.affine_maps import of_axes
        from vesselflow.augment.moving import moved

        chosen, matrices = self._drawn(size, draws)
        return moved(keypoints, chosen, of_axes(matrices, len(size)), draws.samples)

    def _drawn(self, size: Sequence[int], draws: Draws) -> tuple[list[int], Tensor]:
        """Chosen samples, and float64 (k, 2, 3): px (x, y) before to px (x, y) after."""
        import torch

        chosen, numbers = choose(draws, self.p, 4)
        area, ratio = spread_log(numbers[:, 0], self.area), spread_log(numbers[:, 1], self.ratio)
        shares = torch.stack([area * ratio, area / ratio], dim=1).sqrt().clamp(max=1.0)
        extent = torch.tensor([size[-1], size[-2]], dtype=numbers.dtype)
        # In edges of px, which lie half a px before their centres.
        first = numbers[:, 2:4] * (1 - shares) * extent
        shift = (0.5 - first) / shares - 0.5
        return chosen, torch.cat([torch.diag_embed(1 / shares), shift[:, :, None]], dim=2)
