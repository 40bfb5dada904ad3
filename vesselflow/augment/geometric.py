"""Augmentations that move pixels: image, target and field of view together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import field_validator

from vesselflow.augment.arguments import Axes, Border, Probability, Range, ordered
from vesselflow.augment.draws import Draws, choose, spread, spread_log
from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Range as Limits
from vesselflow.config.scalars import ScalarSchedule, Share
from vesselflow.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from vesselflow.augment.chain import Lookup
    from vesselflow.augment.moving import Turn
    from vesselflow.targets.keypoints import Keypoints


class FlipArguments(Arguments):
    """Arguments of `hflip`, `vflip` and `zflip`.

    Attributes:
        p: Probability, for each sample by itself.
    """

    p: Probability = 0.5


class Rotate90Arguments(Arguments):
    """Arguments of `rotate90`.

    Attributes:
        p: Probability, for each sample by itself.
        axes: `plane`, or `all` for every turn of a volume onto itself, z into x and y included:
            for volumes with the same spacing along all axes.
    """

    p: Probability = 0.5
    axes: Axes = "plane"


class AffineArguments(Arguments):
    """Arguments of `affine`; every strength may be 0 (or 1, for the scale) to switch it off.

    Attributes:
        p: Probability, for each sample by itself.
        degrees: Largest rotation either way, in degrees.
        scale: Smallest and largest magnification.
        translate: Largest shift either way, as a fraction of the width and of the height.
        shear_degrees: Largest shear either way along x and along y, in degrees.
        axes: `plane`, or `all` to move volumes about and along all three axes: for volumes with the
            same spacing along all axes.
        border: What comes in from beyond the frame: `outside`, nothing, outside the field of view,
            or `reflect`, the mirror image, with its keypoints.
    """

    p: Probability = 0.5
    degrees: Annotated[float | ScalarSchedule, Limits(0.0, 180.0)] = 15.0
    scale: Range = (0.9, 1.1)
    translate: Share = 0.05
    shear_degrees: Annotated[float | ScalarSchedule, Limits(0.0, 45.0, open_high=True)] = 0.0
    axes: Axes = "plane"
    border: Border = "outside"

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
                turn.turn(tensor[index])

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
        axes: `all` draws one of all the rotations of a volume onto itself, each as likely: 23 of a
            cube, 7 where two sizes are equal, 3 where none are. Of images these are the turns in
            the plane.
    """

    def __init__(self, *, p: float, axes: Axes) -> None:
        self.p, self.axes = p, axes

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        for index, turn in self._drawn(image.shape[2:], draws).items():
            for tensor in (image, target, fov):
                turn.turn(tensor[index])

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
        if self.axes == "all" and len(size) == 3:
            turns = Turn.all_of(size)
            drawn = numbers[:, 0].tolist()
            return {
                index: turns[int(len(turns) * number)]
                for index, number in zip(chosen, drawn, strict=True)
            }
        square = size[-1] == size[-2]
        return {
            index: Turn.quarters(len(size), 1 + int(3 * number) if square else 2)
            for index, number in zip(chosen, numbers[:, 0].tolist(), strict=True)
        }


