"""Augmentations that move pixels: image, target and field of view together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from vesselflow.augment.arguments import Probability, Range, ordered
from vesselflow.augment.draws import Draws, choose, spread, spread_log
from vesselflow.config.registry import Arguments
from vesselflow.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from vesselflow.augment.moving import Turn
    from vesselflow.targets.keypoints import Keypoints


class FlipArguments(Arguments):
    """Arguments of `hflip`, `vflip`, `zflip` and `rotate90`.

    Attributes:
        p: Probability, for each sample by itself.
    """

    p: Probability = 0.5


class AffineArguments(Arguments):
    """Arguments of `affine`; every strength may be 0 (or 1, for the scale) to switch it off.

    Attributes:
        p: Probability, for each sample by itself.
        degrees: Largest rotation either way, in degrees.
        scale: Smallest and largest magnification.
        translate: Largest shift either way, as a fraction of the width and of the height.
        shear_degrees: Largest shear either way along x and along y, in degrees.
    """

    p: Probability = 0.5
    degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 15.0
    scale: Range = (0.9, 1.1)
    translate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    shear_degrees: Annotated[float, Field(ge=0.0, lt=45.0)] = 0.0

    _scale = field_validator("scale")(ordered)


class Mirror:
    """Mirror along one axis; the base of flips.

    Args:
        p: Probability per sample.
    """

    #: Counted from the last.
    axis: int

    def __init__(self, *, p: float) -> None:
        self.p = p

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        chosen, turn = self._drawn(image.ndim - 2, draws)
        for index in chosen:
            for tensor in (image, target, fov):
                tensor[index] = turn.of(tensor[index])

    def move(self, keypoints: Keypoints, size: Sequence[int], draws: Draws) -> Keypoints:
        """See `vesselflow.augment.draws.Mover`."""
        from vesselflow.augment.moving import moved

        chosen, turn = self._drawn(len(size), draws)
        matrix = turn.matrix(size)
        return moved(keypoints, chosen, matrix.expand(len(chosen), -1, -1), draws.samples)

    def _drawn(self, axes: int, draws: Draws) -> tuple[list[int], Turn]:
        from vesselflow.augment.moving import Turn

        return choose(draws, self.p, 0)[0], Turn.mirror(axes, self.axis)


class HorizontalFlip(Mirror):
    """Mirror left and right.

    Args:
        p: Probability per sample.
    """

    axis = -1


class VerticalFlip(Mirror):
    """Mirror up and down.

    Args:
        p: Probability per sample.
    """

    axis = -2


class DepthFlip(Mirror):
    """Mirror the order of a volume's slices.

    Args:
        p: Probability per sample.
    """

    axis = -3

    def _drawn(self, axes: int, draws: Draws) -> tuple[list[int], Turn]:
        if axes != 3:
            raise UserError("images have no slices to mirror", where="augment.zflip")
        return super()._drawn(axes, draws)


class Rotate90:
    """Turn by 90, 180 or 270 degrees in the plane, each as likely.

    Samples that are not square are turned by 180 degrees whenever they are chosen, because a
    quarter turn would change their shape.

    Args:
        p: Probability per sample.
    """

    def __init__(self, *, p: float) -> None:
        self.p = p

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        for index, turn in self._drawn(image.shape[2:], draws).items():
            for tensor in (image, target, fov):
                tensor[index] = turn.of(tensor[index])

    def move(self, keypoints: Keypoints, size: Sequence[int], draws: Draws) -> Keypoints:
        """See `vesselflow.augment.draws.Mover`."""
        import torch

        from vesselflow.augment.moving import moved

        turns = self._drawn(size, draws)
        if not turns:
            return keypoints
        matrices = torch.stack([turn.matrix(size) for turn in turns.values()])
        return moved(keypoints, list(turns), matrices, draws.samples)

    def _drawn(self, size: Sequence[int], draws: Draws) -> dict[int, Turn]:
        from vesselflow.augment.moving import Turn

        chosen, numbers = choose(draws, self.p, 1)
        square = size[-1] == size[-2]
        return {
            index: Turn.quarters(len(size), 1 + int(3 * number) if square else 2)
            for index, number in zip(chosen, numbers[:, 0].tolist(), strict=True)
        }


class Affine:
    """Shear, then rotate and magnify about the centre, then shift, in one warp of the plane.

    All slices of a volume move alike, because they often lie at another distance than pixels do.

    Image and target are interpolated bilinearly (the target becomes soft), the fov takes the
    nearest pixel. Pixels that come from beyond the frame are 0 in all three.

    Args:
        p: Probability per sample.
        degrees: Rotation, uniform in [-degrees, degrees].
        scale: Magnification, uniform in the logarithm.
        translate: Shift, uniform in [-translate, translate] of the width and of the height.
        shear_degrees: Angles of the shear along x and along y, uniform in
            [-shear_degrees, shear_degrees].
    """

    def __init__(
        self,
        *,
        p: float,
        degrees: float,
        scale: tuple[float, float],
        translate: float,
        shear_degrees: float,
    ) -> None:
        self.p, self.degrees, self.scale = p, degrees, scale
        self.translate, self.shear_degrees = translate, shear_degrees

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        chosen, numbers = choose(draws, self.p, 6)
        if not chosen:
            return
        matrices = self._matrices(numbers, *image.shape[-2:]).to(image.device, image.dtype)
        for index, matrix in zip(chosen, matrices, strict=True):
            # One sample at a time: what is between then fits into the cache.
            warped = warp(image[index], target[index], fov[index], matrix)
            image[index], target[index], fov[index] = warped

    def move(self, keypoints: Keypoints, size: Sequence[int], draws: Draws) -> Keypoints:
        """See `vesselflow.augment.draws.Mover`."""
        from vesselflow.augment.moving import moved, of_axes

        chosen, numbers = choose(draws, self.p, 6)
        matrices = of_axes(self._matrices(numbers, *size[-2:]), len(size))
        return moved(keypoints, chosen, matrices, draws.samples)

    def _matrices(self, numbers: Tensor, height: int, width: int) -> Tensor:
        """float64 (k, 2, 3): pixel (x, y) of the sample to pixel (x, y) of the result."""
        import torch
        from kornia.geometry.transform import get_affine_matrix2d

        count = numbers.shape[0]
        size = torch.tensor([width, height], dtype=numbers.dtype)
        shear = torch.deg2rad(spread(numbers[:, 2:4], self.shear_degrees))
        matrices: Tensor = get_affine_matrix2d(
            translations=spread(numbers[:, 4:6], self.translate) * size,
            center=((size - 1) / 2).expand(count, 2),
            scale=spread_log(numbers[:, 1:2], self.scale).expand(count, 2),
            angle=spread(numbers[:, 0], self.degrees),
            sx=shear[:, 0],
            sy=shear[:, 1],
        )
        return matrices[:, :2]


def warp(
    image: Tensor, target: Tensor, fov: Tensor, matrix: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Warp one sample.

    Args:
        image: float (C, H, W) or (C, D, H, W).
        target: float (K, H, W) or (K, D, H, W).
        fov: float (1, H, W) or (1, D, H, W), 0 or 1.
        matrix: float (2, 3): pixel (x, y) of the sample to pixel (x, y) of the result.

    Returns:
        image and target, bilinear, and fov, nearest; all 0 where they come from beyond the frame.
    """
    import torch
    from kornia.geometry.transform import warp_affine

    size = (image.shape[-2], image.shape[-1])
    values = torch.cat([image, target])
    # Zeros as border would darken the pixels along the frame's edge, which stay inside the fov.
    smooth: Tensor = warp_affine(
        values.reshape(1, -1, *size),
        matrix[None],
        size,
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    ).view_as(values)
    valid, frame = (
        warp_affine(
            torch.cat([fov, torch.ones_like(fov)]).reshape(1, -1, *size),
            matrix[None],
            size,
            mode="nearest",
            padding_mode="zeros",
            align_corners=False,
        )
        .view(2, *fov.shape)
        .unbind()
    )
    smooth *= frame
    return smooth[: image.shape[0]], smooth[image.shape[0] :], valid
