"""Elastic deformation: image, target and field of view together, and keypoints by its inverse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from vesselflow.augment.arguments import Axes, Border, Probability
from vesselflow.augment.draws import Draws, choose
from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Range as Limits
from vesselflow.config.scalars import ScalarSchedule

if TYPE_CHECKING:
    from torch import Tensor

    from vesselflow.augment.chain import Lookup
    from vesselflow.augment.displacements import Displacement
    from vesselflow.targets.keypoints import Keypoints


class ElasticArguments(Arguments):
    """Arguments of `elastic`.

    Attributes:
        p: Probability, for each sample by itself.
        std_px: Largest root mean square of the displacement along each axis; drawn from
            [0, std_px]. A displacement that would fold is made smaller.
        spacing_px: Between the control points of the displacement. A `std_px` above a fifteenth of
            it is not always reached in volumes, nor above a tenth in images.
        axes: `plane`, which displaces all slices of a volume alike, or `all` for volumes with the
            same spacing along all axes.
        border: What comes in from beyond the frame: `outside`, nothing, outside the field of view,
            or `reflect`, the mirror image, with its keypoints.
    """

    p: Probability = 0.5
    std_px: Annotated[float | ScalarSchedule, Limits(0.0)] = 2.0
    spacing_px: Annotated[float, Field(ge=4.0)] = 32.0
    axes: Axes = "plane"
    border: Border = "outside"


class Elastic:
    """Displace smoothly: a cubic B-spline over a coarse grid of normal draws.

    Image and target are interpolated linearly (the target becomes soft), the fov takes the nearest
    pixel. Keypoints move by the exact inverse. For that the displacement must not fold: one that
    is steeper anywhere than `displacements.STEEPEST` is made smaller as a whole.

    Args:
        p: Probability per sample.
        std_px: The root mean square along each axis is uniform in [0, std_px].
        spacing_px: Between control points.
        axes: `plane`, or `all` of a volume.
        border: What comes in from beyond the frame.

    Reference: Rueckert et al., IEEE Trans. Med. Imaging 18(8), 1999 (free-form deformations);
    Ronneberger et al., U-Net, MICCAI 2015 (their use in augmentation).
    """

    def __init__(
        self, *, p: float, std_px: float, spacing_px: float, axes: Axes, border: Border
    ) -> None:
        self.p, self.std_px, self.spacing_px = p, std_px, spacing_px
        self.axes, self.border = axes, border

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        from vesselflow.augment.chain import displaced_lookup, resample_each

        fields = self._drawn(image.shape[2:], draws)
        # Of one sample at a time: fields are as large as images.
        for index, field in fields.items():
            own = displaced_lookup(field.dense(image.device, image.dtype), self.border)
            resample_each(image, target, fov, {index: [own]})

    def lookups(self, image: Tensor, draws: Draws) -> dict[int, Lookup]:
        """See `vesselflow.augment.draws.Resampler`."""
        from vesselflow.augment.chain import displaced_lookup

        return {
            index: displaced_lookup(field.dense(image.device, image.dtype), self.border)
            for index, field in self._drawn(image.shape[2:], draws).items()
        }

    def move(self, keypoints: Keypoints, size: Sequence[int], draws: Draws) -> Keypoints:
        """See `vesselflow.augment.draws.Mover`."""
        import torch

        from vesselflow.augment.displacements import displaced
        from vesselflow.augment.mirrors import move_reflected

        if not len(keypoints):
            return keypoints
        fields = self._drawn(size, draws)
        if self.border == "outside" or not fields:
            return displaced(keypoints, fields)
        shown = torch.zeros(len(fields), 2, len(size), dtype=torch.float64)
        shown[:, 1] = torch.tensor(size) - 1
        for row, field in enumerate(fields.values()):
            shown[row, :, -len(field.size) :] += field.bounds()
        return move_reflected(
            keypoints,
            size,
            list(fields),
            shown,
            draws.samples,
            lambda points: displaced(points, fields),
        )

    def _drawn(self, size: Sequence[int], draws: Draws) -> dict[int, Displacement]:
        from vesselflow.augment.displacements import Displacement

        chosen, numbers = choose(draws, self.p, 1)
        moving = size if self.axes == "all" else size[-2:]
        return {
            index: Displacement.drawn(
                draws.stream(index, "field"), moving, self.spacing_px, number * self.std_px
            )
            for index, number in zip(chosen, numbers[:, 0].tolist(), strict=True)
        }
