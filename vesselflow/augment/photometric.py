"""Augmentations that change values inside the field of view; target and fov stay."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Annotated

from pydantic import field_validator

from vesselflow.augment.arguments import Probability, Range, ordered
from vesselflow.augment.draws import Draws, choose, spread, spread_log
from vesselflow.augment.inside import add_clamped, change_inside, mean_inside, write_inside
from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Range as Limits
from vesselflow.config.scalars import ScalarSchedule, Share
from vesselflow.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

#: RGB to YIQ (FCC 1953, NTSC): luma, and two axes of colour in which hue is an angle.
YIQ = (
    (0.299, 0.587, 0.114),
    (0.595716, -0.274453, -0.321263),
    (0.211456, -0.522591, 0.311135),
)


class ColorJitterArguments(Arguments):
    """Arguments of `color_jitter`.

    Attributes:
        p: Probability, for each sample by itself.
        brightness: Factor on the image in [1 - brightness, 1 + brightness].
        contrast: Factor in [1 - contrast, 1 + contrast] on the distance from the mean grey of the
            field of view.
        saturation: Factor in [1 - saturation, 1 + saturation] on the distance from grey.
        hue: Largest turn of the hue either way, as a fraction of the whole circle.
    """

    p: Probability = 0.5
    brightness: Share = 0.2
    contrast: Share = 0.2
    saturation: Share = 0.2
    hue: Annotated[float | ScalarSchedule, Limits(0.0, 0.5)] = 0.02


class GammaArguments(Arguments):
    """Arguments of `gamma`.

    Attributes:
        p: Probability, for each sample by itself.
        gamma: Smallest and largest exponent.
    """

    p: Probability = 0.5
    gamma: Range = (0.8, 1.25)

    _gamma = field_validator("gamma")(ordered)


class GaussianNoiseArguments(Arguments):
    """Arguments of `gaussian_noise`.

    Attributes:
        p: Probability, for each sample by itself.
        std: Largest standard deviation, in units of the [0, 1] image; drawn from [0, std].
        per_channel: Noise of its own for each channel, as of a sensor's colours; false adds the
            same to all.
    """

    p: Probability = 0.5
    std: Share = 0.03
    per_channel: bool = True


class ColorJitter:
    """Brightness, contrast, saturation and hue, as one matrix per sample.

    Saturation s and hue h scale and turn the colour plane of YIQ, which is linear in RGB; contrast
    c moves values from the mean grey m of the fov, and brightness b multiplies. So the whole is
    ``b (c M(s, h) x + (1 - c) m)``, one pass over the pixels, clamped to [0, 1] at the end. The
    usual turn of hue in HSV needs maxima and branches for each pixel; it was measured to be slower
    by more than an order of magnitude, and for small angles is as good a model of a camera.

    Args:
        p: Probability per sample.
        brightness: b is uniform in [1 - brightness, 1 + brightness].
        contrast: c is uniform in [1 - contrast, 1 + contrast].
        saturation: s is uniform in [1 - saturation, 1 + saturation].
        hue: h is uniform in [-hue, hue], in whole turns.
    """

    def __init__(
        self, *, p: float, brightness: float, contrast: float, saturation: float, hue: float
    ) -> None:
        self.p, self.brightness, self.contrast = p, brightness, contrast
        self.saturation, self.hue = saturation, hue

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`.

        Raises:
            UserError: Saturation or hue is asked for and the images have not 3 channels.
        """
        import torch

        channels = image.shape[1]
        if channels != 3 and (self.saturation or self.hue):
            raise UserError(
                f"saturation and hue need images with 3 channels, these have {channels}",
                where="augment.color_jitter",
                hint="set saturation and hue to 0",
            )
        chosen, numbers = choose(draws, self.p, 4)
        for index, row in zip(chosen, numbers, strict=True):
            brightness, contrast, saturation = (
                1.0 + float(spread(row[position], most))
                for position, most in enumerate((self.brightness, self.contrast, self.saturation))
            )
            hue = float(spread(row[3], self.hue))
            if channels == 3:
                matrix, grey = colour_matrix(saturation, hue), torch.tensor(YIQ[0])
            else:
                matrix, grey = torch.eye(channels), torch.full((channels,), 1 / channels)
            mean = mean_inside(image[index], fov[index])
            centre = grey.to(mean) @ mean
            scaled = (brightness * contrast) * matrix.to(mean)
            offset = (brightness * (1.0 - contrast)) * centre
            found = torch.addmm(offset.view(1, 1), scaled, image[index].flatten(1))
            write_inside(image, index, fov, found.clamp_(0, 1))


class Gamma:
    """``x ** gamma``.

    Args:
        p: Probability per sample.
        gamma: Smallest and largest exponent, uniform in the logarithm.
    """

    def __init__(self, *, p: float, gamma: tuple[float, float]) -> None:
        self.p, self.gamma = p, gamma

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        chosen, numbers = choose(draws, self.p, 1)
        exponents = spread_log(numbers[:, 0], self.gamma).tolist()
        for index, exponent in zip(chosen, exponents, strict=True):
            # Half the time of pow, and as near: no more than 2e-7 off.
            change_inside(image, index, fov, partial(_power, exponent=exponent))


class GaussianNoise:
    """Independent normal noise on each value, clamped to [0, 1].

    Args:
        p: Probability per sample.
        std: The standard deviation is uniform in [0, std].
        per_channel: Independent in each channel; else the same in all.
    """

    def __init__(self, *, p: float, std: float, per_channel: bool) -> None:
        self.p, self.std, self.per_channel = p, std, per_channel

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        import torch

        chosen, numbers = choose(draws, self.p, 1)
        for index, std in zip(chosen, (numbers[:, 0] * self.std).tolist(), strict=True):
            # On the CPU whatever the device, so that a run does not depend on it.
            shape = image[index].shape if self.per_channel else (1, *image.shape[2:])
            noise = torch.randn(shape, generator=draws.stream(index, "field"))
            noise = noise.to(image.device, image.dtype).mul_(std)
            change_inside(image, index, fov, partial(add_clamped, more=noise))


def colour_matrix(saturation: float, hue: float) -> Tensor:
    """RGB to RGB: scale the colour plane of YIQ by `saturation` and turn it by `hue` turns.

    Greys are kept; luma is kept.

    Returns:
        float32 (3, 3), computed in float64.
    """
    import torch

    to_yiq = torch.tensor(YIQ, dtype=torch.float64)
    angle = 2 * math.pi * hue
    cos, sin = saturation * math.cos(angle), saturation * math.sin(angle)
    turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]], dtype=torch.float64)
    return (torch.linalg.inv(to_yiq) @ turn @ to_yiq).float()


def _power(values: Tensor, exponent: float) -> None:
    values.clamp_(0, 1).log2_().mul_(exponent).exp2_()
