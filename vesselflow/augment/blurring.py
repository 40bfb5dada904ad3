"""Blur and sharpen inside the field of view; target and fov stay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import field_validator

from vesselflow.augment.arguments import Probability, Range, ordered
from vesselflow.augment.draws import Draws, choose, spread_log
from vesselflow.augment.inside import add_clamped, change_inside, is_full, write_inside
from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Positive, ScalarSchedule
from vesselflow.config.scalars import Range as Limits

if TYPE_CHECKING:
    from torch import Tensor

#: Standard deviations at which kernels end, as those of scipy and scikit-image do.
TRUNCATE = 4.0
#: Values of planes that are smoothed at a time.
CACHED = 2**18
#: Shapes of a kernel along each of two axes.
DOWN, ACROSS = (1, 1, -1, 1), (1, 1, 1, -1)


class BlurArguments(Arguments):
    """Arguments of `blur`.

    Attributes:
        p: Probability, for each sample by itself.
        sigma_px: Smallest and largest standard deviation of the Gaussian.
    """

    p: Probability = 0.5
    sigma_px: Range = (0.5, 1.5)

    _sigma = field_validator("sigma_px")(ordered)


class SharpenArguments(Arguments):
    """Arguments of `sharpen`.

    Attributes:
        p: Probability, for each sample by itself.
        amount: Largest factor on the detail that is added; drawn from [0, amount].
        sigma_px: Standard deviation of the Gaussian that detail is finer than.
    """

    p: Probability = 0.5
    amount: Annotated[float | ScalarSchedule, Limits(0.0)] = 1.0
    sigma_px: Positive = 1.0


class Blur:
    """Gaussian blur, of volumes in the plane of each slice.

    What lies outside the field of view, or beyond the frame, does not bleed in (see `blurred`).

    Args:
        p: Probability per sample.
        sigma_px: Smallest and largest standard deviation, uniform in the logarithm.
    """

    def __init__(self, *, p: float, sigma_px: tuple[float, float]) -> None:
        self.p, self.sigma_px = p, sigma_px

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        chosen, numbers = choose(draws, self.p, 1)
        sigmas = spread_log(numbers[:, 0], self.sigma_px).tolist()
        for index, sigma in zip(chosen, sigmas, strict=True):
            write_inside(image, index, fov, blurred(image[index], fov[index], sigma))


class Sharpen:
    """Unsharp mask: ``x + a (x - blurred x)``, clamped to [0, 1]; of volumes in each slice.

    Args:
        p: Probability per sample.
        amount: a is uniform in [0, amount].
        sigma_px: Standard deviation of the blur, which knows the field of view (see `blurred`).
    """

    def __init__(self, *, p: float, amount: float, sigma_px: float) -> None:
        self.p, self.amount, self.sigma_px = p, amount, sigma_px

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        import torch

        chosen, numbers = choose(draws, self.p, 1)
        for index, amount in zip(chosen, (numbers[:, 0] * self.amount).tolist(), strict=True):
            smooth = blurred(image[index], fov[index], self.sigma_px)
            detail = torch.sub(image[index], smooth, out=smooth).mul_(amount)
            change_inside(image, index, fov, partial(add_clamped, more=detail))


def blurred(image: Tensor, fov: Tensor, sigma: float) -> Tensor:
    """Gaussian mean over the field of view: G * (x m) / (G * m), with m 1 inside and 0 outside.

    Weights are those of a Gaussian sampled at whole px, up to `TRUNCATE` standard deviations.

    Args:
        image: float (C, H, W) or (C, D, H, W), blurred along the last two axes.
        fov: float (1, H, W) or (1, D, H, W), 0 or 1.
        sigma: In px, above 0.

    Returns:
        Like the image; 0 where nothing of the fov is within reach.
    """
    import torch

    radius = int(TRUNCATE * sigma + 0.5)
    line = torch.arange(radius + 1, dtype=torch.float64)
    half = torch.exp(-0.5 * (line / sigma) ** 2)
    half /= half[0] + 2 * half[1:].sum()
    smooth = by_shifts if image.device.type == "cpu" else by_convolution
    if is_full(fov):
        # The mean of the fov itself is a product of one along each axis: 1 but near the frame.
        down, across = (
            _sums(torch.ones(n, dtype=image.dtype), 0, half.tolist()) for n in image.shape[-2:]
        )
        return smooth(image, half).div_(down[:, None] * across)
    inside = fov.bool()
    # Chosen rather than multiplied: outside there may be what is no number.
    kept = torch.where(inside, image, torch.zeros((), dtype=image.dtype, device=image.device))
    weight = smooth(inside.to(image.dtype), half).clamp_(min=torch.finfo(image.dtype).tiny)
    return smooth(kept, half).div_(weight)


def by_convolution(values: Tensor, half: Tensor) -> Tensor:
    """Weighted sums of neighbours along both of the last axes; beyond the frame is 0.

    Args:
        values: float (..., H, W).
        half: float64 (1 + radius,): weights of the px itself and of those on either side of it.

    Returns:
        Like the values.
    """
    import torch
    from torch.nn import functional

    radius = len(half) - 1
    kernel = torch.cat([half[1:].flip(0), half]).to(values.device, values.dtype)
    # As channels of one image: torch's path for these takes a third of that for a batch.
    planes = values.reshape(1, -1, *values.shape[-2:])
    n = planes.shape[1]
    down, across = (kernel.view(shape).expand(n, -1, -1, -1) for shape in (DOWN, ACROSS))
    planes = functional.conv2d(planes, down, padding=(radius, 0), groups=n)
    planes = functional.conv2d(planes, across, padding=(0, radius), groups=n)
    return planes.view_as(values)


def by_shifts(values: Tensor, half: Tensor) -> Tensor:
    """What `by_convolution` gives, by sums of shifted planes: on a CPU in a tenth of its time."""
    import torch

    planes, weights = values.reshape(-1, *values.shape[-2:]), half.tolist()
    # So many at a time as fit into a cache.
    some = planes.split(max(1, CACHED // max(1, planes[0].numel())))
    return torch.cat([_sums(_sums(few, 1, weights), 2, weights) for few in some]).view_as(values)


def _sums(values: Tensor, axis: int, half: Sequence[float]) -> Tensor:
    """Weighted sums of neighbours along one axis."""
    found, n = values * half[0], values.shape[axis]
    for away, weight in enumerate(half[1:n], start=1):
        for here, there in ((0, away), (away, 0)):
            near = values.narrow(axis, there, n - away)
            found.narrow(axis, here, n - away).add_(near, alpha=weight)
    return found
