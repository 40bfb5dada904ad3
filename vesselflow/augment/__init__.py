"""Augmentations and normalisation, by name.

The order of registration is the order of application: what moves pixels first, then what changes
their values. An augmentation is its class and argument model (in the file of its family, or one of
its own), its line here and its test. The files import torch and kornia inside their functions,
because this one may not import them at all.
"""

from vesselflow.augment.blurring import BlurArguments, SharpenArguments
from vesselflow.augment.channels import ChannelShiftArguments, ChannelShuffleArguments
from vesselflow.augment.clahe import ClaheArguments
from vesselflow.augment.cropping import RandomResizedCropArguments
from vesselflow.augment.dropping import CoarseDropoutArguments, CutoutArguments
from vesselflow.augment.elastic import ElasticArguments
from vesselflow.augment.geometric import AffineArguments, FlipArguments, Rotate90Arguments
from vesselflow.augment.mixing import ManifoldMixupArguments, MixingArguments, MixupArguments
from vesselflow.augment.photometric import (
    ColorJitterArguments,
    GammaArguments,
    GaussianNoiseArguments,
)
from vesselflow.config.registry import Registry

AUGMENTATIONS = Registry("augmentation")
#: What version 2 of parts that resample is.
CHAINED = {2: "with another part that resamples it is one resampling, not two in a row"}

AUGMENTATIONS.add(
    "hflip",
    target="vesselflow.augment.geometric:HorizontalFlip",
    arguments=FlipArguments,
)
AUGMENTATIONS.add(
    "vflip", target="vesselflow.augment.geometric:VerticalFlip", arguments=FlipArguments
)
AUGMENTATIONS.add("zflip", target="vesselflow.augment.geometric:DepthFlip", arguments=FlipArguments)
AUGMENTATIONS.add(
    "rotate90", target="vesselflow.augment.geometric:Rotate90", arguments=Rotate90Arguments
)
# Those that interpolate are one resampling where a sample has several of them (see `chain`).
AUGMENTATIONS.add(
    "affine",
    target="vesselflow.augment.geometric:Affine",
    arguments=AffineArguments,
    beside=2,
    changes=CHAINED,
)
AUGMENTATIONS.add(
    "elastic",
    target="vesselflow.augment.elastic:Elastic",
    arguments=ElasticArguments,
    beside=2,
    changes=CHAINED,
)
# Behind what opens borders: it may cut them off.
AUGMENTATIONS.add(
    "random_resized_crop",
    target="vesselflow.augment.cropping:RandomResizedCrop",
    arguments=RandomResizedCropArguments,
    beside=2,
    changes=CHAINED,
)
AUGMENTATIONS.add(
    "color_jitter",
    target="vesselflow.augment.photometric:ColorJitter",
    arguments=ColorJitterArguments,
)
AUGMENTATIONS.add("gamma", target="vesselflow.augment.photometric:Gamma", arguments=GammaArguments)
AUGMENTATIONS.add(
    "channel_shift",
    target="vesselflow.augment.channels:ChannelShift",
    arguments=ChannelShiftArguments,
)
AUGMENTATIONS.add(
    "channel_shuffle",
    target="vesselflow.augment.channels:ChannelShuffle",
    arguments=ChannelShuffleArguments,
)
AUGMENTATIONS.add("clahe", target="vesselflow.augment.clahe:Clahe", arguments=ClaheArguments)
AUGMENTATIONS.add("blur", target="vesselflow.augment.blurring:Blur", arguments=BlurArguments)
AUGMENTATIONS.add(
    "sharpen", target="vesselflow.augment.blurring:Sharpen", arguments=SharpenArguments
)
# After blur, as a sensor's noise comes after its lens.
AUGMENTATIONS.add(
    "gaussian_noise",
    target="vesselflow.augment.photometric:GaussianNoise",
    arguments=GaussianNoiseArguments,
)
AUGMENTATIONS.add(
    "coarse_dropout",
    target="vesselflow.augment.dropping:CoarseDropout",
    arguments=CoarseDropoutArguments,
)
AUGMENTATIONS.add("cutout", target="vesselflow.augment.dropping:Cutout", arguments=CutoutArguments)
# These mix samples of a micro-batch, after all else and after normalisation.
AUGMENTATIONS.add("mixup", target="vesselflow.augment.mixing:Mixup", arguments=MixupArguments)
AUGMENTATIONS.add("cutmix", target="vesselflow.augment.mixing:CutMix", arguments=MixingArguments)
AUGMENTATIONS.add(
    "cutmixup", target="vesselflow.augment.mixing:CutMixup", arguments=MixingArguments
)
AUGMENTATIONS.add(
    "manifold_mixup",
    target="vesselflow.augment.mixing:ManifoldMixup",
    arguments=ManifoldMixupArguments,
)
