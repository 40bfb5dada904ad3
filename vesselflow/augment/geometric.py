"""Augmentations that move pixels: image, target and field of view together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from vesselflow.augment.arguments import Probability, Range, ordered
from vesselflow.augment.draws import Draws, choose, spread, spread_log
from vesselflow.config.registry import Arguments
from vesselflow.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


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


class HorizontalFlip:
    """Mirror left and right.

    Args:
        p: Probability per sample.
    """

    def __init__(self, *, p: float) -> None:
        self.p = p

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        _flip(image, target, fov, choose(draws, self.p, 0)[0], axis=-1)


class VerticalFlip:
    """Mirror up and down.

    Args:
        p: Probability per sample.
    """

    def __init__(self, *, p: float) -> None:
        self.p = p

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        _flip(image, target, fov, choose(draws, self.p, 0)[0], axis=-2)


class DepthFlip:
    """Mirror the order of a volume's slices.

    Args:
        p: Probability per sample.
    """

    def __init__(self, *, p: float) -> None:
        self.p = p

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`.

        Raises:
            UserError: These are images.
        """
        if image.ndim != 5:
            raise UserError("images have no slices to mirror", where="augment.zflip")
        _flip(image, target, fov, choose(draws, self.p, 0)[0], axis=-3)


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
        import torch

        chosen, numbers = choose(draws, self.p, 1)
        square = image.shape[-1] == image.shape[-2]
        for index, number in zip(chosen, numbers[:, 0].tolist(), strict=True):
            quarters = 1 + int(3 * number) if square else 2
            for tensor in (image, target, fov):
                tensor[index] = torch.rot90(tensor[index], quarters, (-2, -1))


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


def _flip(image: Tensor, target: Tensor, fov: Tensor, chosen: list[int], *, axis: int) -> None:
    for index in chosen:
        for tensor in (image, target, fov):
            tensor[index] = tensor[index].flip(axis)