class Affine:
    """Shear, then rotate and magnify about the centre, then shift, in one warp.

    By default all slices of a volume move alike, because they often lie at another distance than
    pixels do.

    Image and target are interpolated linearly (the target becomes soft), the fov takes the nearest
    pixel. Pixels that come from beyond the frame are 0 in all three, or mirrored.

    Args:
        p: Probability per sample.
        degrees: Rotation, uniform in [-degrees, degrees]; of all axes of a volume, about x, then y,
            then z, each by its own angle.
        scale: Magnification, uniform in the logarithm, the same along all axes that move.
        translate: Shift, uniform in [-translate, translate] of the width and of the height (and of
            the depth).
        shear_degrees: Angles of the shear along x and along y, uniform in
            [-shear_degrees, shear_degrees]; of all axes of a volume, of the six that there are.
        axes: `plane`, or `all` of a volume.
        border: What comes in from beyond the frame.
    """

    def __init__(
        self,
        *,
        p: float,
        degrees: float,
        scale: tuple[float, float],
        translate: float,
        shear_degrees: float,
        axes: Axes,
        border: Border,
    ) -> None:
        self.p, self.degrees, self.scale = p, degrees, scale
        self.translate, self.shear_degrees = translate, shear_degrees
        self.axes, self.border = axes, border

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        from vesselflow.augment.chain import resample_each

        found = self.lookups(image, draws)
        resample_each(image, target, fov, {index: [own] for index, own in found.items()})

    def lookups(self, image: Tensor, draws: Draws) -> dict[int, Lookup]:
        """See `vesselflow.augment.draws.Resampler`."""
        from vesselflow.augment.affine_maps import of_axes
        from vesselflow.augment.chain import affine_lookup

        size = image.shape[2:]
        chosen, numbers = self._drawn(size, draws)
        if self._solid(size):
            matrices = self._of_volumes(numbers, size)
        else:
            matrices = of_axes(self._of_planes(numbers, size), 2)
        return {
            index: affine_lookup(matrix, self.border)
            for index, matrix in zip(chosen, matrices, strict=True)
        }

    def move(self, keypoints: Keypoints, size: Sequence[int], draws: Draws) -> Keypoints:
        """See `vesselflow.augment.draws.Mover`."""
        from vesselflow.augment.affine_maps import of_axes, seen_through
        from vesselflow.augment.mirrors import move_reflected
        from vesselflow.augment.moving import moved

        chosen, numbers = self._drawn(size, draws)
        if self._solid(size):
            matrices = self._of_volumes(numbers, size)
        else:
            matrices = of_axes(self._of_planes(numbers, size), len(size))

        def gone(points: Keypoints) -> Keypoints:
            return moved(points, chosen, matrices, draws.samples)

        if self.border == "outside":
            return gone(keypoints)
        shown = seen_through(matrices, size)
        return move_reflected(keypoints, size, chosen, shown, draws.samples, gone)

    def _solid(self, size: Sequence[int]) -> bool:
        return self.axes == "all" and len(size) == 3

    def _drawn(self, size: Sequence[int], draws: Draws) -> tuple[list[int], Tensor]:
        return choose(draws, self.p, 13 if self._solid(size) else 6)

    def _of_planes(self, numbers: Tensor, size: Sequence[int]) -> Tensor:
        """float64 (k, 2, 3): pixel (x, y) of the sample to pixel (x, y) of the result."""
        import torch
        from kornia.geometry.transform import get_affine_matrix2d

        count = numbers.shape[0]
        extent = torch.tensor([size[-1], size[-2]], dtype=numbers.dtype)
        shear = torch.deg2rad(spread(numbers[:, 2:4], self.shear_degrees))
        matrices: Tensor = get_affine_matrix2d(
            translations=spread(numbers[:, 4:6], self.translate) * extent,
            center=((extent - 1) / 2).expand(count, 2),
            scale=spread_log(numbers[:, 1:2], self.scale).expand(count, 2),
            angle=spread(numbers[:, 0], self.degrees),
            sx=shear[:, 0],
            sy=shear[:, 1],
        )
        return matrices[:, :2]

    def _of_volumes(self, numbers: Tensor, size: Sequence[int]) -> Tensor:
        """float64 (k, 3, 4): voxel (z, y, x) of the sample to voxel (z, y, x) of the result."""
        import torch

        from vesselflow.augment.affine_maps import about_centre, rotation, shearing

        linear = (
            spread_log(numbers[:, 3], self.scale)[:, None, None]
            * rotation(torch.deg2rad(spread(numbers[:, :3], self.degrees)))
            @ shearing(torch.deg2rad(spread(numbers[:, 4:10], self.shear_degrees)))
        )
        extent = torch.tensor(size, dtype=numbers.dtype)
        return about_centre(linear, size, spread(numbers[:, 10:13], self.translate) * extent)
