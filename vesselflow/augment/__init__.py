"""Augmentations and normalisation, by name.

The order of registration is the order of application: what moves pixels first, then what changes
their values. This module imports no torch.
"""

from vesselflow.augment import arguments as _arguments
from vesselflow.config.registry import Registry

AUGMENTATIONS = Registry("augmentation")

AUGMENTATIONS.add(
    "hflip",
    target="vesselflow.augment.geometric:HorizontalFlip",
    arguments=_arguments.FlipArguments,
)
AUGMENTATIONS.add(
    "vflip", target="vesselflow.augment.geometric:VerticalFlip", arguments=_arguments.FlipArguments
)
AUGMENTATIONS.add(
    "rotate90", target="vesselflow.augment.geometric:Rotate90", arguments=_arguments.FlipArguments
)
AUGMENTATIONS.add(
    "affine", target="vesselflow.augment.geometric:Affine", arguments=_arguments.AffineArguments
)
AUGMENTATIONS.add(
    "color_jitter",
    target="vesselflow.augment.photometric:ColorJitter",
    arguments=_arguments.ColorJitterArguments,
)
AUGMENTATIONS.add(
    "gamma", target="vesselflow.augment.photometric:Gamma", arguments=_arguments.GammaArguments
)
AUGMENTATIONS.add(
    "gaussian_noise",
    target="vesselflow.augment.photometric:GaussianNoise",
    arguments=_arguments.GaussianNoiseArguments,
)
