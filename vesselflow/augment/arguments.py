"""Arguments of the augmentations; imports no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator

from vesselflow.config.registry import Arguments

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
#: Smallest and largest value; drawn uniformly in the logarithm, so that x and 1/x are as likely.
Range = Annotated[
    tuple[Annotated[float, Field(gt=0.0)], Annotated[float, Field(gt=0.0)]], Field(strict=False)
]


def _ordered(value: Range) -> Range:
    if value[0] > value[1]:
        raise ValueError("two numbers above 0, the smaller one first")
    return value


class FlipArguments(Arguments):
    """Arguments of `hflip`, `vflip` and `rotate90`.

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

    _scale = field_validator("scale")(_ordered)


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
    brightness: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    contrast: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    saturation: Annotated[float, Field(ge=0.0, le=1.0)] = 0.2
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.02


class GammaArguments(Arguments):
    """Arguments of `gamma`.

    Attributes:
        p: Probability, for each sample by itself.
        gamma: Smallest and largest exponent.
    """

    p: Probability = 0.5
    gamma: Range = (0.8, 1.25)

    _gamma = field_validator("gamma")(_ordered)


class GaussianNoiseArguments(Arguments):
    """Arguments of `gaussian_noise`.

    Attributes:
        p: Probability, for each sample by itself.
        std: Largest standard deviation, in units of the [0, 1] image; drawn from [0, std].
    """

    p: Probability = 0.5
    std: Annotated[float, Field(ge=0.0, le=1.0)] = 0.03
